"""Select the tests of a run, and report at its end which ones were left out.

``needs(part)`` marks tests that need a part of ``tools.parts``, ``long`` those that take long, and ``alone`` those that
also need the whole machine; ``make test`` runs none of them. ``long_in("proxied")`` marks as long the cases of a test
with that word in their names, where one case shows most of what all show. Tests whose part is missing are skipped, with
the reason. Where CI is set, only those in ``may_be_left_out.txt`` may be.
"""

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from support import slow_disk
from tools import parts

LIST = Path(__file__).parent.parent / "may_be_left_out.txt"

SLOW_DISK = "a slow disk"
"""A part that is not fetched: it depends on the kernel, and on the user's permissions."""

_SECONDS_PER_MINUTE = 60


def why_missing(part: str) -> str | None:
    """Why this machine lacks ``part``; None if it has it. An unknown part is an error of the test."""
    if part == SLOW_DISK:
        return slow_disk.why_missing()
    if part not in parts.PARTS:
        raise pytest.UsageError(f"no part {part!r}; there are {', '.join(parts.PARTS)}, {SLOW_DISK}")
    return parts.why_missing(part)


class Tiers:
    """A pytest plugin, in each process of a run."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._deselected: dict[str, int] = {}
        self._missing: dict[str, str] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Mark the cases that ``long_in`` names."""
        if any(word in item.name for mark in item.iter_markers("long_in") for word in mark.args):
            item.add_marker(pytest.mark.long)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Skip the tests that cannot run here."""
        for item in items:
            for part in _needed(item):
                if part not in self._missing:
                    self._missing[part] = why_missing(part) or ""
                if self._missing[part]:
                    item.add_marker(pytest.mark.skip(reason=f"{_needs(part)}{self._missing[part]}"))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count the tests that ``-m`` deselects."""
        for item in items:
            if needed := _needed(item):
                reason = f"need {', '.join(needed)}"
            elif item.get_closest_marker("long"):
                reason = "take long"
            else:
                continue  # deselected by -k
            self._deselected[reason] = self._deselected.get(reason, 0) + 1

    def pytest_testnodedown(self, node: Any) -> None:
        """Take the results of a process of pytest-xdist; all processes collect the same."""
        self._deselected, self._missing = node.workeroutput["tiers"]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail in CI if a test was left out that must run there."""
        output = getattr(session.config, "workeroutput", None)
        if output is not None:  # the process that writes the summary reads it in ``pytest_testnodedown``
            output["tiers"] = (self._deselected, self._missing)
        elif _not_allowed(self._left_out(session.config)):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """Report what was not tested, why, and how long the rest took."""
        left_out = self._left_out(config)
        for part, count in left_out.items():
            remedy = f" What would bring it: {parts.PARTS[part].remedy}." if part in parts.PARTS else ""
            line = f"LEFT OUT: {count} tests that need {part}, because {self._missing[part]}.{remedy}"
            terminalreporter.write_line(line, red=True, bold=True)
        for part in _not_allowed(left_out):
            terminalreporter.write_line(f"FAILED: CI may not leave out {part}; {LIST.name} has what it may", red=True)
        if self._deselected:
            reasons = "; ".join(f"{count} {reason}" for reason, count in sorted(self._deselected.items()))
            terminalreporter.write_line(f"Left to make test-all: {sum(self._deselected.values())} tests ({reasons}).")
        minutes, seconds = divmod(round(time.monotonic() - self._began), _SECONDS_PER_MINUTE)
        terminalreporter.write_line(f"This took {minutes} min {seconds} s.")

    def _left_out(self, config: pytest.Config) -> dict[str, int]:
        """The number of tests left out for each missing part."""
        reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        skipped = [str(report.longrepr) for report in reporter.stats.get("skipped", ())] if reporter else []
        counts = {part: sum(_needs(part) in reason for reason in skipped) for part in self._missing}
        return {part: count for part, count in counts.items() if count}


def _needs(part: str) -> str:
    return f"needs {part}: "


def _not_allowed(left_out: Iterable[str]) -> list[str]:
    """Missing parts that CI does not allow; empty elsewhere."""
    if os.environ.get("CI", "").lower() not in {"1", "true"}:
        return []
    return sorted(set(left_out) - set(LIST.read_text().splitlines()))


def _needed(item: pytest.Item) -> list[str]:
    return sorted({part for mark in item.iter_markers("needs") for part in mark.args})

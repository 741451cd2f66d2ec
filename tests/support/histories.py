"""Versions of tasks as exports have them, in any order, split over writes and runs in any way, and their results.

This module defines again which version is the later one, from the words of ``TaskWriter.write``, not from its code.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from taskgate.stores.base import StoredTask, WriteCounts

ENDED = (
    "COMPLETED",
    "FAILED",
    "FAILED_WITH_TERMINAL_ERROR",
    "CANCELED",
    "TIMED_OUT",
    "SKIPPED",
    "COMPLETED_WITH_ERRORS",
)


@dataclass(frozen=True)
class Version:
    """One state of task ``number``."""

    number: int
    update_time: int
    fields: dict[str, Any] = field(default_factory=dict)

    def task(self, task_id: str) -> StoredTask:
        return StoredTask(task_id, self.update_time, json.dumps(self.fields).encode())

    @property
    def order(self) -> tuple[Any, ...]:
        return order_of(self.update_time, self.task("").document)


def order_of(update_time: int, document: bytes) -> tuple[Any, ...]:
    """A sort key: the later version has the greater one."""
    fields = json.loads(document)
    return (
        update_time,
        fields.get("status") in ENDED,
        fields.get("endTime") or 0,
        [fields.get("executed"), fields.get("retried")].count(True),
        fields.get("pollCount") or 0,
        hashlib.sha256(document).digest(),
    )


History = list[list[list[Version]]]
"""For each run, its writes; for each write, its versions."""


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A few versions of two tasks, most with the same update time, some of them twice."""
    fields = st.fixed_dictionaries(
        {},
        optional={
            "status": st.sampled_from(("SCHEDULED", "IN_PROGRESS", *ENDED)),
            "endTime": st.sampled_from((0, None, 1770621022078, 1770621022079, 2**63)),
            "executed": st.booleans(),
            "retried": st.booleans(),
            "pollCount": st.integers(0, 2),
            "workerId": st.sampled_from(("a", "\ud800")),
        },
    )
    versions = st.builds(Version, st.integers(0, 1), st.sampled_from((5, 5, 5, 6)), fields)
    few = draw(st.lists(versions, min_size=1, max_size=5))
    order = draw(st.lists(st.sampled_from(few), max_size=4)) + draw(st.permutations(few))
    return [list(_split(draw, run)) for run in _split(draw, order)]


def _split(draw: st.DrawFn, items: list[Any]) -> list[list[Any]]:
    cuts = sorted(draw(st.sets(st.integers(1, len(items)), max_size=2))) if items else []
    return [items[start:end] for start, end in zip([0, *cuts], [*cuts, len(items)], strict=True)]


def latest_versions(history: History) -> dict[int, Version]:
    """The version of each task that must remain."""
    latest: dict[int, Version] = {}
    for version in _all(history):
        if version.number not in latest or version.order > latest[version.number].order:
            latest[version.number] = version
    return latest


def expected_counts(history: History) -> WriteCounts:
    """The counts that all writes together must report."""
    counts = WriteCounts()
    latest: dict[int, Version] = {}
    for version in _all(history):
        before = latest.get(version.number)
        if before is None:
            counts.added += 1
        elif version.order > before.order:
            counts.replaced += 1
        else:
            counts.unchanged += version.order == before.order
            counts.older += version.order < before.order
            continue
        latest[version.number] = version
    return counts


def _all(history: History) -> list[Version]:
    return [version for writes in history for versions in writes for version in versions]

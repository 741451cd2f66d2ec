"""Which tests one process of pytest-xdist runs together, and which come first.

A process starts what its tests share. Tests of one file share servers, and stay together; those of either transport
share none with the other's, and are two pieces of work: so the longest files hold up the end of a run half as long.
"""

from pathlib import PurePath
from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

_LONGEST_FIRST = ("against_conductor", "faults", "api", "conformance", "interop", "cli", "gateway")
"""Folders; what is short fills the gaps at the end."""

_ONE_SYSTEM = ("api", "interop")
"""Folders whose files all share the same systems."""

_BEHIND_ENVOY = ("grpcio", "behind Envoy")
"""What the names of tests have that need the other transport than the default one."""


class Scopes:
    """A pytest plugin, in each process of a run."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the tests that take longest first, as far as folders tell."""
        items.sort(key=lambda item: _rank(item.nodeid))

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> "_Scheduling":
        """Take the place of what ``--dist`` names."""
        config.option.loadscopereorder = False  # by their number, which says little
        return _Scheduling(config, log)


class _Scheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def scope_of(nodeid: str) -> str:
    """The name of the piece of work that a test belongs to."""
    file, _, name = nodeid.partition("::")
    folder = _folder(nodeid)
    together = folder if folder in _ONE_SYSTEM else file
    parameters = name.partition("[")[2]
    return f"{together} {any(word in parameters for word in _BEHIND_ENVOY)}"


def _folder(nodeid: str) -> str:
    return PurePath(nodeid.partition("::")[0]).parent.name


def _rank(nodeid: str) -> int:
    folder = _folder(nodeid)
    return _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else len(_LONGEST_FIRST)

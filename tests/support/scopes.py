"""Group the tests that one process of pytest-xdist runs together, and order the groups.

Each process starts the servers that its tests share. The tests of a file share servers and stay together. Tests of
different modes or servers share none, so they form groups of their own: no file delays the end of a run.
"""

import re
from pathlib import PurePath
from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

_LONGEST_FIRST = ("against_conductor", "faults", "api", "conformance", "interop", "cli", "gateway", "client")
"""Folders; short ones fill the gaps at the end."""

_ONE_SYSTEM = ("api", "interop")
"""Folders whose files all share the same systems."""

_ONE_NODE = "test_cassandra.py"
"""The name of files that share the Cassandra node, which takes half a minute to start."""

_APART = re.compile(r"proxied|^\[(postgresql|mysql|redis|cassandra)(?=[-\]])")
"""Parameters of tests that need another server than the rest of their file."""


class Scopes:
    """A pytest plugin, in each process of a run."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the longest tests first, judged by their folders."""
        items.sort(key=lambda item: _rank(item.nodeid))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> "_Scheduling | None":
        """Replace the scheduler of ``--dist loadscope``."""
        if config.option.dist != "loadscope":
            return None
        config.option.loadscopereorder = False  # it orders by the number of tests, which says little
        return _Scheduling(config, log)


class _Scheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def scope_of(nodeid: str) -> str:
    """The name of the group of a test."""
    file, _, name = nodeid.partition("::")
    folder = _folder(nodeid)
    if file.endswith(_ONE_NODE):
        return _ONE_NODE
    return f"{folder if folder in _ONE_SYSTEM else file} {_piece(name)}"


def _piece(name: str) -> str:
    """The part of a file."""
    _, bracket, parameters = name.partition("[")
    found = _APART.search(bracket + parameters)
    return found[0] if found else ""


def _folder(nodeid: str) -> str:
    """The folder below ``tests``."""
    _, *folders, _ = (*PurePath(nodeid.partition("::")[0]).parts, "")
    return folders[0] if folders else ""


def _rank(nodeid: str) -> int:
    folder = _folder(nodeid)
    return _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else len(_LONGEST_FIRST)

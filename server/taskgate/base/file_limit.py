"""How many files, and with that connections, this process and its children may have open (``ulimit -n``).

A server that has no descriptor left cannot take a connection, nor leave it: Envoy then asks for it again without pause.
So the limit is raised as far as it goes, and no more connections are allowed than leave room for everything else.
"""

import resource
import sys
from contextlib import suppress
from typing import Final

import structlog

from taskgate.base.errors import SettingsError

MOST_CONNECTIONS: Final = 10_000
"""Connections of callers that one process takes, where the limit of open files allows as many."""

_FEWEST_CONNECTIONS: Final = 16

_MACOS_MOST: Final = 10_240  # OPEN_MAX, which macOS grants where it names an unlimited hard limit


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, for this process and those it starts; returns the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _MACOS_MOST):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def connections_within(limit: int, *, others: int, each: int = 1, warn: bool = True) -> int:
    """How many connections of callers a process may take that needs ``others`` files for everything else.

    ``each`` is how many files such a connection may cost.

    Warns, if ``warn``, where the limit makes them fewer than usual. Raises SettingsError if hardly any would be left.
    """
    connections = min(MOST_CONNECTIONS, (limit - others) // each)
    if connections < _FEWEST_CONNECTIONS:
        raise SettingsError(
            f"the limit of open files is {limit} (ulimit -n), which is too low: a process needs {others} of them, and"
            f" at least {_FEWEST_CONNECTIONS * each} for connections"
        )
    if warn and connections < MOST_CONNECTIONS:
        structlog.get_logger("taskgate.files").warning(
            "the limit of open files (ulimit -n) allows fewer connections; further ones are refused",
            file_limit=limit,
            connections=connections,
            usual=MOST_CONNECTIONS,
        )
    return connections

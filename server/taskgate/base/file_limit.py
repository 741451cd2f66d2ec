"""Raise the limit of open files (``ulimit -n``), and derive from it how many connections a process may accept.

A server without a free file descriptor cannot accept a waiting connection, and Envoy would retry without pause. So the
limit is raised as far as the system allows, and connections leave room for all other files.
"""

import resource
import sys
from contextlib import suppress
from typing import Final

import structlog

from taskgate.base.errors import SettingsError

MAX_CONNECTIONS: Final = 10_000
"""Client connections that one process accepts, if the limit of open files allows as many."""

_MIN_CONNECTIONS: Final = 16

_MACOS_OPEN_MAX: Final = 10_240  # macOS grants no more than OPEN_MAX, even if it reports an unlimited hard limit


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, for this process and its children; return the new limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _MACOS_OPEN_MAX):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def connections_within(limit: int, *, others: int, each: int = 1, warn: bool = True) -> int:
    """Return how many client connections a process may accept if it may have ``limit`` files open.

    ``others`` is the number of files that it needs for everything else, ``each`` that of one connection. With ``warn``,
    log a warning if the result is below ``MAX_CONNECTIONS``. Raise SettingsError if it is below 16.
    """
    connections = min(MAX_CONNECTIONS, (limit - others) // each)
    if connections < _MIN_CONNECTIONS:
        raise SettingsError(
            f"the limit of open files is {limit} (ulimit -n), which is too low: a process needs {others} of them, and"
            f" at least {_MIN_CONNECTIONS * each} for connections"
        )
    if warn and connections < MAX_CONNECTIONS:
        structlog.get_logger("taskgate.files").warning(
            "the limit of open files (ulimit -n) allows fewer connections than usual; further ones are refused",
            file_limit=limit,
            connections=connections,
            usual=MAX_CONNECTIONS,
        )
    return connections

"""Translate SQLite's result codes into public messages."""

import os
import sqlite3

from taskgate.base.errors import StoreUnavailable

_REASONS = {
    sqlite3.SQLITE_BUSY: "it is locked by another program",
    sqlite3.SQLITE_LOCKED: "it is locked by another program",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database, or is damaged",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; look at the permissions of the file and of its folder",
    sqlite3.SQLITE_PERM: "it cannot be opened; look at the permissions of the file and of its folder",
    sqlite3.SQLITE_READONLY: "it is read-only; look at the permissions of the file and of its folder",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk reported an error",
    sqlite3.SQLITE_ERROR: "it has no table 'task' as taskgate or Conductor makes it",
    sqlite3.SQLITE_TOOBIG: "a document is larger than SQLite takes",
}
"""Public messages for SQLite's primary result codes; its own stay in the exception chain."""


NOT_A_FILE = "it is not a file"


def is_busy(error: sqlite3.Error) -> bool:
    """Whether a lock caused ``error``."""
    return primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary result code of ``error``."""
    # Extended result codes keep the primary one in their low byte; the module's own errors have no code.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def unavailable(name: str, path: str, error: sqlite3.Error) -> StoreUnavailable:
    """Return the public form of ``error``, which SQLite raised for the file at ``path``."""
    code = primary_code(error)
    reason = _REASONS.get(code, "SQLite reported an error")
    if code == sqlite3.SQLITE_CANTOPEN:
        if not os.path.isdir(os.path.dirname(path)):  # noqa: PTH112, PTH120 - nothing else here has a Path
            reason = "its folder does not exist"
        elif os.path.isdir(path):  # noqa: PTH112
            reason = NOT_A_FILE
    return gone(name, reason)


def gone(name: str, reason: str) -> StoreUnavailable:
    """Return the error that the store ``name`` is unavailable for ``reason``."""
    return StoreUnavailable(reason, store=name)

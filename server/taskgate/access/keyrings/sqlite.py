"""Keep the keyring in a SQLite file that only its owner can read."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from taskgate.access.keyrings.base import StoredKeyring
from taskgate.base.errors import StoreUnavailable
from taskgate.base.printable import printable
from taskgate.stores.sqlite.faults import primary_code, unavailable

T = TypeVar("T")

_LAYOUT = """
CREATE TABLE IF NOT EXISTS taskgate_keyring (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,
    document BLOB NOT NULL
)
"""

_BUSY_SECONDS = 3.0

_PRIVATE = 0o600
"""The file holds private keys. SQLite gives its journal the same mode."""

_NO_TABLE = "it is a database of something else than keys; name a file of its own"


class SqliteKeyring:
    """See ``KeyringStore``."""

    def __init__(self, path: str) -> None:
        """``path`` is the file; it is created by the first ``replace``."""
        self.name = f"sqlite:///{printable(path)}"  # a path may hold any bytes
        self._path = Path(path).absolute()

    async def read(self, known: int | None = None) -> StoredKeyring | None:
        """See ``KeyringStore``."""
        return await asyncio.to_thread(self._translating, lambda: self._read(known))

    async def replace(self, document: bytes, *, revision: int) -> bool:
        """See ``KeyringStore``."""
        return await asyncio.to_thread(self._translating, lambda: self._replace(document, revision))

    async def close(self) -> None:
        """See ``KeyringStore``. Each operation has its own connection."""

    def _translating(self, operation: Callable[[], T]) -> T:
        try:
            return operation()
        except sqlite3.Error as error:
            if primary_code(error) == sqlite3.SQLITE_ERROR:
                raise StoreUnavailable(_NO_TABLE, store=self.name) from error
            raise unavailable(self.name, str(self._path), error) from error
        except OSError as error:
            raise StoreUnavailable(f"its file cannot be used: {error.strerror}", store=self.name) from error

    def _read(self, known: int | None) -> StoredKeyring | None:
        if not self._path.exists() or self._path.stat().st_size == 0:  # an empty file: its creation was interrupted
            return None if known == 0 else StoredKeyring(0, b"")
        try:
            return self._read_as("ro", known)
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_READONLY:
                raise
        return self._read_as("rw", known)  # a writer was killed: its journal is played back first

    def _read_as(self, mode: str, known: int | None) -> StoredKeyring | None:
        with self._connect(mode) as connection:
            row = connection.execute("SELECT revision FROM taskgate_keyring").fetchone()
            revision = row[0] if row else 0
            if revision == known:
                return None
            row = connection.execute("SELECT revision, document FROM taskgate_keyring").fetchone()
        return StoredKeyring(*row) if row else StoredKeyring(0, b"")

    def _replace(self, document: bytes, revision: int) -> bool:
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, _PRIVATE))
        with self._connect("rw") as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            if revision == 0:
                self._path.chmod(_PRIVATE)  # it may have been there, empty
            connection.execute(_LAYOUT)
            if revision == 0:
                done = connection.execute("INSERT OR IGNORE INTO taskgate_keyring VALUES (1, 1, ?)", (document,))
            else:
                done = connection.execute(
                    "UPDATE taskgate_keyring SET revision = revision + 1, document = ? WHERE revision = ?",
                    (document, revision),
                )
            connection.execute("COMMIT")
            return done.rowcount == 1

    @contextmanager
    def _connect(self, mode: str) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode={mode}", uri=True, timeout=_BUSY_SECONDS, isolation_level=None
        )
        try:
            yield connection
        finally:
            connection.close()  # rolls back what was not committed

"""Tasks in one SQLite file: the embedded default, and the layout that ``taskgate import`` writes.

The table is a superset of Conductor's own (contract section 3.1), so the same statement reads both. Write-ahead logging
lets any number of reading processes go on beside one writer.
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self
from urllib.parse import quote

from taskgate.errors import DocumentUnreadable, StoreUnavailable
from taskgate.stores.base import StoredTask, WriteCounts
from taskgate.stores.threads import ReadThreads

READ_THREADS = 4
"""Reads that run at once in one process; SQLite releases the interpreter lock while it works."""

READ_TIMEOUT = 2.0
"""Seconds until a read that has not answered counts as unavailable, queueing included."""

MAX_WAITING = 1024
"""Reads that may run or wait at once; further ones fail at once instead of queueing without end."""

_BUSY_TIMEOUT = 1.0
"""Seconds a read waits for a lock; in write-ahead mode only recovery and exclusive locks make one wait."""

_WRITE_BUSY_TIMEOUT = 30.0
"""Seconds an import waits for another writer."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS task (
    task_id     TEXT PRIMARY KEY,
    json_data   TEXT NOT NULL,
    update_time INTEGER NOT NULL DEFAULT 0, -- epoch milliseconds; Conductor's own table lacks this column
    created_on  DATETIME DEFAULT CURRENT_TIMESTAMP,
    modified_on DATETIME DEFAULT CURRENT_TIMESTAMP
)
"""

_UPSERT = """
INSERT INTO task (task_id, json_data, update_time) VALUES (?, ?, ?)
ON CONFLICT (task_id) DO UPDATE SET
    json_data = excluded.json_data, update_time = excluded.update_time, modified_on = CURRENT_TIMESTAMP
"""

_IDS_PER_QUERY = 500

_REASONS = {
    sqlite3.SQLITE_BUSY: "it is locked by another program",
    sqlite3.SQLITE_LOCKED: "it is locked by another program",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database, or is damaged",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; look at the permissions of the file and its folder",
    sqlite3.SQLITE_PERM: "it cannot be opened; look at the permissions of the file and its folder",
    sqlite3.SQLITE_READONLY: "it, or its folder, is read-only",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk reported an error",
    sqlite3.SQLITE_ERROR: "it has no table 'task' as taskgate or Conductor makes it",
}
"""Public words for SQLite's primary result codes; driver texts stay in the exception chain."""

class SqliteStore:
    """Reads the table ``task`` of one file, which may be missing, replaced or restored at any time."""

    def __init__(self, path: str) -> None:
        """``path`` is looked up anew for every read; nothing is opened here."""
        self._path = path
        self._threads = ReadThreads(self._read_document, READ_THREADS, "sqlite-read")
        self._local = threading.local()
        self._connections: set[sqlite3.Connection] = set()
        self._waiting = 0
        self._closed = False

    async def get_document(self, task_id: str) -> bytes | None:
        """See ``TaskStore``."""
        return await self._ask(task_id)

    async def check(self) -> None:
        """See ``TaskStore``."""
        await self._ask(None)

    async def close(self) -> None:
        """See ``TaskStore``."""
        self._closed = True
        await asyncio.to_thread(self._threads.stop)
        while self._connections:
            self._connections.pop().close()

    async def _ask(self, task_id: str | None) -> bytes | None:
        if self._closed:
            raise StoreUnavailable(f"The store {self._path} is closed")
        if self._waiting >= MAX_WAITING:
            raise StoreUnavailable(f"The store {self._path} has {self._waiting} reads waiting")
        self._waiting += 1
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                return await self._threads.ask(task_id)
        except TimeoutError as error:
            raise StoreUnavailable(f"The store {self._path} did not answer within {READ_TIMEOUT:g} s") from error
        finally:
            self._waiting -= 1

    def _read_document(self, task_id: str | None) -> bytes | None:
        """The document; without an ID, None if any could be read. Runs in a thread."""
        if task_id is None:
            self._read("SELECT json_data FROM task LIMIT 1", ())
            return None
        try:
            row = self._read("SELECT json_data FROM task WHERE task_id = ?", (task_id,))
        except UnicodeEncodeError:  # a lone surrogate: no stored ID can hold one
            return None
        if row is None:
            return None
        if not isinstance(row[0], bytes):
            raise DocumentUnreadable(task_id)
        return row[0]

    def _read(self, statement: str, parameters: tuple[str, ...]) -> tuple[object, ...] | None:
        connection = self._connection()
        try:
            return connection.execute(statement, parameters).fetchone()  # type: ignore[no-any-return]
        except sqlite3.Error as error:
            self._forget()
            raise _unavailable(self._path, error) from error

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection to the file that is at the path now."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - on the hot path, and several times faster than pathlib
        except OSError as error:
            self._forget()
            reason = "there is no such file" if isinstance(error, FileNotFoundError) else "it cannot be looked up"
            raise StoreUnavailable(f"The store {self._path} is unavailable: {reason}") from error
        identity = (status.st_dev, status.st_ino)
        if getattr(self._local, "identity", None) != identity:
            self._forget()
            try:
                self._local.connection = self._open()
            except sqlite3.Error as error:
                raise _unavailable(self._path, error) from error
            self._local.identity = identity
            self._connections.add(self._local.connection)
        return self._local.connection  # type: ignore[no-any-return]

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(self._path)}?mode=ro",
            uri=True,
            timeout=_BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,  # opened and used by one pool thread, closed by close()
        )
        connection.text_factory = bytes  # the document is bytes from here to the wire
        return connection

    def _forget(self) -> None:
        """Drop this thread's connection, if it has one."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            self._connections.discard(connection)
            connection.close()
        self._local.connection = self._local.identity = None


class SqliteWriter:
    """Writes the table ``task`` of one file, creating both if need be. For one thread of one process."""

    def __init__(self, path: str) -> None:
        """Open ``path`` for writing; raises StoreUnavailable if that fails or the table there is not ours."""
        self._path = path
        try:
            self._connection = sqlite3.connect(path, timeout=_WRITE_BUSY_TIMEOUT, isolation_level=None)
        except sqlite3.Error as error:
            raise _unavailable(path, error) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise _unavailable(path, error) from error

    def write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        """See ``TaskWriter``."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                counts, changed = self._compare(tasks)
                self._connection.executemany(
                    _UPSERT, ((task.task_id, task.document.decode(), task.update_time) for task in changed)
                )
                self._connection.execute("COMMIT")
            except BaseException:  # Ctrl-C included: the batch is wholly in or wholly out
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise _unavailable(self._path, error) from error
        return counts

    def close(self) -> None:
        """See ``TaskWriter``."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Return this writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _prepare(self) -> None:
        columns = {row[1] for row in self._connection.execute("PRAGMA table_info(task)")}
        if columns and "update_time" not in columns:
            self._connection.close()
            raise StoreUnavailable(
                f"The store {self._path} has a table 'task' that taskgate did not make (Conductor's own?);"
                " taskgate writes only into its own"
            )
        self._connection.execute("PRAGMA journal_mode = WAL")
        # A crash of the machine may lose the last batches but damages nothing, and an import is safe to run again.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        if not columns:
            self._connection.execute(_SCHEMA)

    def _compare(self, tasks: Sequence[StoredTask]) -> tuple[WriteCounts, list[StoredTask]]:
        """Count what writing ``tasks`` in order does, and say which rows have to change."""
        stored = self._stored_times([task.task_id for task in tasks])
        changed: dict[str, StoredTask] = {}
        counts = WriteCounts()
        for task in tasks:
            known = stored.get(task.task_id)
            if known is None:
                counts.added += 1
            elif known > task.update_time:
                counts.older += 1
                continue
            elif known == task.update_time and task.document == self._current(task.task_id, changed):
                counts.unchanged += 1
                continue
            else:
                counts.replaced += 1
            stored[task.task_id] = task.update_time
            changed[task.task_id] = task
        return counts, list(changed.values())

    def _stored_times(self, task_ids: Sequence[str]) -> dict[str, int]:
        times: dict[str, int] = {}
        for start in range(0, len(task_ids), _IDS_PER_QUERY):
            part = task_ids[start : start + _IDS_PER_QUERY]
            marks = ",".join("?" * len(part))
            statement = f"SELECT task_id, update_time FROM task WHERE task_id IN ({marks})"  # noqa: S608 - only marks
            times.update(self._connection.execute(statement, part))
        return times

    def _current(self, task_id: str, changed: dict[str, StoredTask]) -> bytes:
        if task_id in changed:
            return changed[task_id].document
        row = self._connection.execute("SELECT json_data FROM task WHERE task_id = ?", (task_id,)).fetchone()
        return row[0].encode()  # type: ignore[no-any-return]


def _unavailable(path: str, error: sqlite3.Error) -> StoreUnavailable:
    # Extended result codes keep the primary one in their low byte.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    reason = _REASONS.get(code, "SQLite reported an error")
    return StoreUnavailable(f"The store {path} is unavailable: {reason}")

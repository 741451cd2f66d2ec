"""Write task documents into taskgate's own SQLite file: create its layout, and upsert in batches."""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

from taskgate.stores.base import StoredTask, WriteCounts
from taskgate.stores.sqlite.connections import identity
from taskgate.stores.sqlite.faults import gone, is_busy, unavailable
from taskgate.stores.writing.interrupts import interrupts_held
from taskgate.stores.writing.standing import Standing, standing_of
from taskgate.stores.writing.writer import Writer, compare

T = TypeVar("T")

WRITE_BUSY_TIMEOUT = 30.0
"""Seconds an import waits for another writer."""

_LOG_TIMEOUT = 1.0
"""Seconds that truncating the write-ahead log waits for readers."""

APPLICATION_ID = 0x54534B47
"""``PRAGMA application_id`` of the files that taskgate creates: "TSKG"."""

LAYOUT_VERSION = 1
"""``PRAGMA user_version`` of the layout below."""

# The document comes last: reading a column behind a long one follows all of its overflow pages.
_LAYOUT = """
CREATE TABLE task (
    task_id     TEXT PRIMARY KEY,
    update_time INTEGER NOT NULL DEFAULT 0, -- the document's updateTime, epoch milliseconds
    created_on  DATETIME DEFAULT CURRENT_TIMESTAMP,
    modified_on DATETIME DEFAULT CURRENT_TIMESTAMP,
    json_data   TEXT NOT NULL
)
"""

_UPSERT = """
INSERT INTO task (task_id, update_time, json_data) VALUES {rows}
ON CONFLICT (task_id) DO UPDATE SET
    update_time = excluded.update_time, modified_on = CURRENT_TIMESTAMP, json_data = excluded.json_data
"""

_ROWS_PER_STATEMENT = 2000
"""Many, because the interpreter lock is free while a statement runs, and reacquired after each."""

_PAGE_BYTES = 8192
"""Two in three Conductor tasks fill SQLite's usual page of 4096 bytes badly: only one fits, or none."""

_CACHE_BYTES = 32 * 1024 * 1024
"""A writer's page cache; inserts touch index pages all over the file."""

_CHECKPOINT_PAGES = 8192
"""Pages in the write-ahead log (64 MiB) at which it is checkpointed: most index pages are copied once, not often."""

_LONG_LOG_BYTES = 256 * 1024 * 1024
"""The size at which a write-ahead log that readers kept from restarting is truncated, waiting for them if needed."""


class SqliteWriter(Writer):
    """Write the table ``task`` of one file, creating both if needed."""

    def __init__(self, path: str) -> None:
        """Open ``path`` for writing; raises StoreUnavailable if that fails or the file is not taskgate's."""
        super().__init__(path)
        self._path = os.path.abspath(path)  # noqa: PTH100 - as in the reader
        with ExitStack() as on_failure, self._faults():
            _make_private(self._path)
            # timeout=0: SQLite's own wait for locks would delay Ctrl-C.
            self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            on_failure.callback(self._connection.close)
            self._prepare()
            on_failure.pop_all()

    def _write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        if self._file != identity(self._path):
            raise gone(self._name, "the file was removed or replaced while it was written to")
        with self._faults():
            try:
                self._execute_patiently("BEGIN IMMEDIATE")
                counts, changed = compare(tasks, self._stored_times(tasks), self._standing_of_stored)
                self._store(changed)
                with interrupts_held():
                    self._connection.execute("COMMIT")
                    self.total += counts
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            self._limit_log()
        return counts

    def _release(self) -> None:
        self._empty_log()  # then the file holds everything, and can be copied or moved alone
        self._connection.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Raise errors of the database in their public form."""
        try:
            yield
        except sqlite3.Error as error:
            raise unavailable(self._name, self._path, error) from error

    def _prepare(self) -> None:
        """Create the layout in an empty database, or verify it."""
        self._execute_patiently(f"PRAGMA page_size = {_PAGE_BYTES}")  # applies only to a new file
        self._execute_patiently("BEGIN IMMEDIATE")
        if not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._connection.execute(_LAYOUT)
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._connection.execute(f"PRAGMA user_version = {LAYOUT_VERSION}")
            self.created = True
        elif problem := self._foreign():
            raise gone(self._name, problem)
        self._execute_patiently("COMMIT")
        self._file = identity(self._path)
        if self._execute_patiently("PRAGMA journal_mode = WAL") != ("wal",):
            raise gone(self._name, "its file system does not support SQLite's write-ahead log")
        # A crash of the machine may lose the last batches but damages nothing, and an import can be repeated.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(f"PRAGMA cache_size = {-_CACHE_BYTES // 1024}")
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        variables = self._connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)  # 999 before SQLite 3.32
        self._rows_per_statement = min(_ROWS_PER_STATEMENT, variables // 3)

    def _foreign(self) -> str | None:
        """Return why taskgate must not write to this database, or None."""
        (application_id,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application_id != APPLICATION_ID:
            return "it belongs to another program (Conductor's own?), and taskgate writes only into databases it made"
        if version != LAYOUT_VERSION:
            return f"it has layout {version}, and this taskgate writes layout {LAYOUT_VERSION}"
        return None

    def _execute_patiently(self, statement: str) -> tuple[Any, ...] | None:
        """Execute ``statement``, waiting for other writers interruptibly by Ctrl-C; return the first row."""
        deadline = time.monotonic() + WRITE_BUSY_TIMEOUT
        pause = 0.001
        while True:
            try:
                return self._connection.execute(statement).fetchone()  # type: ignore[no-any-return]
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(pause * 2, 0.1)

    def _stored_times(self, tasks: Sequence[StoredTask]) -> dict[str, int]:
        times: dict[str, int] = {}
        for part in self._parts([task.task_id for task in tasks]):
            marks = ",".join("?" * len(part))
            statement = f"SELECT task_id, update_time FROM task WHERE task_id IN ({marks})"  # noqa: S608 - only marks
            times.update(self._connection.execute(statement, part))
        return times

    def _store(self, tasks: Sequence[StoredTask]) -> None:
        for part in self._parts(tasks):
            values = [value for task in part for value in (task.task_id, task.update_time, task.document.decode())]
            self._connection.execute(_UPSERT.format(rows=",".join(["(?,?,?)"] * len(part))), values)

    def _parts(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        for start in range(0, len(items), self._rows_per_statement):
            yield items[start : start + self._rows_per_statement]

    def _standing_of_stored(self, task: StoredTask) -> Standing | None:
        """See ``compare``. Read one document at a time: a repeated import has a tie for each task."""
        statement = "SELECT CAST(json_data AS BLOB) FROM task WHERE task_id = ?"
        (document,) = self._connection.execute(statement, (task.task_id,)).fetchone()
        return None if document == task.document else standing_of(document)

    def _limit_log(self) -> None:
        try:
            size = os.stat(f"{self._path}-wal").st_size  # noqa: PTH116 - once a batch
        except OSError:
            return
        if size > _LONG_LOG_BYTES:
            self._empty_log()

    def _empty_log(self) -> None:
        """Copy the write-ahead log into the file and truncate it, if readers allow that within a second."""
        try:
            self._connection.execute(f"PRAGMA busy_timeout = {_LOG_TIMEOUT * 1000:.0f}")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._connection.execute("PRAGMA busy_timeout = 0")
        except sqlite3.Error:
            return  # nothing is lost: the log is part of the database


def _make_private(path: str) -> None:
    """Create a missing file, for its owner alone; SQLite gives its log and its index the same mode."""
    if not os.path.exists(path):  # noqa: PTH110 - as in the reader
        with suppress(OSError):  # SQLite fails on it again, with a reason
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

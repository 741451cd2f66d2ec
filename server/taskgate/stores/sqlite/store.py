"""Tasks in one SQLite file: the embedded default, and the layout that ``taskgate import`` writes.

The table has Conductor's own columns (``SqliteExecutionDAO``) and one more, so the same statement reads both. In
write-ahead mode any number of reading processes go on beside one writer.

To replace the file under running servers, rename another one over it. Overwriting it in place is not noticed: SQLite
promises nothing about a file that changes behind its back.
"""

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from taskgate.base.errors import DocumentUnreadable, StoreUnavailable
from taskgate.base.layout import Layout
from taskgate.stores.base import StoredTask, WriteCounts
from taskgate.stores.single_flight import HUGE_DOCUMENT, SingleFlight
from taskgate.stores.sqlite.cold_reads import ColdReads, HugeDocument
from taskgate.stores.sqlite.lookup import Lookup, LookupFailed, open_lookup
from taskgate.stores.writing.interrupts import interrupts_held
from taskgate.stores.writing.standing import Standing, standing_of
from taskgate.stores.writing.writer import Writer, compare

T = TypeVar("T")

READ_BUSY_TIMEOUT = 1.0
"""Seconds a read waits for a lock; in write-ahead mode only recovery and exclusive locks make one wait."""

_BUSY_INTERVAL = 0.005
"""Seconds between two tries of a read that waits for a lock."""

_VERY_SLOW_READ = 0.1
"""Seconds of a read on the event loop after which the next ones are left to threads."""

_LEAVE_FACTOR = 60
"""For how many times as long, so that slow reads hold up calls 2 % of the time."""

WRITE_BUSY_TIMEOUT = 30.0
"""Seconds an import waits for another writer."""

APPLICATION_ID = 0x54534B47
"""``PRAGMA application_id`` of the files that taskgate makes: "TSKG"."""

LAYOUT_VERSION = 1
"""``PRAGMA user_version`` of the layout below."""

# The document comes last: a column behind a long one would be found only through all of its overflow pages.
_LAYOUT = """
CREATE TABLE task (
    task_id     TEXT PRIMARY KEY,
    update_time INTEGER NOT NULL DEFAULT 0, -- the document's updateTime, epoch milliseconds
    created_on  DATETIME DEFAULT CURRENT_TIMESTAMP,
    modified_on DATETIME DEFAULT CURRENT_TIMESTAMP,
    json_data   TEXT NOT NULL
)
"""

_SELECT = "SELECT json_data FROM task WHERE task_id = ?"

_SELECT_PLACE = "SELECT rowid, typeof(json_data) FROM task WHERE task_id = ?"

_UPSERT = """
INSERT INTO task (task_id, update_time, json_data) VALUES {rows}
ON CONFLICT (task_id) DO UPDATE SET
    update_time = excluded.update_time, modified_on = CURRENT_TIMESTAMP, json_data = excluded.json_data
"""

_ROWS_PER_STATEMENT = 2000
"""Many, because the interpreter lock is free while one statement runs, and taken back after each."""

_PAGE_BYTES = 8192
"""Two in three Conductor tasks fill SQLite's usual page of 4096 bytes badly: only one fits, or none."""

_CACHE_BYTES = 32 * 1024 * 1024
"""What a writer keeps in memory of the file; the index is written to all over."""

_CHECKPOINT_PAGES = 8192
"""Pages in the write-ahead log (64 MiB) at which they are copied to the file: most index pages once, not many times."""

_LONG_LOG_BYTES = 256 * 1024 * 1024
"""A write-ahead log that readers have kept from starting over is cut at this size, waiting for them if need be."""

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
"""Public words for SQLite's primary result codes; its own stay in the exception chain."""


_NOT_A_FILE = "it is not a file"


class SqliteStore:
    """Reads the table ``task`` of one file, which may be missing, locked, removed or replaced at any time.

    What will not have to wait for the disk is read on the event loop, everything else in a thread.
    """

    def __init__(self, path: str, layout: Layout = Layout.TASKGATE) -> None:
        """``path`` is looked up anew for every read; nothing is opened here. Both layouts have the same two columns."""
        del layout
        self._connections = _Connections(path)
        self._cold = ColdReads(path, self._read_patiently)
        # Patient: however often a caller tries again, a task that waits for the disk has one thread.
        self._flights = SingleFlight(self._cold, patient=True)
        self._in_threads_until = 0.0

    async def get_document(self, task_id: str) -> bytes | None:
        """See ``TaskStore``."""
        began = time.monotonic()
        if began < self._in_threads_until or not self._cold.is_quick(task_id, began):
            return await self._flights.get_document(task_id)
        try:
            document = self._read_on_loop(task_id)
        except _Busy:
            return await self._flights.get_document(task_id)
        seconds = time.monotonic() - began
        self._cold.note(task_id, document, seconds)
        if seconds > _VERY_SLOW_READ:
            self._in_threads_until = began + _LEAVE_FACTOR * seconds
        return document

    async def check(self) -> None:
        """See ``TaskStore``."""
        await self._cold.check()

    async def close(self) -> None:
        """See ``TaskStore``."""
        await self._flights.close()
        self._connections.discard()

    def _read_on_loop(self, task_id: str) -> bytes | None:
        try:
            return self._connections.look_up(task_id)
        except LookupFailed:
            return self._read(task_id, for_loop=True)  # it can do without, or says what is wrong
        except UnicodeEncodeError:  # a lone surrogate
            return None

    def _read_patiently(self, task_id: str, asked: float, *, in_turn: bool) -> bytes | None:
        """``_read``, again while there is a lock, until ``READ_BUSY_TIMEOUT`` seconds after it was ``asked`` for.

        Waiting for a thread counts: a lock holds up a full queue no longer than one read. Raises HugeDocument, as
        ``cold_reads.Read`` does.
        """
        deadline = asked + READ_BUSY_TIMEOUT
        while True:
            try:
                return self._read(task_id, in_turn=in_turn)
            except _Busy as busy:
                if time.monotonic() >= deadline:
                    raise busy.public from busy.__cause__
            time.sleep(_BUSY_INTERVAL)

    def _read(self, task_id: str, *, for_loop: bool = False, in_turn: bool = False) -> bytes | None:
        try:
            row = self._connections.fetch_one(task_id, for_loop=for_loop, in_turn=in_turn)
        except UnicodeEncodeError:  # a lone surrogate
            return None
        if row is None:
            return None
        if type(row[0]) is not bytes:
            raise DocumentUnreadable(task_id)
        return row[0]


class _Busy(Exception):
    """A lock is in the way; trying again soon may help. ``public`` is what to raise if it did not."""

    def __init__(self, public: StoreUnavailable) -> None:
        self.public = public


class _Connections:
    """Read-only connections, all to the file that is at ``path`` now; used by several threads.

    Connections to a removed file and to its successor must not be open at once: both would map the same ``-shm`` file,
    and SQLite, taking the new connection for the first one, would reset it under the old.
    """

    def __init__(self, path: str) -> None:
        self._name = path
        self._path = os.path.abspath(path)  # noqa: PTH100 - a string is what os.stat takes fastest
        self._uri = f"{Path(self._path).as_uri()}?mode=ro"
        self._mutex = threading.Lock()
        self._file: tuple[int, int] | None = None  # device and inode of what the connections below are to
        self._generation = 0  # counts such files
        self._idle: list[sqlite3.Connection] = []
        self._idle_for_loop: list[sqlite3.Connection] = []  # one at most
        self._lookup: Lookup | None = None
        self._in_use = 0
        self._outdated = 0  # in use, but of an earlier generation: closed when they come back

    def fetch_one(self, task_id: str, *, for_loop: bool = False, in_turn: bool = False) -> tuple[Any, ...] | None:
        """The document in a tuple, text as bytes; raises StoreUnavailable, or _Busy. Waits for nothing but the disk.

        ``for_loop`` takes a connection that threads have opened and leave alone. If there is none it raises _Busy.
        Without it, a document of over ``HUGE_DOCUMENT`` bytes raises HugeDocument unless it is ``in_turn``.
        """
        generation = self._reserve()
        connection: sqlite3.Connection | None = None
        try:
            connection = self._for_loop() if for_loop else self._idle_or_new()
            if for_loop:
                return _select(connection, task_id)
            if self._lookup is None:
                self._open_lookup(generation)
            return _read_in_place(connection, task_id, in_turn=in_turn)
        except sqlite3.Error as error:
            public = _unavailable(self._name, self._path, error)
            if _is_busy(error):
                raise _Busy(public) from error
            self.discard()  # whatever it is, it shall not be met again through what is open now
            raise public from error
        finally:
            self._take_back(connection, generation)

    def look_up(self, task_id: str) -> bytes | None:
        """The document, read on the event loop without giving up the interpreter lock.

        Raises LookupFailed if that cannot be done now; ``fetch_one`` can then, or says why not.
        """
        with self._mutex:
            lookup = self._lookup
            if lookup is None or lookup.moved():
                raise LookupFailed  # none is open yet, or the file was replaced
            try:
                return lookup.find(task_id)
            except LookupFailed:
                self._close_lookup()
                raise

    def _open_lookup(self, generation: int) -> None:
        """Open the connection of ``look_up``, if the file is still that of ``generation``; for threads."""
        if os.path.realpath(self._path) != self._path:
            return  # SQLite would not notice that a link leads elsewhere
        lookup = open_lookup(self._uri, _SELECT)
        if lookup is None:
            return
        with self._mutex:
            if self._lookup is None and generation == self._generation and _identity(self._path) == self._file:
                self._lookup = lookup
                return
        lookup.close()

    def discard(self) -> None:
        """Close every connection, those in use as soon as they come back."""
        with self._mutex:
            self._discard()

    def _reserve(self) -> int:
        """Count one connection as in use; returns the generation that it is of."""
        file = self._look()
        with self._mutex:
            if file != self._file:
                self._discard()
                self._file = file
            if self._outdated:
                raise _Busy(_gone(self._name, "it was replaced, and a read of the old file has not come back"))
            self._in_use += 1
            return self._generation

    def _idle_or_new(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._open()

    def _for_loop(self) -> sqlite3.Connection:
        try:
            return self._idle_for_loop.pop()
        except IndexError:
            raise _Busy(_gone(self._name, "no connection to it is open")) from None

    def _take_back(self, connection: sqlite3.Connection | None, generation: int) -> None:
        with self._mutex:
            if generation == self._generation:
                self._in_use -= 1
                if connection is not None:
                    (self._idle if self._idle_for_loop else self._idle_for_loop).append(connection)
                return
            if connection is not None:
                connection.close()
            self._outdated -= 1

    def _look(self) -> tuple[int, int]:
        """The device and inode of the file."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - several times faster than pathlib, and done for every read
        except OSError as error:
            self.discard()
            missing = isinstance(error, FileNotFoundError)
            raise _gone(self._name, "there is no such file" if missing else "it cannot be reached") from error
        if not stat.S_ISREG(status.st_mode):
            self.discard()
            raise _gone(self._name, _NOT_A_FILE)
        return status.st_dev, status.st_ino

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        connection.text_factory = bytes  # the document is bytes from here to the wire
        return connection

    def _discard(self) -> None:
        self._generation += 1
        self._file = None
        self._outdated += self._in_use
        self._in_use = 0
        self._close_lookup()
        for connections in (self._idle, self._idle_for_loop):
            while connections:
                connections.pop().close()

    def _close_lookup(self) -> None:
        if self._lookup is not None:
            self._lookup.close()
            self._lookup = None


def _select(connection: sqlite3.Connection, task_id: str) -> tuple[Any, ...] | None:
    return connection.execute(_SELECT, (task_id,)).fetchone()  # type: ignore[no-any-return]


def _read_in_place(connection: sqlite3.Connection, task_id: str, *, in_turn: bool) -> tuple[Any, ...] | None:
    """As ``_select``, in a third of its time for 10 MB, and without the interpreter lock; in 3 µs more for a small one.

    ``_select`` keeps the lock for 10 ms while it copies 10 MB. Raises HugeDocument, as ``cold_reads.Read`` does;
    where a value has no place of its own, its size is not known before it is copied.
    """
    try:
        with _transaction(connection):  # in which a row keeps its place
            if connection.execute("PRAGMA encoding").fetchone() == (b"UTF-8",):
                place = connection.execute(_SELECT_PLACE, (task_id,)).fetchone()
                if place is None:
                    return None
                if isinstance(place[0], int) and place[1] in {b"text", b"blob"}:
                    with connection.blobopen("task", "json_data", place[0], readonly=True) as blob:
                        if len(blob) > HUGE_DOCUMENT and not in_turn:
                            raise HugeDocument
                        return (blob.read(),)
    except sqlite3.OperationalError as error:
        if _primary_code(error) != sqlite3.SQLITE_ERROR:  # a table without rowid
            raise
    return _select(connection, task_id)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


class SqliteWriter(Writer):
    """Writes the table ``task`` of one file, creating both if need be."""

    def __init__(self, path: str) -> None:
        """Open ``path`` for writing; raises StoreUnavailable if that fails or the file is not ours."""
        super().__init__(path)
        self._path = os.path.abspath(path)  # noqa: PTH100 - as in the reader
        with ExitStack() as on_failure, self._faults():
            _make_private(self._path)
            # Not SQLite's own waiting for locks: it would keep Ctrl-C waiting too.
            self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            on_failure.callback(self._connection.close)
            self._prepare()
            on_failure.pop_all()

    def _write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        if self._file != _identity(self._path):
            raise _gone(self._name, "the file was removed or replaced while it was written to")
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
        self._empty_log()  # everything is then in the file itself, which can be copied or moved alone
        self._connection.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Say what is wrong with the database in words for people."""
        try:
            yield
        except sqlite3.Error as error:
            raise _unavailable(self._name, self._path, error) from error

    def _prepare(self) -> None:
        """Make the layout in an empty database, or see that it is there."""
        self._execute_patiently(f"PRAGMA page_size = {_PAGE_BYTES}")  # of a file that is yet to be made
        self._execute_patiently("BEGIN IMMEDIATE")
        if not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._connection.execute(_LAYOUT)
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._connection.execute(f"PRAGMA user_version = {LAYOUT_VERSION}")
            self.created = True
        elif problem := self._foreign():
            raise _gone(self._name, problem)
        self._execute_patiently("COMMIT")
        self._file = _identity(self._path)
        if self._execute_patiently("PRAGMA journal_mode = WAL") != ("wal",):
            raise _gone(self._name, "its file system does not support SQLite's write-ahead log")
        # A crash of the machine may lose the last batches but damages nothing, and an import is safe to run again.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(f"PRAGMA cache_size = {-_CACHE_BYTES // 1024}")
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        variables = self._connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)  # 999 before SQLite 3.32
        self._rows_per_statement = min(_ROWS_PER_STATEMENT, variables // 3)

    def _foreign(self) -> str | None:
        """Why this database is not for us to write to, or None."""
        (application_id,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application_id != APPLICATION_ID:
            return "it belongs to another program (Conductor's own?), and taskgate writes only into databases it made"
        if version != LAYOUT_VERSION:
            return f"it has layout {version}, and this taskgate writes layout {LAYOUT_VERSION}"
        return None

    def _execute_patiently(self, statement: str) -> tuple[Any, ...] | None:
        """Execute ``statement``, waiting for other writers without being deaf to Ctrl-C; returns the first row."""
        deadline = time.monotonic() + WRITE_BUSY_TIMEOUT
        pause = 0.001
        while True:
            try:
                return self._connection.execute(statement).fetchone()  # type: ignore[no-any-return]
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
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
        """See ``compare``. One document at a time: a tie is met for each task of an import that is run again."""
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
        """Copy the write-ahead log into the file and cut it to nothing, if readers allow that within a second."""
        try:
            self._connection.execute(f"PRAGMA busy_timeout = {READ_BUSY_TIMEOUT * 1000:.0f}")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._connection.execute("PRAGMA busy_timeout = 0")
        except sqlite3.Error:
            return  # nothing is lost: what is in the log is in the database


def _make_private(path: str) -> None:
    """Make the file where there is none, for its owner alone; SQLite gives its log and its index the same mode."""
    if not os.path.exists(path):  # noqa: PTH110 - as in the reader
        with suppress(OSError):  # SQLite meets it again, and says what it is
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - once a batch
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_busy(error: sqlite3.Error) -> bool:
    return _primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _primary_code(error: sqlite3.Error) -> int:
    # Extended result codes keep the primary one in their low byte; errors of the module itself have none.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _unavailable(name: str, path: str, error: sqlite3.Error) -> StoreUnavailable:
    code = _primary_code(error)
    reason = _REASONS.get(code, "SQLite reported an error")
    if code == sqlite3.SQLITE_CANTOPEN:
        if not os.path.isdir(os.path.dirname(path)):  # noqa: PTH112, PTH120 - nothing else here has a Path
            reason = "its folder does not exist"
        elif os.path.isdir(path):  # noqa: PTH112
            reason = _NOT_A_FILE
    return _gone(name, reason)


def _gone(name: str, reason: str) -> StoreUnavailable:
    return StoreUnavailable(reason, store=name)

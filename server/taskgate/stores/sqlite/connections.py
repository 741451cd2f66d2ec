"""Keep a pool of read-only connections to the current file at a path.

A file can be replaced under running servers by renaming another one over it. Each read therefore checks which file is
at the path, and connections to an earlier file are closed.
"""

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.single_flight import HUGE_DOCUMENT
from taskgate.stores.sqlite.cold_reads import HugeDocument
from taskgate.stores.sqlite.faults import NOT_A_FILE, gone, is_busy, primary_code, unavailable
from taskgate.stores.sqlite.lookup import Lookup, LookupFailed, open_lookup

_SELECT = "SELECT json_data FROM task WHERE task_id = ?"

_SELECT_PLACE = "SELECT rowid, typeof(json_data) FROM task WHERE task_id = ?"


class Busy(Exception):
    """A lock blocks the read; a retry may succeed soon. ``public`` is the error to raise if retries fail."""

    def __init__(self, public: StoreUnavailable) -> None:
        self.public = public


class Connections:
    """A thread-safe pool of read-only connections to the current file at ``path``.

    Connections to a removed file and to its successor must not be open at once: both would map the same ``-shm`` file,
    and SQLite, taking the new connection for the first one, would reset it under the old.
    """

    def __init__(self, path: str) -> None:
        self._name = path
        self._path = os.path.abspath(path)  # noqa: PTH100 - a string is what os.stat takes fastest
        self._uri = f"{Path(self._path).as_uri()}?mode=ro"
        self._mutex = threading.Lock()
        self._file: tuple[int, int] | None = None  # device and inode of the file that is open
        self._generation = 0  # counts such files
        self._idle: list[sqlite3.Connection] = []
        self._idle_for_loop: list[sqlite3.Connection] = []  # one at most
        self._lookup: Lookup | None = None
        self._in_use = 0
        self._outdated = 0  # in use, but of an earlier generation: closed on return

    def fetch_one(self, task_id: str, *, for_loop: bool = False, in_turn: bool = False) -> tuple[Any, ...] | None:
        """Return the document in a tuple, text as bytes; waits only for the disk. Raises StoreUnavailable or Busy.

        ``for_loop`` uses the connection that threads opened and reserve for the loop; without one, it raises Busy.
        Unless ``for_loop`` or ``in_turn``, a document of over ``HUGE_DOCUMENT`` bytes raises HugeDocument.
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
            public = unavailable(self._name, self._path, error)
            if is_busy(error):
                raise Busy(public) from error
            self.discard()  # the next read uses a new connection
            raise public from error
        finally:
            self._take_back(connection, generation)

    def look_up(self, task_id: str) -> bytes | None:
        """Read the document on the event loop without releasing the interpreter lock.

        Raises LookupFailed if that is impossible now; ``fetch_one`` then reads it or raises the reason.
        """
        with self._mutex:
            lookup = self._lookup
            if lookup is None or lookup.moved():
                raise LookupFailed  # not open yet, or the file was replaced
            try:
                return lookup.find(task_id)
            except LookupFailed:
                self._close_lookup()
                raise

    def _open_lookup(self, generation: int) -> None:
        """Open the connection of ``look_up``, in a thread, if the file is still that of ``generation``."""
        if os.path.realpath(self._path) != self._path:
            return  # SQLite would not notice a changed link
        lookup = open_lookup(self._uri, _SELECT)
        if lookup is None:
            return
        with self._mutex:
            if self._lookup is None and generation == self._generation and identity(self._path) == self._file:
                self._lookup = lookup
                return
        lookup.close()

    def discard(self) -> None:
        """Close every connection; those in use are closed on return."""
        with self._mutex:
            self._discard()

    def _reserve(self) -> int:
        """Count one connection as in use and return its generation."""
        file = self._look()
        with self._mutex:
            if file != self._file:
                self._discard()
                self._file = file
            if self._outdated:
                raise Busy(gone(self._name, "it was replaced, and a read of the old file has not ended"))
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
            raise Busy(gone(self._name, "no connection to it is open")) from None

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
        """Return the device and inode of the file."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - several times faster than pathlib, and done for every read
        except OSError as error:
            self.discard()
            missing = isinstance(error, FileNotFoundError)
            raise gone(self._name, "there is no such file" if missing else "it cannot be reached") from error
        if not stat.S_ISREG(status.st_mode):
            self.discard()
            raise gone(self._name, NOT_A_FILE)
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
    """Read like ``_select``, but for 10 MB in a third of the time and without the interpreter lock.

    ``_select`` keeps the lock for 10 ms while it copies 10 MB. A small document takes 3 µs more here. Raises
    HugeDocument, as ``cold_reads.Read`` does; a value that ``blobopen`` cannot open is copied whatever its size.
    """
    try:
        with _transaction(connection):  # which keeps the row in its place
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
        if primary_code(error) != sqlite3.SQLITE_ERROR:  # a table without rowid
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


def identity(path: str) -> tuple[int, int] | None:
    """Return device and inode of the file at ``path``, or None if it cannot be reached."""
    try:
        status = os.stat(path)  # noqa: PTH116 - once a batch
    except OSError:
        return None
    return status.st_dev, status.st_ino

"""Read tasks from one SQLite file: the embedded default, or the file of a Conductor that uses SQLite.

taskgate's own table has Conductor's columns (``SqliteExecutionDAO``) and one more, so one statement reads both. In
write-ahead mode, readers in any number of processes run beside one writer.

To replace the file under running servers, rename another one over it. Do not overwrite it in place: SQLite promises
nothing about a file that changes while it is open.
"""

import time

from taskgate.base.errors import DocumentUnreadable
from taskgate.base.layout import Layout
from taskgate.stores.base import StoreState
from taskgate.stores.single_flight import SingleFlight
from taskgate.stores.sqlite.cold_reads import ColdReads
from taskgate.stores.sqlite.connections import Busy, Connections
from taskgate.stores.sqlite.lookup import LookupFailed

READ_BUSY_TIMEOUT = 1.0
"""Seconds a read waits for a lock; in write-ahead mode, only recovery and exclusive locks block reads."""

_BUSY_INTERVAL = 0.005
"""Seconds between two attempts of a read that waits for a lock."""

_VERY_SLOW_READ = 0.1
"""Seconds of a read on the event loop after which the next reads run in threads."""

_LEAVE_FACTOR = 60
"""For how many times as long, so that slow reads block calls 2 % of the time."""


class SqliteStore:
    """Read the table ``task`` of one file, which may be missing, locked, removed or replaced at any time.

    Reads that need no wait for the disk run on the event loop, all others in a thread.
    """

    def __init__(self, path: str, layout: Layout = Layout.TASKGATE) -> None:
        """Open nothing yet: every read looks ``path`` up anew. Both layouts have the same two columns."""
        del layout
        self._connections = Connections(path)
        self._cold = ColdReads(path, self._read_patiently)
        # Patient: however often a caller retries, a task that waits for the disk occupies one thread.
        self._flights = SingleFlight(self._cold, patient=True)
        self._in_threads_until = 0.0

    async def get_document(self, task_id: str) -> bytes | None:
        """See ``TaskStore``."""
        began = time.monotonic()
        if began < self._in_threads_until or not self._cold.is_quick(task_id, began):
            return await self._flights.get_document(task_id)
        try:
            document = self._read_on_loop(task_id)
        except Busy:
            return await self._flights.get_document(task_id)
        seconds = time.monotonic() - began
        self._cold.note(task_id, document, seconds)
        if seconds > _VERY_SLOW_READ:
            self._in_threads_until = began + _LEAVE_FACTOR * seconds
        return document

    async def check(self) -> None:
        """See ``TaskStore``."""
        await self._cold.check()

    def state(self) -> StoreState:
        """See ``TaskStore``."""
        return self._cold.state()

    async def close(self) -> None:
        """See ``TaskStore``."""
        await self._flights.close()
        self._connections.discard()

    def _read_on_loop(self, task_id: str) -> bytes | None:
        try:
            return self._connections.look_up(task_id)
        except LookupFailed:
            return self._read(task_id, for_loop=True)  # reads it anyway, or raises the reason
        except UnicodeEncodeError:  # a lone surrogate
            return None

    def _read_patiently(self, task_id: str, asked: float, *, in_turn: bool) -> bytes | None:
        """Call ``_read``, and retry while a lock blocks it, until ``READ_BUSY_TIMEOUT`` seconds after ``asked``.

        Waiting for a thread counts, so a lock delays a full queue no longer than one read. Raises HugeDocument, as
        ``cold_reads.Read`` does.
        """
        deadline = asked + READ_BUSY_TIMEOUT
        while True:
            try:
                return self._read(task_id, in_turn=in_turn)
            except Busy as busy:
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

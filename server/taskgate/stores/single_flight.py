"""What reads share and what they may take from one another: a ``TaskStore`` around a ``TaskStore``.

Many identical reads at once cost a database no more than one. Large documents are read a few at a time, so that there
are always connections, or threads, for small ones.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any, Final, Protocol

from taskgate.stores.base import TaskStore
from taskgate.stores.recent import Recent

LARGE_DOCUMENT: Final = 256 * 1024
"""Bytes of a document that is slow to read wherever it comes from."""

LONGEST_WAIT: Final = 0.5
"""Seconds that a read waits for the one before it: short, because both together must fail within three."""


_LARGE_AT_ONCE: Final = 4
"""Reads of documents known to be large that a store has at once: half of a database's connections."""

HUGE_DOCUMENT: Final = 1024 * 1024
HUGE_AT_ONCE: Final = 2
"""Larger ones, of which so many are read at once: the other turns are for large ones that take less time."""

_KNOWN_LARGE: Final = (10_000, 600.0)
"""How many tasks are known to be large, for how many seconds; twice that at most."""


class AbandonableStore(TaskStore, Protocol):
    """A store that can be told that a read is in vain."""

    def abandon(self, read: asyncio.Task[Any]) -> None:
        """Cancel the task ``read``, which is in ``get_document``, unless that costs others more than it saves."""
        ...


class SingleFlight:
    """Reads of one ID share a flight, if it has not yet left when they come.

    A flight that is on its way may have looked before a write that its new passenger must see. So whoever comes late
    takes the next one, which leaves when the first is back: a crowd costs two reads at a time, not one for each caller.
    """

    def __init__(self, store: AbandonableStore, *, patient: bool = False, cancellable: bool = False) -> None:
        """``store`` does the reading. If ``patient``, a flight waits for the one before it however long that takes.

        If ``cancellable``, a cancelled read costs the store nothing: a small document that no other caller is reading
        is then read in the caller's own task, for less than half of the CPU time of a flight.
        """
        self._store = store
        self._cancellable = cancellable
        self._longest_wait = None if patient else LONGEST_WAIT
        self._boarding: dict[str, _Flight] = {}
        self._flying: dict[str, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._large = Recent(*_KNOWN_LARGE)
        self._large_turns = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._huge = Recent(*_KNOWN_LARGE)
        self._huge_turns = asyncio.Semaphore(HUGE_AT_ONCE)

    async def get_document(self, task_id: str) -> bytes | None:
        """See ``TaskStore``. A shared read goes on when a caller is cancelled, but the last one."""
        loop = asyncio.get_running_loop()
        if self._cancellable and task_id not in self._flying and not self._large.has(task_id, time.monotonic()):
            return await self._read_alone(task_id, loop.create_future())
        passenger: asyncio.Future[bytes | None] = loop.create_future()
        flight = self._boarding.get(task_id)
        if flight is None:
            flight = self._boarding[task_id] = _Flight()
            task = flight.task = loop.create_task(self._fly(task_id, flight))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        flight.passengers.append(passenger)
        flight.wanted += 1
        try:
            return await passenger
        except asyncio.CancelledError:
            flight.wanted -= 1
            # A large one keeps its turn until the store is done with it: an answer that is on its way comes anyway.
            if not flight.wanted and flight.left and not flight.large and flight.task is not None:
                self._store.abandon(flight.task)
            raise

    async def check(self) -> None:
        """See ``TaskStore``."""
        await self._store.check()

    async def close(self) -> None:
        """See ``TaskStore``."""
        await self._store.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _read_alone(self, task_id: str, end: asyncio.Future[None]) -> bytes | None:
        """Read in the caller's task. Who comes before the ``end`` boards the next flight, which waits for it."""
        self._flying[task_id] = end
        try:
            document = await self._store.get_document(task_id)
        finally:
            if self._flying.get(task_id) is end:
                del self._flying[task_id]
            end.set_result(None)
        self._note_size(task_id, document)
        return document

    async def _fly(self, task_id: str, flight: "_Flight") -> None:
        try:
            document = await self._read(task_id, flight)
        except asyncio.CancelledError:  # nobody wants it any more, or the loop is being closed
            for passenger in flight.passengers:
                passenger.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where the question was asked
            for passenger in flight.passengers:
                if not passenger.done():
                    passenger.set_exception(error)
        else:
            for passenger in flight.passengers:
                if not passenger.done():
                    passenger.set_result(document)

    async def _read(self, task_id: str, flight: "_Flight") -> bytes | None:
        flight.large = self._large.has(task_id, time.monotonic())
        async with AsyncExitStack() as turn:
            try:
                before = self._flying.get(task_id)
                if before is not None:
                    await asyncio.wait([before], timeout=self._longest_wait)
                if flight.large and self._huge.has(task_id, time.monotonic()):
                    await turn.enter_async_context(self._huge_turns)
                if flight.large:
                    await turn.enter_async_context(self._large_turns)
            finally:
                del self._boarding[task_id]  # the read begins: from here on nobody else may come along
            return await self._depart(task_id, flight) if flight.wanted else None

    async def _depart(self, task_id: str, flight: "_Flight") -> bytes | None:
        flight.left = True
        task = flight.task
        assert task is not None  # noqa: S101 - this is a coroutine of it
        self._flying[task_id] = task
        try:
            document = await self._store.get_document(task_id)
        finally:
            if self._flying.get(task_id) is task:
                del self._flying[task_id]
        self._note_size(task_id, document, known_large=flight.large)
        return document

    def _note_size(self, task_id: str, document: bytes | None, *, known_large: bool = False) -> None:
        if document is not None and len(document) > LARGE_DOCUMENT:
            self._large.add(task_id, time.monotonic())
            if len(document) > HUGE_DOCUMENT:
                self._huge.add(task_id, time.monotonic())
            else:
                self._huge.discard(task_id)
        elif known_large:
            self._large.discard(task_id)


class _Flight:
    """A read, and who waits for it."""

    __slots__ = ("large", "left", "passengers", "task", "wanted")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.passengers: list[asyncio.Future[bytes | None]] = []
        self.wanted = 0  # by how many passengers that were not cancelled
        self.left = False
        self.large = False

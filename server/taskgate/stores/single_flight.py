"""Share identical reads, and limit large ones: a ``TaskStore`` around a ``TaskStore``.

Many identical reads at once cost a database no more than one. Large documents are read a few at a time, which keeps
connections, or threads, free for small ones.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any, Final, Protocol

from taskgate.stores.base import StoreState, TaskStore
from taskgate.stores.recent import Recent

LARGE_DOCUMENT: Final = 256 * 1024
"""Bytes of a document that is slow to read from any store."""

LONGEST_WAIT: Final = 0.5
"""Seconds that a read waits for the one before it: short, because both together must fail within three."""

_LARGE_AT_ONCE: Final = 4
"""Concurrent reads of documents known to be large: half of a database's connections."""

HUGE_DOCUMENT: Final = 1024 * 1024
HUGE_AT_ONCE: Final = 2
"""Concurrent reads of documents above ``HUGE_DOCUMENT``: the other turns are for large ones that take less time."""

_KNOWN_LARGE: Final = (10_000, 600.0)
"""How many tasks are remembered as large, for how many seconds; twice that at most."""


class AbandonableStore(TaskStore, Protocol):
    """A store that can abandon a read without callers."""

    def abandon(self, read: asyncio.Task[Any]) -> None:
        """Cancel the task ``read``, which runs ``get_document``, unless that costs other reads more than it saves."""
        ...


class SingleFlight:
    """Share one read (a flight) among the callers that ask for the same ID before it starts.

    A read in flight may have missed a write that a new caller must see. So a late caller joins the next flight, which
    starts when the first one ends: many callers cost two reads, not one for each.
    """

    def __init__(self, store: AbandonableStore, *, patient: bool = False, cancellable: bool = False) -> None:
        """``store`` does the reading. If ``patient``, a flight waits for the one before it without a limit.

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
        """See ``TaskStore``. A shared read outlives its callers; only cancelling the last one abandons it."""
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
            # A large read keeps its turn until the store is done: an answer that is being sent arrives anyway.
            if not flight.wanted and flight.left and not flight.large and flight.task is not None:
                self._store.abandon(flight.task)
            raise

    async def check(self) -> None:
        """See ``TaskStore``."""
        await self._store.check()

    def state(self) -> StoreState:
        """See ``TaskStore``."""
        return self._store.state()

    async def close(self) -> None:
        """See ``TaskStore``."""
        await self._store.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _read_alone(self, task_id: str, end: asyncio.Future[None]) -> bytes | None:
        """Read in the caller's task. Callers that come before the ``end`` join the next flight, which waits for it."""
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
        except asyncio.CancelledError:  # abandoned by all callers, or the loop is being closed
            for passenger in flight.passengers:
                passenger.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - raised in each caller
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
                del self._boarding[task_id]  # the read begins: later callers join the next flight
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
    """A read and its waiting callers."""

    __slots__ = ("large", "left", "passengers", "task", "wanted")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.passengers: list[asyncio.Future[bytes | None]] = []
        self.wanted = 0  # passengers that were not cancelled
        self.left = False
        self.large = False

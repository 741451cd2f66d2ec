"""Many identical reads at once cost a database no more than one: a ``TaskStore`` around a ``TaskStore``."""

import asyncio
from typing import Final

from taskgate.stores.base import TaskStore

LONGEST_WAIT: Final = 0.5
"""Seconds that a read waits for the one before it: short, because both together must fail within three."""


class SingleFlight:
    """Reads of one ID share a flight, if it has not yet left when they come.

    A flight that is on its way may have looked before a write that its new passenger must see. So whoever comes late
    takes the next one, which leaves when the first is back: a crowd costs two reads at a time, not one for each caller.
    """

    def __init__(self, store: TaskStore) -> None:
        """``store`` does the reading."""
        self._store = store
        self._boarding: dict[str, _Flight] = {}
        self._flying: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def get_document(self, task_id: str) -> bytes | None:
        """See ``TaskStore``. The read is nobody's own: it goes on when a caller is cancelled."""
        loop = asyncio.get_running_loop()
        passenger: asyncio.Future[bytes | None] = loop.create_future()
        flight = self._boarding.get(task_id)
        if flight is None:
            flight = self._boarding[task_id] = []
            task = loop.create_task(self._fly(task_id, flight))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        flight.append(passenger)
        return await passenger

    async def check(self) -> None:
        """See ``TaskStore``."""
        await self._store.check()

    async def close(self) -> None:
        """See ``TaskStore``."""
        await self._store.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _fly(self, task_id: str, flight: "_Flight") -> None:
        try:
            document = await self._read(task_id, flight)
        except asyncio.CancelledError:  # the loop is being closed
            for passenger in flight:
                passenger.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where the question was asked
            for passenger in flight:
                if not passenger.done():
                    passenger.set_exception(error)
        else:
            for passenger in flight:
                if not passenger.done():
                    passenger.set_result(document)

    async def _read(self, task_id: str, flight: "_Flight") -> bytes | None:
        try:
            before = self._flying.get(task_id)
            if before is not None:
                await asyncio.wait([before], timeout=LONGEST_WAIT)
        finally:
            del self._boarding[task_id]  # the read begins: from here on nobody else may come along
        if all(passenger.done() for passenger in flight):  # they were cancelled
            return None
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine of one
        self._flying[task_id] = task
        try:
            return await self._store.get_document(task_id)
        finally:
            if self._flying.get(task_id) is task:
                del self._flying[task_id]


_Flight = list[asyncio.Future[bytes | None]]

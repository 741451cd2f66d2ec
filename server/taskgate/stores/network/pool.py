"""Connection pool to a database on the network, for the reads of one event loop.

Everything is bounded: connections, reads that wait for one, and the time that a read may take. When the database is
known to be away, one read at a time probes it, and all others are refused at once (``Circuit``).
"""

import asyncio
import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.base import StoreState
from taskgate.stores.network.circuit import Circuit
from taskgate.stores.refusals import CLOSED, overloaded

LONGEST_READ = 10.0
"""Seconds outside the queue after which a read counts as hung and is cancelled, even if others are answered."""

_CHECK_INTERVAL = 0.1
"""Seconds between two checks for reads that take too long: one timer for all of them costs a read nothing."""


class PooledConnection(Protocol):
    """What the pool requires of a connection."""

    def is_closed(self) -> bool:
        """Whether the connection is known to be lost."""
        ...

    def terminate(self) -> None:
        """End the connection without waiting for anything."""
        ...


C = TypeVar("C", bound=PooledConnection)
Answer = TypeVar("Answer")


class ConnectionPool(Generic[C]):
    """Up to ``size`` connections, made by ``connect`` when they are needed.

    ``store`` is what messages call the database. ``explain`` turns a driver's exception into a public one. It returns
    None for an exception that says nothing about the database, which is raised unchanged.

    A read fails with Overloaded if it finds ``max_waiting`` others in the queue. It fails with StoreUnavailable after
    ``timeout`` seconds in which no read was answered: a queue behind large documents is no outage.
    """

    def __init__(
        self,
        store: str,
        connect: Callable[[], Awaitable[C]],
        explain: Callable[[Exception], StoreUnavailable | None],
        *,
        size: int = 8,
        max_waiting: int = 1024,
        timeout: float = 2.0,
    ) -> None:
        self._store = store
        self._connect = connect
        self._explain = explain
        self._size = size
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._open = 0  # including connections being made
        self._idle: list[C] = []  # last in, first out: its caches are warm, and the others can be closed
        self._queue: deque[tuple[int, asyncio.Future[C | None]]] = deque()  # by place; None: there is room
        self._places = itertools.count(1)
        self._timed_from: dict[asyncio.Task[object], float] = {}  # start times, which `_wait` moves
        self._waiting: set[asyncio.Task[object]] = set()
        self._cancellations: Counter[asyncio.Task[object]] = Counter()  # how often the pool has cancelled each
        self._timer: asyncio.TimerHandle | None = None
        self._last_answer = -math.inf  # the clock may have started a moment ago, with the machine
        self._circuit = Circuit(self._unavailable)
        self._closed = False

    @property
    def making_progress(self) -> bool:
        """Whether reads wait while others are answered: the database is busy but available."""
        return bool(self._queue) and time.monotonic() - self._last_answer < self._timeout

    async def run(self, read: Callable[[C], Awaitable[Answer]], *, refusable: bool = True) -> Answer:
        """Run ``read`` with a connection and return its result. If the connection is lost, retry on another one.

        With ``refusable`` False, the read tries even if the database is known to be away or many reads wait, and goes
        to the front of the queue.

        Raises StoreUnavailable or Overloaded.
        """
        if self._closed:
            raise self._unavailable(CLOSED)
        if refusable and self._circuit.reason is not None:
            return await self._circuit.probe(lambda: self._run_watched(read))
        return await self._run_watched(read, refusable=refusable)

    def state(self) -> StoreState:
        """Return the state now."""
        idle = len(self._idle)
        return StoreState(self._open - idle, idle, len(self._queue), refusing=self._circuit.reason is not None)

    def abandon(self, read: asyncio.Task[Any]) -> None:
        """Cancel the task ``read``, whose answer is not wanted any more, if it is in the queue.

        A read that has a connection continues: ended in the middle of an answer, it would cost the connection too. A
        read that is making a connection continues as well, for the next read.
        """
        if read in self._waiting:
            read.cancel()

    def close(self) -> None:
        """Terminate all connections; reads in flight and all later ones fail."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._timed_from:
            self._cancel_read(task)
        self._discard_idle()

    async def _run_watched(self, read: Callable[[C], Awaitable[Answer]], *, refusable: bool = True) -> Answer:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._timed_from[task] = time.monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_CHECK_INTERVAL, self._check_overdue)
        try:
            answer = await self._run(read, refusable=refusable)
        except BaseException:
            cancelled = self._cancellations.pop(task, 0)
            for _ in range(cancelled):
                task.uncancel()
            if cancelled and not task.cancelling():  # only the pool cancelled it
                raise self._failed_overdue() from None
            raise
        else:
            self._last_answer = time.monotonic()
            self._circuit.close()
            return answer
        finally:
            del self._timed_from[task]
            self._cancellations.pop(task, None)

    async def _run(self, read: Callable[[C], Awaitable[Answer]], *, refusable: bool) -> Answer:
        while True:
            connection, new = await self._acquire(refusable=refusable)
            try:
                answer = await read(connection)
            except StoreUnavailable as error:
                self._note_trouble(error)
                self._release(connection)
                raise
            except Exception as error:
                self._discard(connection)
                public = self._explain(error)
                if public is None:
                    raise
                if new:
                    self._note_trouble(public)
                    raise public from error
                self._discard_idle()  # the server seems to have restarted: all of them would fail
                refusable = False  # it was admitted before those that wait
            except BaseException:
                self._discard(connection)  # in the middle of an unread answer
                raise
            else:
                self._release(connection)
                return answer

    async def _acquire(self, *, refusable: bool) -> tuple[C, bool]:
        """Return a connection, and whether it is new."""
        place: int | None = None
        while True:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection, False
                self._open -= 1
            if self._open < self._size:
                made = await self._make()
                if made is not None:
                    return made, True
                if self._idle:
                    continue
            if place is None:
                place = self._take_place(refusable=refusable)
            given = await self._wait(place)
            if given is not None:
                if not given.is_closed():
                    return given, False
                self._discard(given)

    async def _make(self) -> C | None:
        """Return a new connection; None if it fails while others are open: the caller then waits for those."""
        self._open += 1
        try:
            return await self._connect()
        except Exception as error:
            self._open -= 1
            if self._open:
                return None
            public = self._explain(error)
            if public is None:
                self._offer_room()
                raise
            self._open_circuit(public)
            raise public from error
        except BaseException:
            self._open -= 1
            self._offer_room()
            raise

    def _take_place(self, *, refusable: bool) -> int:
        """Return a place in the queue, which a read keeps until it has a connection. Raises Overloaded."""
        if not refusable:
            return -next(self._places)  # the front
        if len(self._queue) >= self._max_waiting:
            raise overloaded(self._max_waiting)
        return next(self._places)

    async def _wait(self, place: int) -> C | None:
        """Wait for another read to end. Return its connection, or None if a new one may be made.

        The room for a new one is not reserved: if another read takes it first, this one waits again at its place.
        """
        turn: asyncio.Future[C | None] = asyncio.get_running_loop().create_future()
        entry = (place, turn)
        if self._queue and place < self._queue[-1][0]:
            index = next(index for index, (other, _) in enumerate(self._queue) if place < other)  # near the front
            self._queue.insert(index, entry)
        else:
            self._queue.append(entry)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._waiting.add(task)
        try:
            given = await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # it was skipped over already
                    self._queue.remove(entry)
            elif turn.exception() is None:
                self._pass_on(turn.result())
            raise
        finally:
            self._waiting.discard(task)
        # Its time begins with the last answer to others in the meantime; without one, it runs from the start.
        self._timed_from[task] = max(self._timed_from[task], self._last_answer)
        return given

    def _release(self, connection: C) -> None:
        if self._closed or connection.is_closed():
            self._discard(connection)
        elif not self._offer_connection(connection):
            self._idle.append(connection)

    def _discard(self, connection: C) -> None:
        connection.terminate()
        self._open -= 1
        self._offer_room()

    def _pass_on(self, given: C | None) -> None:
        if given is None:
            self._offer_room()
        else:
            self._release(given)

    def _offer_connection(self, connection: C) -> bool:
        """Give a connection to the first read in the queue; False if the queue is empty."""
        return self._end_wait(connection)

    def _offer_room(self) -> None:
        """Let the first read in the queue make a connection, unless another read does so before it resumes."""
        self._end_wait(None)

    def _end_wait(self, given: C | None) -> bool:
        while self._queue:
            _, turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(given)
                return True
        return False

    def _discard_idle(self) -> None:
        while self._idle:
            self._idle.pop().terminate()
            self._open -= 1

    def _check_overdue(self) -> None:
        now = time.monotonic()
        quiet_since = now - self._timeout
        for task, began in self._timed_from.items():
            hangs = now - began >= LONGEST_READ and task not in self._waiting
            if hangs or max(began, self._last_answer) <= quiet_since:
                self._cancel_read(task)
        if self._cancellations:  # before they release their connections to others, whose time would begin anew
            self._note_trouble(self._silent())
        self._timer = None
        if self._timed_from:
            self._timer = asyncio.get_running_loop().call_later(_CHECK_INTERVAL, self._check_overdue)

    def _cancel_read(self, task: asyncio.Task[object]) -> None:
        """Cancel the task; may be called again if the task is slow to end."""
        self._cancellations[task] += 1
        task.cancel()

    def _failed_overdue(self) -> StoreUnavailable:
        if self._closed:
            return self._unavailable(CLOSED)
        error = self._silent()
        self._note_trouble(error)
        return error

    def _silent(self) -> StoreUnavailable:
        return self._unavailable("it does not answer")

    def _unavailable(self, reason: str) -> StoreUnavailable:
        return StoreUnavailable(reason, store=self._store)

    def _note_trouble(self, error: StoreUnavailable) -> None:
        """Refuse other reads, unless some were answered recently: then one failure says little."""
        if time.monotonic() - self._last_answer >= self._timeout:
            self._open_circuit(error)

    def _open_circuit(self, error: StoreUnavailable) -> None:
        """Refuse the waiting reads and all later ones, except for one probe at a time."""
        if self._closed:
            return
        self._circuit.open(error.reason)
        while self._queue:
            _, turn = self._queue.popleft()
            if not turn.done():
                turn.set_exception(self._unavailable(error.reason))

"""Connection pool to a database on the network, for the reads of one event loop.

Bounded are the connections, the reads that wait for one, and the time that a read may hold one. Waiting ends when no
read has been answered for ``timeout`` seconds; the caller's deadline is the only other limit.

When the database is known to be away, one read at a time probes it, and all others are refused at once (``Circuit``).
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.base import StoreState
from taskgate.stores.network.arrivals import Arrivals
from taskgate.stores.network.circuit import Circuit
from taskgate.stores.network.read_queue import ReadQueue, Turn
from taskgate.stores.refusals import CLOSED

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
    ``timeout`` seconds in which no read was answered: a queue behind large documents is no outage. ``received`` returns
    how many bytes a connection has received, if that is known: a part of a large answer then counts as an answer.
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
        received: Callable[[C], int] | None = None,
    ) -> None:
        self._store = store
        self._connect = connect
        self._explain = explain
        self._size = size
        self._timeout = timeout
        # Between two turns of the event loop:
        # - `_open` <= `_size` counts the connections that are idle, in use, handed over to a read that has not resumed
        #   yet, or being made. Room that was only offered is not counted.
        # - While a read waits in `_queue`, `_idle` is empty, and a connection is open or room is offered to a read that
        #   has not resumed: something will end the first wait.
        # - A turn that got a connection owns it until its read resumes. If that read is cancelled, it passes it on.
        # - A read is in `_waiting` from when it enters the queue until it resumes; `abandon` cancels only these.
        # - `_cancellations[task]` counts how often the pool itself has cancelled the read's task. `_run_watched` takes
        #   them back by `uncancel`.
        self._open = 0
        self._idle: list[C] = []  # last in, first out: its caches are warm, and the others can be closed
        self._queue: ReadQueue[C] = ReadQueue(max_waiting)
        self._waiting: set[asyncio.Task[object]] = set()
        self._timed_from: dict[asyncio.Task[object], float] = {}  # a read's start, or its last wait's end; see `_wait`
        self._cancellations: Counter[asyncio.Task[object]] = Counter()
        self._arrivals = None if received is None else Arrivals(received)
        self._last_answer = -math.inf  # the clock may have started a moment ago, with the machine
        self._timer: asyncio.TimerHandle | None = None
        self._circuit = Circuit(self._unavailable)
        self._closed = False

    @property
    def making_progress(self) -> bool:
        """Whether reads wait while others are answered: the database is busy but available."""
        return len(self._queue) > 0 and time.monotonic() - self._last_answer < self._timeout

    async def run(self, read: Callable[[C], Awaitable[Answer]], *, refusable: bool = True) -> Answer:
        """Run ``read`` with a connection and return its result.

        ``read`` may run several times, on other connections, after a connection was lost; it must only read.

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
            if self._take_back_cancellations(task) and not task.cancelling():  # only the pool cancelled it
                raise self._failed_overdue() from None
            raise
        else:
            if self._cancellations:  # the driver may have suppressed one
                self._take_back_cancellations(task)
            self._last_answer = time.monotonic()
            self._circuit.close()
            return answer
        finally:
            del self._timed_from[task]

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
        turn: Turn[C] | None = None
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
            turn = self._queue.join(refusable=refusable) if turn is None else self._queue.rejoin(turn)
            given = await self._wait(turn)
            if given is not None:
                if not given.is_closed():
                    return given, False
                self._discard(given)

    async def _make(self) -> C | None:
        """Return a new connection; None if it fails while others are open: the caller then waits for those."""
        self._open += 1
        try:
            made = await self._connect()
        except Exception as error:
            self._open -= 1
            if self._open:
                return None
            public = self._explain(error)
            if public is None:
                self._queue.offer_room()
                raise
            self._open_circuit(public)
            raise public from error
        except BaseException:
            self._open -= 1
            self._queue.offer_room()
            raise
        if self._arrivals is not None:
            self._arrivals.add(made)
        return made

    async def _wait(self, turn: Turn[C]) -> C | None:
        """Wait for another read to end. Return its connection, or None if there may be room for a new one."""
        end = turn[1]
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._waiting.add(task)
        try:
            given = await end
        except asyncio.CancelledError:
            if end.cancelled():  # cancelling a task cancels the future that it waits for
                self._queue.leave(turn)
            elif end.exception() is None:
                self._pass_on(end.result())
            raise
        finally:
            self._waiting.discard(task)
        # Its time begins with the last answer to others in the meantime; without one, it runs from the start.
        self._timed_from[task] = max(self._timed_from[task], self._last_answer)
        return given

    def _release(self, connection: C) -> None:
        if self._closed or connection.is_closed():
            self._discard(connection)
        elif not self._queue.offer_connection(connection):
            self._idle.append(connection)

    def _discard(self, connection: C) -> None:
        connection.terminate()
        self._open -= 1
        self._queue.offer_room()

    def _pass_on(self, given: C | None) -> None:
        if given is None:
            self._queue.offer_room()
        else:
            self._release(given)

    def _discard_idle(self) -> None:
        while self._idle:
            self._idle.pop().terminate()
            self._open -= 1

    def _check_overdue(self) -> None:
        now = time.monotonic()
        if self._arrivals is not None and self._arrivals.noticed():
            self._last_answer = now
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

    def _take_back_cancellations(self, task: asyncio.Task[object]) -> bool:
        """Undo what ``_cancel_read`` has counted for the task; whether it was cancelled."""
        count = self._cancellations.pop(task, 0)
        for _ in range(count):
            task.uncancel()
        return count > 0

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
        self._queue.fail(lambda: self._unavailable(error.reason))

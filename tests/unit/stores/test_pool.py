"""The connection pool, on connections that do what they are told."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace

import pytest

from taskgate.base.errors import Overloaded, StoreUnavailable
from taskgate.stores.network import circuit
from taskgate.stores.network import pool as pool_module
from taskgate.stores.network.pool import ConnectionPool
from taskgate.stores.network.read_queue import Turn
from taskgate.stores.single_flight import SingleFlight


class Clock:
    """What ``ConnectionPool`` takes for the time; its timers go on by themselves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now: float = 1000.0) -> None:
        self.now = now
        monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic=lambda: self.now))


class Lost(Exception):
    """What the driver raises."""


class Connection:
    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        self.closed = True


class Server:
    """Makes connections while it is up."""

    def __init__(self) -> None:
        self.up = True
        self.made: list[Connection] = []
        self.making = 0
        self.attempts = 0
        self.speaks = asyncio.Event()
        self.speaks.set()

    @property
    def silent(self) -> bool:
        return not self.speaks.is_set()

    @silent.setter
    def silent(self, silent: bool) -> None:
        self.speaks.clear() if silent else self.speaks.set()

    async def connect(self) -> Connection:
        self.attempts += 1
        self.making += 1
        try:
            await asyncio.sleep(0)
            await self.speaks.wait()
        finally:
            self.making -= 1
        if not self.up:
            raise Lost
        self.made.append(Connection(len(self.made)))
        return self.made[-1]

    def open(self) -> int:
        return sum(not connection.closed for connection in self.made)


def explain(error: Exception) -> StoreUnavailable | None:
    return StoreUnavailable("lost") if isinstance(error, Lost) else None


def pool(server: Server, *, size: int = 2, max_waiting: int = 100, timeout: float = 0.3) -> ConnectionPool[Connection]:
    return ConnectionPool("db", server.connect, explain, size=size, max_waiting=max_waiting, timeout=timeout)


async def number_of(connection: Connection) -> int:
    await asyncio.sleep(0)
    return connection.number


def waiting_for(gate: asyncio.Event) -> Callable[[Connection], Awaitable[int]]:
    async def read(connection: Connection) -> int:
        await gate.wait()
        return connection.number

    return read


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that comes about by itself."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - no event tells of what is looked at
            await asyncio.sleep(0.001)


async def test_connections_are_reused_and_bounded() -> None:
    server = Server()
    connected = pool(server)
    assert [await connected.run(number_of) for _ in range(5)] == [0] * 5
    assert set(await asyncio.gather(*(connected.run(number_of) for _ in range(50)))) == {0, 1}
    assert len(server.made) == 2
    connected.close()
    assert server.open() == 0


async def test_lost_connections_are_replaced_once() -> None:
    """A read begins anew on a new connection; one that fails there fails."""
    server = Server()
    connected = pool(server)
    await connected.run(number_of)

    async def read(connection: Connection) -> int:
        if connection.number == 0:
            raise Lost
        return connection.number

    assert await connected.run(read) == 1

    async def broken(connection: Connection) -> int:
        raise Lost

    with pytest.raises(StoreUnavailable, match="lost"):
        await connected.run(broken)
    assert server.open() == 0
    connected.close()


async def test_outage_is_seen_on_a_machine_that_has_just_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock begins at zero when the machine starts: a pool without any answer is no pool with a recent one."""
    Clock(monkeypatch, now=0.1)
    connected = pool(Server())

    async def broken(connection: Connection) -> int:
        raise Lost

    with pytest.raises(StoreUnavailable, match="lost"):
        await connected.run(broken)
    assert connected.state().refusing
    connected.close()


async def test_error_that_says_nothing_about_the_database_is_raised_as_it_is() -> None:
    server = Server()
    connected = pool(server)

    async def read(connection: Connection) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await connected.run(read)
    assert await connected.run(number_of) == 1
    connected.close()


async def test_too_many_waiting_are_refused() -> None:
    server = Server()
    connected = pool(server, max_waiting=10)
    gate = asyncio.Event()
    reads = [asyncio.create_task(connected.run(waiting_for(gate))) for _ in range(20)]
    await until(lambda: sum(read.done() for read in reads) == 8)
    gate.set()
    results = await asyncio.gather(*reads, return_exceptions=True)
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert len(refused) == 8
    assert {error.message for error in refused} == {"Overloaded: 10 reads wait for the store; try again"}
    connected.close()


async def test_lost_connections_cost_no_waiting_read_its_place() -> None:
    """Room that is offered to reads that wait is taken by others: the first stay first, and the queue takes them back.

    Here the reads that lose their connections take the room at once, for another try, and new reads fill the queue.
    """
    server = Server()
    connected = pool(server, size=2, max_waiting=4, timeout=1000)
    order: list[str] = []
    fails = asyncio.Event()
    gate = asyncio.Event()

    def read(name: str) -> asyncio.Task[None]:
        async def read_once(connection: Connection) -> None:
            order.append(name)
            await asyncio.sleep(0)

        return asyncio.create_task(connected.run(read_once))

    async def lost_once(connection: Connection) -> None:
        if connection.number < 2:
            await fails.wait()
            raise Lost
        await gate.wait()

    await asyncio.gather(connected.run(number_of), connected.run(number_of))  # connections that are not new
    losers = [asyncio.create_task(connected.run(lost_once)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting = [read(name) for name in "abcd"]
    await until(lambda: len(connected._queue) == 4)
    fails.set()
    waiting += [read(name) for name in "ef"]  # they find the places of "a" and "b" in the queue free
    await until(lambda: server.attempts == 4)
    gate.set()
    results = await asyncio.gather(*losers, *waiting, return_exceptions=True)
    assert results == [None] * 8
    assert order == list("abcdef")
    connected.close()


async def test_check_is_next_however_many_wait() -> None:
    server = Server()
    connected = pool(server, size=1, max_waiting=10)
    gates = [asyncio.Event() for _ in range(11)]
    reads = [asyncio.create_task(connected.run(waiting_for(gate))) for gate in gates]
    await until(lambda: len(connected._queue) == 10)
    check = asyncio.create_task(connected.run(number_of, refusable=False))
    await asyncio.sleep(0)
    gates[0].set()
    async with asyncio.timeout(10):
        assert await check == 0
    assert sum(read.done() for read in reads) == 1
    connected.close()
    await asyncio.wait(reads)


async def test_outage_is_found_out_by_one_and_others_do_not_wait() -> None:
    """While the server is silent, one read at a time looks for it; when it is back, the next read is answered."""
    server = Server()
    server.silent = True
    connected = pool(server)
    results = await asyncio.gather(*(connected.run(number_of) for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {StoreUnavailable}
    probe = asyncio.create_task(connected.run(number_of))
    await asyncio.sleep(0)
    attempts = server.attempts
    refusals = [asyncio.create_task(connected.run(number_of)) for _ in range(100)]
    await asyncio.sleep(0)
    assert [str(refusal.exception()) for refusal in refusals] == [str(results[0])] * 100  # in one turn of the loop
    assert "does not answer" in str(results[0])
    with pytest.raises(StoreUnavailable):
        await probe
    assert server.attempts <= attempts + 1
    server.silent = False
    assert await connected.run(number_of, refusable=False) >= 0
    assert len(await asyncio.gather(*(connected.run(number_of) for _ in range(20)))) == 20
    connected.close()


async def test_who_looks_for_the_server_is_refused_soon_and_the_look_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One caller that tries again and again is not held up by each try; what is found is known without any."""
    monkeypatch.setattr(circuit, "PROBE_PATIENCE", 0.01)
    server = Server()
    server.up = False
    connected = pool(server, timeout=1000)
    with pytest.raises(StoreUnavailable, match="lost"):
        await connected.run(number_of)
    server.silent, attempts = True, server.attempts
    for _ in range(20):
        with pytest.raises(StoreUnavailable, match="lost"):
            await connected.run(number_of)
    assert server.attempts == attempts + 1
    server.up, server.silent = True, False
    await until(lambda: connected._circuit.reason is None)
    assert await connected.run(number_of) == 0
    connected.close()


async def test_cancelled_look_goes_on() -> None:
    """The caller that sent it out may leave: there is still one look at a time, and it closes the circuit."""
    server = Server()
    server.up = False
    connected = pool(server, timeout=1000)
    with pytest.raises(StoreUnavailable):
        await connected.run(number_of)
    server.silent = True
    leaver = asyncio.create_task(connected.run(number_of))
    await until(lambda: server.attempts == 2)
    leaver.cancel()
    await asyncio.wait([leaver])
    server.up, server.silent = True, False
    await until(lambda: connected._circuit.reason is None)
    connected.close()


async def test_check_is_not_refused_and_ends_the_refusals() -> None:
    server = Server()
    server.up = False
    connected = pool(server)
    for refusable in (True, False):
        with pytest.raises(StoreUnavailable, match="lost"):
            await connected.run(number_of, refusable=refusable)
    server.up = True
    assert await connected.run(number_of, refusable=False) == 0
    assert len(await asyncio.gather(*(connected.run(number_of) for _ in range(20)))) == 20
    connected.close()


async def test_one_connection_too_many_makes_a_read_wait_not_fail() -> None:
    """A server that takes no more connections than there are: reads share those."""
    server = Server()
    connected = pool(server, size=5, timeout=100)
    gate = asyncio.Event()
    first = asyncio.create_task(connected.run(waiting_for(gate)))
    await until(lambda: server.made)
    server.up = False
    others = [asyncio.create_task(connected.run(number_of)) for _ in range(20)]
    await until(lambda: len(connected._queue) == 20)
    gate.set()
    assert set(await asyncio.gather(first, *others)) == {0}
    connected.close()


async def test_queue_that_moves_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that wait longer than any limit are answered, as long as others are."""
    monkeypatch.setattr(pool_module, "_CHECK_INTERVAL", 0.001)
    clock = Clock(monkeypatch)
    server = Server()
    connected = pool(server, size=1, timeout=4)

    async def slow(connection: Connection) -> int:
        clock.now += 3
        await asyncio.sleep(0.02)  # it is looked at meanwhile
        return connection.number

    reads = [asyncio.create_task(connected.run(slow)) for _ in range(8)]
    await reads[0]
    assert connected.making_progress
    assert await asyncio.gather(*reads) == [0] * 8
    connected.close()


async def test_answer_that_keeps_arriving_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a large answer count as answers, for the read and for those behind it; an error message is no part."""
    monkeypatch.setattr(pool_module, "LONGEST_READ", 1000)
    monkeypatch.setattr(pool_module, "_CHECK_INTERVAL", 0.001)
    clock = Clock(monkeypatch)
    server = Server()
    received = 0
    connected = ConnectionPool("db", server.connect, explain, size=1, timeout=4, received=lambda _: received)
    reads = [asyncio.create_task(connected.run(waiting_for(asyncio.Event()))) for _ in range(2)]
    await until(lambda: server.made and connected._queue)
    for _ in range(5):
        clock.now += 3
        received += 8192
        await until(lambda: connected._last_answer == clock.now)
        assert connected.making_progress
    for _ in range(5):
        clock.now += 1
        received += 300
    results = await asyncio.wait_for(asyncio.gather(*reads, return_exceptions=True), 20)
    assert [str(result) for result in results] == ["The store is unavailable: it does not answer"] * 2
    assert connected.state().refusing
    connected.close()


async def test_one_read_that_hangs_is_given_up_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that hangs while others answer does not do so for ever, and refuses no other read."""
    monkeypatch.setattr(pool_module, "LONGEST_READ", 0.5)
    server = Server()
    connected = pool(server, timeout=100)
    hanging = asyncio.create_task(connected.run(waiting_for(asyncio.Event())))
    started = time.monotonic()
    async with asyncio.timeout(20):
        while not hanging.done():
            await connected.run(number_of)
            await asyncio.sleep(0.01)
    assert time.monotonic() - started > 0.4
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await hanging
    assert await connected.run(number_of) >= 0
    connected.close()


async def test_read_that_takes_its_time_to_end_is_refused_all_the_same() -> None:
    """A driver that tidies up while it is cancelled, and is cancelled once more: its caller was never cancelled."""
    server = Server()
    connected = pool(server)

    async def tidying(connection: Connection) -> int:
        try:
            await asyncio.sleep(60)
        finally:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        return connection.number

    with pytest.raises(StoreUnavailable, match="does not answer"):
        await connected.run(tidying)
    connected.close()


async def test_no_cancellation_of_the_pool_stays_with_the_caller() -> None:
    """A driver that answers although it was cancelled: its answer counts, and the caller's own timeouts work later."""
    connected = pool(Server())

    async def stubborn(connection: Connection) -> int:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return connection.number

    assert await connected.run(stubborn) == 0
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    connected.close()


async def test_cancelled_reads_give_back_what_they_had() -> None:
    """Cancelled while waiting, connecting or reading: room for connections is neither lost nor made."""
    server = Server()
    connected = pool(server)
    for moment in sorted(20 * [*range(12)]):
        reads = [asyncio.create_task(connected.run(number_of)) for _ in range(6)]
        for _ in range(moment):
            await asyncio.sleep(0)
        for read in reads[::2]:
            read.cancel()
        results = await asyncio.gather(*reads, return_exceptions=True)
        assert {type(result) for result in results[1::2]} == {int}, moment
        assert server.open() <= 2, moment
    assert (connected._open, len(connected._queue), connected._timed_from) == (len(connected._idle), 0, {})
    connected.close()


async def test_close_ends_reads_under_way() -> None:
    server = Server()
    connected = pool(server, size=1)
    reads = [asyncio.create_task(connected.run(waiting_for(asyncio.Event()))) for _ in range(3)]
    await until(lambda: server.made and len(connected._queue) == 2)
    connected.close()
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert [str(result) for result in results] == ["The store is unavailable: it is closed"] * 3
    with pytest.raises(StoreUnavailable, match="closed"):
        await connected.run(number_of)
    assert server.open() == 0


async def test_turn_that_a_failed_read_gives_is_no_new_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage in which a read fails at once and hands its turn on: who waited has the limit once, not twice."""
    clock = Clock(monkeypatch)
    server = Server()
    connected = pool(server, size=1, timeout=4)
    fails = asyncio.Event()

    async def lost_late(connection: Connection) -> int:
        await fails.wait()
        server.silent = True
        raise Lost

    reads = [asyncio.create_task(connected.run(lost_late)), asyncio.create_task(connected.run(number_of))]
    await until(lambda: connected._queue)
    clock.now += 3
    fails.set()
    await until(lambda: server.attempts == 2)
    clock.now += 1.1
    results = await asyncio.wait_for(asyncio.gather(*reads, return_exceptions=True), 20)
    assert {type(result) for result in results} == {StoreUnavailable}
    connected.close()


async def test_overdue_reads_make_no_other_wait_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent server: reads that began a little later are refused too when the first are given up."""
    clock = Clock(monkeypatch)
    server = Server()
    connected = pool(server, size=1, timeout=4)
    await connected.run(number_of)
    clock.now += 4
    server.silent = True  # for a connection in place of the one there is
    reads = []
    for number in range(20):  # some begin before, and some after, the moment that is looked back to
        reads.append(asyncio.create_task(connected.run(waiting_for(asyncio.Event()))))
        await until(lambda number=number: len(connected._queue) == number)  # all but the first
        clock.now += 0.1
    clock.now += 2.1  # the timeout of the first
    results = await asyncio.wait_for(asyncio.gather(*reads, return_exceptions=True), 20)
    assert {type(result) for result in results} == {StoreUnavailable}
    connected.close()


class Traffic:
    """Random reads on one pool, and what the pool's own comment says of its fields."""

    def __init__(self, seed: int, clock: Clock) -> None:
        self.random = random.Random(seed)
        self.clock = clock
        self.server = Server()
        self.connected = pool(self.server, size=3, max_waiting=6, timeout=4)
        self.gate = asyncio.Event()
        self.reading: dict[asyncio.Task[object], Connection] = {}
        self.turns: dict[asyncio.Task[object], asyncio.Future[Connection | None]] = {}  # the last one of each task
        self.calls: dict[asyncio.Task[object], int] = {}  # how often each was cancelled by us
        self.begun: list[asyncio.Task[None]] = []
        self._watch_turns()

    def _watch_turns(self) -> None:
        queue = self.connected._queue
        join, rejoin = queue.join, queue.rejoin

        def noted(turn: Turn[Connection]) -> Turn[Connection]:
            self.turns[current()] = turn[1]
            return turn

        queue.join = lambda *, refusable: noted(join(refusable=refusable))  # type: ignore[method-assign]
        queue.rejoin = lambda turn: noted(rejoin(turn))  # type: ignore[method-assign]

    async def read(self, connection: Connection) -> int:
        assert connection not in self.reading.values()
        task = current()
        self.reading[task] = connection
        try:
            match self.random.randrange(8):
                case 0:
                    await self.gate.wait()
                case 1:
                    raise Lost
                case 2:
                    await asyncio.sleep(0)
                    raise Lost
                case 3:
                    raise StoreUnavailable("too slow")
                case 4:
                    with suppress(asyncio.CancelledError):
                        await self.gate.wait()
            await asyncio.sleep(0)
            return connection.number
        finally:
            del self.reading[task]

    async def call(self) -> None:
        task = current()
        try:
            with suppress(StoreUnavailable, Overloaded):
                await self.connected.run(self.read, refusable=self.random.random() < 0.9)
        finally:
            assert task.cancelling() == self.calls[task]  # the pool has taken its own back

    def _begin(self) -> None:
        task = asyncio.create_task(self.call())
        self.calls[task] = 0
        task.add_done_callback(self.calls.pop)
        self.begun.append(task)

    def step(self) -> None:
        """Do one thing that callers, the server or the time may do."""
        match self.random.randrange(12):
            case 0 | 1 | 2 | 3 | 4:
                self._begin()
            case 5 if self.calls:
                task = self.random.choice(list(self.calls))
                self.calls[task] += 1
                task.cancel()
            case 6 if self.calls:
                task = self.random.choice(list(self.calls))
                self.calls[task] += task in self.connected._waiting
                self.connected.abandon(task)
            case 7:
                self.server.up = not self.server.up
            case 8:
                self.server.silent = self.random.random() < 0.3
            case 9 if self.server.made:
                self.random.choice(self.server.made[-4:]).terminate()
            case 10:
                self.clock.now += self.random.choice((0.1, 0.1, 5))
            case 11:
                self.gate.set()
                self.gate = asyncio.Event()

    def check(self) -> None:
        connected = self.connected
        waiting = connected._waiting
        ended = [self.turns[task] for task in waiting if self.turns[task].done() and not self.turns[task].cancelled()]
        handed = [turn.result() for turn in ended if turn.exception() is None]
        handed_over = [connection for connection in handed if connection is not None]
        owned = [*connected._idle, *self.reading.values(), *handed_over]
        assert len(owned) == len(set(map(id, owned)))
        assert connected._open == len(owned) + self.server.making <= 3
        assert not (connected._idle and len(connected._queue))
        assert not waiting & self.reading.keys()
        queued = {turn for _, turn in connected._queue._turns}
        assert queued <= {self.turns[task] for task in waiting}
        assert all(turn in queued or turn.done() for turn in (self.turns[task] for task in waiting))
        assert not queued or connected._open or None in handed  # something will end the first wait
        places = [place for place, _ in connected._queue._turns]
        assert places == sorted(places)
        assert connected._cancellations.keys() <= connected._timed_from.keys()


def current() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task


@pytest.mark.parametrize("seed", range(10))
async def test_invariants_hold_whatever_happens(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Random reads, cancellations, outages and losses: the pool's fields agree, and in the end nothing is missing."""
    monkeypatch.setattr(pool_module, "_CHECK_INTERVAL", 0)
    monkeypatch.setattr(circuit, "PROBE_PATIENCE", 0)
    traffic = Traffic(seed, Clock(monkeypatch))
    connected = traffic.connected
    for _ in range(1000):
        traffic.step()
        if traffic.random.random() < 0.7:
            await asyncio.sleep(0)
            traffic.check()
    traffic.server.up, traffic.server.silent = True, False
    async with asyncio.timeout(2):
        while connected._timed_from or traffic.calls:  # the time stands still: nothing is given up
            traffic.gate.set()
            await asyncio.sleep(0)
            traffic.check()
    failures = [task.exception() for task in traffic.begun if not task.cancelled()]
    assert failures == [None] * len(failures)
    assert len(failures) > 100
    assert (connected._open, len(connected._queue), len(connected._cancellations)) == (len(connected._idle), 0, 0)
    assert await connected.run(number_of, refusable=False) >= 0
    connected.close()


class Store:
    """A store over ``ConnectionPool``, which holds every read up until it is let go."""

    def __init__(self, connected: ConnectionPool[Connection]) -> None:
        self.connected = connected
        self.begun: list[str] = []
        self.gate = asyncio.Event()

    async def get_document(self, task_id: str) -> bytes | None:
        async def read(connection: Connection) -> bytes:
            self.begun.append(task_id)
            await self.gate.wait()
            return task_id.encode()

        return await self.connected.run(read)

    def abandon(self, read: asyncio.Task[object]) -> None:
        self.connected.abandon(read)

    async def check(self) -> None:
        """Not asked here."""

    async def close(self) -> None:
        self.connected.close()


async def test_reads_without_callers_leave_the_queue() -> None:
    """Callers that left delay no others and do not fill the queue; those that have a connection keep it whole."""
    server = Server()
    store = Store(pool(server, size=2, max_waiting=10, timeout=1000))
    shared = SingleFlight(store)
    for _ in range(3):
        gone = [asyncio.create_task(shared.get_document(f"{number}")) for number in range(12)]
        await until(lambda: len(store.connected._queue) == 10 and len(store.begun) == 2)
        for caller in gone:
            caller.cancel()
        await until(lambda: not store.connected._queue)
        store.gate.set()
        await until(lambda: not store.connected._timed_from)
        store.gate.clear()
        assert len(store.begun) == 2
        assert server.open() == 2
        store.begun.clear()
    store.gate.set()
    assert await shared.get_document("live") == b"live"
    assert len(server.made) == 2
    await shared.close()


async def test_read_with_a_caller_stays_in_the_queue() -> None:
    """The last of a crowd is answered, whichever others left."""
    server = Server()
    store = Store(pool(server, size=1, timeout=1000))
    shared = SingleFlight(store)
    first = asyncio.create_task(shared.get_document("first"))
    crowd = [asyncio.create_task(shared.get_document("crowd")) for _ in range(10)]
    await until(lambda: len(store.connected._queue) == 1)
    for caller in crowd[:-1]:
        caller.cancel()
    await asyncio.wait(crowd[:-1])
    store.gate.set()
    assert (await first, await crowd[-1]) == (b"first", b"crowd")
    await shared.close()

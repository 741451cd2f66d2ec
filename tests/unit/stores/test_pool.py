"""The connection pool, on connections that do what they are told."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace

import pytest

from taskgate.base.errors import Overloaded, StoreUnavailable
from taskgate.stores.network import circuit
from taskgate.stores.network import pool as pool_module
from taskgate.stores.network.pool import ConnectionPool
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
        await asyncio.sleep(0)
        await self.speaks.wait()
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

"""The bounded set of connections, on connections that do what they are told."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from taskgate.errors import StoreUnavailable
from taskgate.stores import connections
from taskgate.stores.connections import Connections


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
        self.silent = False
        self.made: list[Connection] = []
        self.attempts = 0

    async def connect(self) -> Connection:
        self.attempts += 1
        await asyncio.sleep(3600 if self.silent else 0)
        if not self.up:
            raise Lost
        self.made.append(Connection(len(self.made)))
        return self.made[-1]

    def open(self) -> int:
        return sum(not connection.closed for connection in self.made)


def explain(error: Exception) -> StoreUnavailable | None:
    return StoreUnavailable("lost") if isinstance(error, Lost) else None


def pool(server: Server, *, size: int = 2, max_waiting: int = 100, timeout: float = 0.3) -> Connections[Connection]:
    return Connections("db", server.connect, explain, size=size, max_waiting=max_waiting, timeout=timeout)


async def number_of(connection: Connection) -> int:
    await asyncio.sleep(0)
    return connection.number


def waiting_for(gate: asyncio.Event) -> Callable[[Connection], Awaitable[int]]:
    async def read(connection: Connection) -> int:
        await gate.wait()
        return connection.number

    return read


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
    await asyncio.sleep(0.01)
    gate.set()
    results = await asyncio.gather(*reads, return_exceptions=True)
    refused = [result for result in results if isinstance(result, StoreUnavailable)]
    assert len(refused) == 8
    assert {error.message for error in refused} == {"The store db is overloaded: 10 reads are waiting"}
    connected.close()


async def test_outage_is_found_out_by_one_and_others_do_not_wait() -> None:
    """While the server is silent, one read at a time waits for it; when it is back, the next read is answered."""
    server = Server()
    server.silent = True
    connected = pool(server)
    started = time.monotonic()
    results = await asyncio.gather(*(connected.run(number_of) for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {StoreUnavailable}
    assert time.monotonic() - started < 0.6
    probe = asyncio.create_task(connected.run(number_of))
    await asyncio.sleep(0.01)
    attempts, started = server.attempts, time.monotonic()
    for _ in range(100):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await connected.run(number_of)
    assert time.monotonic() - started < 0.1
    assert server.attempts == attempts
    with pytest.raises(StoreUnavailable):
        await probe
    server.silent = False
    assert await connected.run(number_of) == 0
    assert len(await asyncio.gather(*(connected.run(number_of) for _ in range(20)))) == 20
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
    connected = pool(server, size=5)
    gate = asyncio.Event()
    first = asyncio.create_task(connected.run(waiting_for(gate)))
    await asyncio.sleep(0.01)
    server.up = False
    others = [asyncio.create_task(connected.run(number_of)) for _ in range(20)]
    await asyncio.sleep(0.01)
    gate.set()
    assert set(await asyncio.gather(first, *others)) == {0}
    connected.close()


async def test_queue_that_moves_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that wait longer than any limit are answered, as long as others are."""
    monkeypatch.setattr(connections, "LONGEST_READ", 0.4)
    server = Server()
    connected = pool(server, size=1)

    async def slow(connection: Connection) -> int:
        await asyncio.sleep(0.1)
        return connection.number

    reads = [asyncio.create_task(connected.run(slow)) for _ in range(8)]
    await asyncio.sleep(0.15)
    assert connected.moving
    assert await asyncio.gather(*reads) == [0] * 8
    connected.close()


async def test_one_read_that_hangs_is_given_up_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that hangs while others answer does not do so for ever, and refuses nobody else."""
    monkeypatch.setattr(connections, "LONGEST_READ", 0.5)
    server = Server()
    connected = pool(server)
    hanging = asyncio.create_task(connected.run(waiting_for(asyncio.Event())))
    started = time.monotonic()
    while not hanging.done():
        await connected.run(number_of)
        await asyncio.sleep(0.01)
    assert 0.4 < time.monotonic() - started < 1
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await hanging
    assert await connected.run(number_of) >= 0
    connected.close()


@pytest.mark.parametrize("moment", range(12))
async def test_cancelled_reads_give_back_what_they_had(moment: int) -> None:
    """Cancelled while waiting, connecting or reading: room for connections is neither lost nor made."""
    server = Server()
    connected = pool(server)
    for _ in range(20):
        reads = [asyncio.create_task(connected.run(number_of)) for _ in range(6)]
        for _ in range(moment):
            await asyncio.sleep(0)
        for read in reads[::2]:
            read.cancel()
        results = await asyncio.gather(*reads, return_exceptions=True)
        assert {type(result) for result in results[1::2]} == {int}
    assert server.open() <= 2
    assert (connected._open, len(connected._queue), connected._reads) == (len(connected._idle), 0, {})
    connected.close()


async def test_close_ends_reads_under_way() -> None:
    server = Server()
    connected = pool(server, size=1)
    reads = [asyncio.create_task(connected.run(waiting_for(asyncio.Event()))) for _ in range(3)]
    await asyncio.sleep(0.01)
    connected.close()
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert [str(result) for result in results] == ["The store db is closed"] * 3
    with pytest.raises(StoreUnavailable, match="closed"):
        await connected.run(number_of)
    assert server.open() == 0


async def test_turn_that_a_failed_read_gives_is_no_new_time() -> None:
    """An outage in which a read fails at once and hands its turn on: who waited has the limit once, not twice."""
    server = Server()
    connections = pool(server, size=1, timeout=0.4)

    async def lost_late(connection: Connection) -> int:
        await asyncio.sleep(0.3)
        server.silent = True
        raise Lost

    first = asyncio.create_task(connections.run(lost_late))
    await asyncio.sleep(0)
    started = time.perf_counter()
    with pytest.raises(StoreUnavailable):
        await connections.run(number_of)
    assert time.perf_counter() - started < 0.6
    with pytest.raises(StoreUnavailable):
        await first


async def test_overdue_reads_make_no_other_wait_anew() -> None:
    """A silent server: reads that began a little later are refused too when the first are given up."""
    server = Server()
    connected = pool(server, size=1)
    await connected.run(number_of)
    await asyncio.sleep(0.3)
    server.silent = True  # for a connection in place of the one there is
    reads = []
    started = time.perf_counter()
    for _ in range(20):  # some begin before, and some after, the moment that is looked back to
        reads.append(asyncio.create_task(connected.run(waiting_for(asyncio.Event()))))
        await asyncio.sleep(0.01)
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert {type(result) for result in results} == {StoreUnavailable}
    assert time.perf_counter() - started < 0.3 + 0.2  # the timeout, and when it is looked at
    connected.close()

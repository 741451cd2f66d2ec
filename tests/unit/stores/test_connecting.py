"""Connecting to names with several addresses, on both event loops."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from support.database_server import free_port
from support.dead_address import NAME, dead_address, resolve
from taskgate.stores.network import connecting
from taskgate.stores.network.connecting import HappyEyeballsLoop, connect

Runner = Callable[[Coroutine[Any, Any, None]], None]

runners = pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


async def greeted(open_connection: Callable[[int], Awaitable[None]]) -> None:
    """A server on 127.0.0.1 that is connected to once, by ``open_connection``, which is given its port."""
    callers = 0

    def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal callers
        callers += 1
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    await open_connection(server.sockets[0].getsockname()[1])
    async with asyncio.timeout(20):
        while not callers:  # noqa: ASYNC110 - the server is told by its loop, some turns later
            await asyncio.sleep(0.001)
    assert callers == 1
    server.close()
    await server.wait_closed()


@runners
def test_address_that_does_not_answer_costs_a_moment(monkeypatch: pytest.MonkeyPatch, runner: Runner) -> None:
    """The next one is tried as well."""
    resolve(monkeypatch, "127.0.0.2", "127.0.0.1")

    async def once(port: int) -> None:
        with dead_address(port):
            transport, _ = await HappyEyeballsLoop().create_connection(asyncio.Protocol, NAME, port)
            plain = transport.get_extra_info("socket")
            assert plain.getpeername() == ("127.0.0.1", port)
            assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            transport.close()

    runner(greeted(once))


@runners
def test_address_that_refuses_costs_nothing(monkeypatch: pytest.MonkeyPatch, runner: Runner) -> None:
    """The next one is tried at once, and one that has taken the connection is the last."""
    monkeypatch.setattr(connecting, "NEXT_AFTER", 1000)
    resolve(monkeypatch, "127.0.0.2", "127.0.0.1", "127.0.0.1")

    async def once(port: int) -> None:
        (await connect(NAME, port)).close()

    runner(greeted(once))


@runners
def test_no_address_that_takes_it_is_an_oserror(monkeypatch: pytest.MonkeyPatch, runner: Runner) -> None:
    resolve(monkeypatch, "127.0.0.2", "127.0.0.1")

    async def attempts() -> None:
        with pytest.raises(ConnectionRefusedError):
            await connect(NAME, free_port())
        resolve(monkeypatch)
        with pytest.raises(OSError, match="has no address"):
            await connect(NAME, 1)

    runner(attempts())


@runners
def test_nothing_stays_open(monkeypatch: pytest.MonkeyPatch, runner: Runner) -> None:
    """Attempts that were not needed, those of a caller who gave up, and two that are taken at the same time."""

    async def attempts() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        (await connect("127.0.0.1", port)).close()  # whatever is made once is made
        with dead_address(port) as dead:
            before = open_files()
            monkeypatch.setattr(connecting, "NEXT_AFTER", 0.001)
            for addresses in ((dead, "127.0.0.1"), ("127.0.0.1", "127.0.0.1", dead), (dead, dead)):
                resolve(monkeypatch, *addresses)
                for turns in range(10):
                    attempt = asyncio.create_task(connect(NAME, port))
                    await asyncio.sleep(turns * 0.0003)  # a moment before, between or after the attempts
                    if "127.0.0.1" not in addresses or turns % 2:
                        attempt.cancel()
                    (taken,) = await asyncio.gather(attempt, return_exceptions=True)
                    if isinstance(taken, socket.socket):
                        taken.close()
            async with asyncio.timeout(20):
                while open_files() > before:  # noqa: ASYNC110 - the server's own ends close some turns later
                    await asyncio.sleep(0.001)
        server.close()

    runner(attempts())


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only how many

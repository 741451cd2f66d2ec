"""What callers of a Redis server get while no connection can be made."""

import asyncio
from dataclasses import replace

import pytest

from taskgate.base.errors import Overloaded
from taskgate.stores.redis import multiplexer as multiplexer_module
from taskgate.stores.redis.connection import Connection
from taskgate.stores.redis.faults import Unreachable
from taskgate.stores.redis.multiplexer import Multiplexer, Timeouts

TIMEOUTS = Timeouts(connect=1, silence=1, total=2, fail_fast=True)


class Server:
    """Refuses connections, or lets those who want one wait."""

    def __init__(self) -> None:
        self.attempts = 0
        self.speaks = asyncio.Event()
        self.speaks.set()

    async def connect(self) -> Connection:
        self.attempts += 1
        await self.speaks.wait()
        raise Unreachable("away")


async def refused(multiplexer: Multiplexer, *, refusable: bool = True) -> str:
    with pytest.raises(Unreachable) as refusal:
        await multiplexer.ask(b"", refusable=refusable)
    return refusal.value.reason


async def test_only_one_call_waits_in_a_known_outage() -> None:
    """Others are refused in one turn of the loop, in the same words; a check asks all the same, and shares the look."""
    server = Server()
    multiplexer = Multiplexer(server.connect, TIMEOUTS)
    assert await refused(multiplexer) == "away"
    server.speaks.clear()
    looks = asyncio.create_task(refused(multiplexer))
    async with asyncio.timeout(20):
        while server.attempts < 2:  # noqa: ASYNC110 - there is a pause between two attempts
            await asyncio.sleep(0.001)
    others = [asyncio.create_task(refused(multiplexer)) for _ in range(100)]
    check = asyncio.create_task(refused(multiplexer, refusable=False))
    await asyncio.sleep(0)
    assert [other.result() for other in others] == ["away"] * 100
    assert await looks == "away"
    assert not check.done()
    server.speaks.set()
    assert await check == "away"
    assert server.attempts == 2
    await multiplexer.close()


async def test_check_is_not_refused_because_many_questions_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiplexer_module, "MAX_WAITING", 1)
    server = Server()
    server.speaks.clear()
    multiplexer = Multiplexer(server.connect, TIMEOUTS)
    question = asyncio.create_task(refused(multiplexer))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await multiplexer.ask(b"")
    check = asyncio.create_task(refused(multiplexer, refusable=False))
    await asyncio.sleep(0)
    server.speaks.set()
    assert await asyncio.gather(question, check) == ["away"] * 2
    await multiplexer.close()


async def test_import_waits_for_each_attempt() -> None:
    """What must be told exactly whether it was written is never left to itself."""
    server = Server()
    multiplexer = Multiplexer(server.connect, replace(TIMEOUTS, fail_fast=False))
    for attempts in range(1, 4):
        questions = await asyncio.gather(*(refused(multiplexer) for _ in range(10)))
        assert questions == ["away"] * 10
        assert server.attempts == attempts
    await multiplexer.close()

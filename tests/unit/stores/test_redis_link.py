"""What a link to a Redis server does while there is none to connect to."""

import asyncio
from dataclasses import replace

import pytest

from taskgate.base.errors import Overloaded
from taskgate.stores.redis.connection import Connection
from taskgate.stores.redis.faults import Unreachable
from taskgate.stores.redis.link import Link, Patience

PATIENCE = Patience(connect=1, silence=1, total=2, waiting=1000, ends=True)


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


async def refused(link: Link, *, refusable: bool = True) -> str:
    with pytest.raises(Unreachable) as refusal:
        await link.ask(b"", refusable=refusable)
    return refusal.value.reason


async def test_outage_that_is_known_makes_nobody_wait_but_one() -> None:
    """Others are refused in one turn of the loop, in the same words; a check asks all the same, and shares the look."""
    server = Server()
    link = Link(server.connect, PATIENCE)
    assert await refused(link) == "away"
    server.speaks.clear()
    looks = asyncio.create_task(refused(link))
    async with asyncio.timeout(20):
        while server.attempts < 2:  # noqa: ASYNC110 - there is a pause between two attempts
            await asyncio.sleep(0.001)
    others = [asyncio.create_task(refused(link)) for _ in range(100)]
    check = asyncio.create_task(refused(link, refusable=False))
    await asyncio.sleep(0)
    assert [other.result() for other in others] == ["away"] * 100
    assert await looks == "away"
    assert not check.done()
    server.speaks.set()
    assert await check == "away"
    assert server.attempts == 2
    await link.close()


async def test_check_is_not_refused_because_many_questions_wait() -> None:
    server = Server()
    server.speaks.clear()
    link = Link(server.connect, replace(PATIENCE, waiting=1))
    question = asyncio.create_task(refused(link))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await link.ask(b"")
    check = asyncio.create_task(refused(link, refusable=False))
    await asyncio.sleep(0)
    server.speaks.set()
    assert await asyncio.gather(question, check) == ["away"] * 2
    await link.close()


async def test_import_waits_for_each_attempt() -> None:
    """What must be told exactly whether it was written is never left to itself."""
    server = Server()
    link = Link(server.connect, replace(PATIENCE, ends=False))
    for attempts in range(1, 4):
        questions = await asyncio.gather(*(refused(link) for _ in range(10)))
        assert questions == ["away"] * 10
        assert server.attempts == attempts
    await link.close()

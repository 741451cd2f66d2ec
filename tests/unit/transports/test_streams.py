"""Streams of the service inside Envoy: requests that go on for ever, watches that must end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from support.documents import DOCUMENTED_ID
from support.turns import turns
from taskgate.stores.base import StoredTask
from taskgate.stores.sqlite.store import SqliteStore
from taskgate.stores.sqlite.writer import SqliteWriter
from taskgate.transports.asgi import CallerGone
from taskgate.transports.asgi_requests import PendingRequests, Request, RequestParts
from taskgate.transports.grpc_wire import ProtocolError, frame
from taskgate.transports.health import Health
from taskgate.transports.pace import Turns


async def test_parts_that_the_handler_has_not_taken_hold_up_their_sender() -> None:
    """A caller that sends for ever fills no memory; it is let go on once the handler takes what it has sent."""
    parts = RequestParts(None)

    async def send() -> None:
        for _ in range(100):
            await parts.take({"body": frame(b"m"), "more_body": True})

    sending = asyncio.create_task(send())
    await turns()
    assert not sending.done()
    messages = parts.messages()
    for _ in range(100):
        assert await anext(messages) == b"m"
    await asyncio.wait_for(sending, 5)
    await messages.aclose()


@pytest.mark.parametrize("late", [True, False], ids=["late", "in time"])
@pytest.mark.parametrize(
    "end",
    [
        {"body": frame(b"one") + b"more", "more_body": True},
        {"body": b"\7" + frame(b"flag")[1:], "more_body": True},
        {"body": b"", "more_body": False},
    ],
    ids=["more than one message", "unknown flag", "no message"],
)
async def test_request_that_was_given_up_is_answered_once(end: dict[str, Any], *, late: bool) -> None:
    """What comes of it afterwards, and would be refused, makes no second answer."""
    sent: list[dict[str, Any]] = []
    goes_on, answered = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, Any]:
        await goes_on.wait()
        return {"type": "http.request"} | end

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)
        if event["type"] == "http.response.body":
            answered.set()

    request = Request({}, receive, send, 0.0 if late else 60.0, PendingRequests())
    message = asyncio.create_task(request.only_message())
    if late:
        await asyncio.wait_for(answered.wait(), 5)
    goes_on.set()
    with pytest.raises(CallerGone if late else ProtocolError):
        await message
    assert [event["type"] for event in sent] == (["http.response.start", "http.response.body"] if late else [])


async def test_each_turn_of_the_loop_is_for_one_part() -> None:
    """Those that wait have theirs in order; one that was given up takes none."""
    turns = Turns()
    taken: list[tuple[int, int]] = []
    turn = 0

    async def take(number: int) -> None:
        await turns.take()
        taken.append((number, turn))

    tasks = [asyncio.create_task(take(number)) for number in range(5)]
    for turn in range(8):
        await asyncio.sleep(0)
        if turn == 0:
            tasks[2].cancel()
    assert [number for number, _ in taken] == [0, 1, 3, 4]
    assert len({at for _, at in taken}) == 4


async def test_health_watch_says_not_serving_and_ends_when_the_service_ends() -> None:
    """An open watch must not hold up a drain, and its caller is to look elsewhere."""
    health = Health([""])
    await health.report(store_answers=True, keys_known=True)
    watch = health.watch(HealthCheckRequest().SerializeToString())
    assert await anext(watch) == HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
    health.shut_down()
    async with asyncio.timeout(5):
        rest = [message async for message in watch]
    assert rest == [HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING).SerializeToString()]


async def test_database_behind_a_link_is_looked_up_anew(tmp_path: Path) -> None:
    """A link that is made to lead to another file is followed at once."""
    for name in ("one", "two"):
        with SqliteWriter(str(tmp_path / f"{name}.db")) as writer:
            writer.write([StoredTask(task_id=DOCUMENTED_ID, update_time=0, document=f'{{"name":"{name}"}}'.encode())])
    link = tmp_path / "tasks.db"
    link.symlink_to("one.db")
    store = SqliteStore(str(link))
    for _ in range(3):
        assert await store.get_document(DOCUMENTED_ID) == b'{"name":"one"}'
    (tmp_path / "new").symlink_to("two.db")
    (tmp_path / "new").rename(link)
    assert await store.get_document(DOCUMENTED_ID) == b'{"name":"two"}'
    await store.close()

"""What the service does with the budget for large answers, over stores that answer when they are asked to."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from support.turns import turns
from taskgate.base.errors import DocumentTooLarge, DocumentUnreadable, TaskgateError, TaskNotFound
from taskgate.base.layout import Layout
from taskgate.base.task_id import TaskIdFormat
from taskgate.documents.document import MAX_DOCUMENT_BYTES
from taskgate.service.in_flight import COUNTED_BYTES, MIN_LIMIT_BYTES, InFlight, Peer, Room
from taskgate.service.tasks import TaskService
from taskgate.service.view import View
from taskgate.stores.base import TaskStore
from taskgate.stores.single_flight import SingleFlight


class Store:
    """Has ``document`` for every ID, as a new object for each read."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.reads = 0
        self.at_once = self.most_at_once = 0

    async def get_document(self, task_id: str) -> bytes | None:
        self.reads += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await turns()
        self.at_once -= 1
        return bytes(bytearray(self.document))

    async def check(self) -> None: ...

    async def close(self) -> None: ...

    def abandon(self, read: asyncio.Task[bytes | None]) -> None: ...


@dataclass
class Call:
    peer: Peer | None = None
    copies: int = 0
    room: Room | None = None
    view: View | None = None


@asynccontextmanager
async def serving(
    store: TaskStore, in_flight: InFlight, layout: Layout = Layout.TASKGATE
) -> AsyncIterator[TaskService]:
    service = TaskService(store, TaskIdFormat.ANY, layout=layout, in_flight=in_flight)
    try:
        yield service
    finally:
        await service.close()


async def answer(service: TaskService, task_id: str) -> int:
    """How long the REST document is; its room is given back at once."""
    call = Call()
    try:
        return len(await service.get_task_json(task_id, call))
    finally:
        assert call.room is not None
        call.room.release()


async def test_equal_reads_of_a_large_task_are_one() -> None:
    """Whether or not its size is known, and although there are other large tasks to read."""
    store = Store(b'{"a":"' + b"x" * 2_000_000 + b'"}')
    in_flight = InFlight(1 << 30, own_bytes=0)
    async with serving(SingleFlight(store), in_flight) as service:
        for _ in range(2):
            store.reads = 0
            await asyncio.gather(*(answer(service, "a") for _ in range(50)))
            assert store.reads <= 2, "one, and one for those who come after it has begun"
        store.reads = 0
        others = [f"b{number}" for number in range(12)]
        await asyncio.gather(*(answer(service, task_id) for task_id in others))
        store.most_at_once = store.reads = 0
        await asyncio.gather(*(answer(service, task_id) for task_id in others * 10))
        assert store.most_at_once <= 2, "the rest of the store's connections are for smaller tasks"
        assert store.reads <= 2 * len(others)
    assert in_flight.used == 0


@pytest.mark.parametrize("error", [TaskNotFound, DocumentUnreadable, DocumentTooLarge])
async def test_task_that_was_large_and_is_refused_now_waits_for_no_room(
    error: type[TaskgateError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once that is known: a caller without room hears what is wrong with the task, and not that it is busy."""
    document = b'{"a":"' + b"x" * 2_000_000 + b'"}'
    store = Store(document)
    in_flight = InFlight(MIN_LIMIT_BYTES, own_bytes=0, wait_seconds=0.5)

    async def refuse(task_id: str) -> bytes | None:
        if error is TaskNotFound:
            return None
        if error is DocumentTooLarge:
            return bytes(MAX_DOCUMENT_BYTES + 1)
        raise error(task_id)

    async with serving(store, in_flight) as service:
        assert await answer(service, "a") == len(document)
        with monkeypatch.context() as patch:
            patch.setattr(store, "get_document", refuse)
            with pytest.raises(error):
                await answer(service, "a")
            full = in_flight.room(Call())
            assert full.take("full", bytes(MIN_LIMIT_BYTES))
            with pytest.raises(error):
                await service.get_task_json("a", Call())
        full.release()
        assert await answer(service, "a") == len(document)
    assert in_flight.used == 0


GROWING = json.dumps(
    {
        "taskId": "x",
        "status": "COMPLETED",
        "workflowTask": {"name": "a", "taskReferenceName": "a", "defaultCase": [{} for _ in range(15_000)]},
    }
).encode()
"""A row of 60 KB whose document, with every property that Conductor writes, has megabytes."""


@pytest.mark.parametrize("method", ["get_task_json", "get_task"])
async def test_large_answer_made_of_a_small_row_is_counted_and_waits_for_room(method: str) -> None:
    assert len(GROWING) <= COUNTED_BYTES
    in_flight = InFlight(MIN_LIMIT_BYTES, own_bytes=0, wait_seconds=30)
    async with serving(Store(GROWING), in_flight, Layout.CONDUCTOR) as service:
        first, second = Call(), Call()
        size = len(await getattr(service, method)("x", first))
        assert size > COUNTED_BYTES
        assert first.room is not None
        assert in_flight.used == size
        first.room.release()
        assert in_flight.used == 0

        full = in_flight.room(Call())
        assert full.take("full", bytes(MIN_LIMIT_BYTES))
        waiting = asyncio.create_task(getattr(service, method)("x", second))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        full.release()
        assert len(await asyncio.wait_for(waiting, 30)) == size
        assert in_flight.used == size
        assert second.room is not None
        second.room.release()
    assert in_flight.used == 0

"""What has been converted once is answered from memory, unless the store or the clock says otherwise."""

import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from support.documents import task
from taskgate.base.errors import DocumentUnreadable, TaskNotFound
from taskgate.base.layout import Layout
from taskgate.base.task_id import TaskIdFormat
from taskgate.documents.conversion import Conversion
from taskgate.service.conversion_cache import ConversionCache, Key, key_of
from taskgate.service.tasks import TaskService
from taskgate.v1.task_pb2 import Task

ID, OTHER_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7f1", "65fc73fe-0586-11f1-8b8d-6219b54da7f2"
SIZES = {
    "small": 0,
    "known by a digest": 20_000,
    "converted in another process": 100_000,
    "digested in a thread": 300_000,
}
WAITING = {"scheduledTime": 1, "startTime": 2, "updateTime": 3, "callbackAfterSeconds": 5}
"""``queueWaitTime`` of such a task is counted from now."""


class Rows:
    """A store of one row, which counts how often it is read."""

    def __init__(self, stored: bytes) -> None:
        self.stored = stored
        self.reads = 0

    async def get_document(self, task_id: str) -> bytes | None:
        self.reads += 1
        return bytes(bytearray(self.stored))  # a new object, as from a database

    async def check(self) -> None: ...

    async def close(self) -> None: ...


def row(size: int = 0, **changes: Any) -> bytes:
    return task(ID, outputData={"text": "é" * (size // 2)}, **changes)


@pytest.fixture
def rows() -> Rows:
    return Rows(row())


@pytest_asyncio.fixture(params=Layout)
async def service(request: pytest.FixtureRequest, rows: Rows) -> AsyncIterator[TaskService]:
    opened = TaskService(rows, TaskIdFormat.UUID, layout=request.param)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def on_rows(rows: Rows) -> AsyncIterator[TaskService]:
    opened = TaskService(rows, TaskIdFormat.UUID, layout=Layout.CONDUCTOR)
    yield opened
    await opened.close()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_what_was_asked_before_is_not_converted_again(service: TaskService, rows: Rows, size: int) -> None:
    """Nor for another task with the same bytes; the store is read every time."""
    rows.stored = row(size)
    first = await service.get_task(ID)
    assert [await service.get_task(task_id) for task_id in (ID, OTHER_ID)] == [first, first]
    assert (service.conversion_cache.hits, rows.reads) == (2, 3)
    assert len(Task.FromString(first).output_data["text"].string_value) == size // 2


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_a_projection_is_kept_beside_the_typed_task(on_rows: TaskService, rows: Rows, size: int) -> None:
    rows.stored = row(size)
    answers = [[await on_rows.get_task_json(ID), await on_rows.get_task(ID)] for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0] != answers[0][1]
    assert (on_rows.conversion_cache.hits, len(on_rows.conversion_cache)) == (4, 2)


async def test_a_row_that_has_changed_is_converted(service: TaskService, rows: Rows) -> None:
    """And is what it was when it changes back."""
    for status in ("SCHEDULED", "COMPLETED", "SCHEDULED"):
        rows.stored = row(status=status)
        assert Task.Status.Name(Task.FromString(await service.get_task(ID)).status) == status
    assert service.conversion_cache.hits == 1


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_what_depends_on_the_clock_is_made_every_time(on_rows: TaskService, rows: Rows, size: int) -> None:
    rows.stored = row(size, **WAITING)
    for _ in range(2):
        await on_rows.get_task_json(ID)
        await on_rows.get_task(ID)
    assert (on_rows.conversion_cache.hits, len(on_rows.conversion_cache)) == (0, 0)


async def test_a_stored_document_does_not_depend_on_the_clock(rows: Rows) -> None:
    """Layout taskgate answers with the number that was imported."""
    rows.stored = row(**WAITING)
    service = TaskService(rows, TaskIdFormat.UUID)
    answers = [await service.get_task(ID) for _ in range(2)]
    await service.close()
    assert (answers[0], service.conversion_cache.hits) == (answers[1], 1)


@pytest.mark.parametrize(("stored", "error"), [(b"{", DocumentUnreadable), (b"null", TaskNotFound)])
async def test_a_refusal_is_not_kept(on_rows: TaskService, rows: Rows, stored: bytes, error: type[Exception]) -> None:
    rows.stored = stored
    for _ in range(2):
        with pytest.raises(error):
            await on_rows.get_task(ID)
    assert len(on_rows.conversion_cache) == 0


def stored_values(count: int, size: int) -> list[bytes]:
    return [b"%0*d" % (size, number) for number in range(count)]


def full_cache() -> tuple[ConversionCache, list[Key]]:
    """One with ten entries, in the order in which they were asked for."""
    cache = ConversionCache(10 * 3400)  # 1,000 and 2,000 bytes, 400 for the entry itself
    keys = [key_of(Conversion.ROW_TO_TASK, stored) for stored in stored_values(10, 1000)]
    for key in keys:
        cache.put(key, b"x" * 2000)
    assert (len(cache), cache.held_bytes) == (10, 34_000)
    return cache, keys


def test_what_was_asked_for_longest_ago_makes_room() -> None:
    cache, keys = full_cache()
    new = key_of(Conversion.ROW_TO_DOCUMENT, stored_values(1, 1000)[0])
    assert cache.get(keys[0])
    for _ in range(2):
        cache.put(new, b"x" * 2000)
    assert [cache.get(key) is not None for key in (*keys, new)] == [True, False, *[True] * 9]


def test_values_that_are_asked_for_once_drive_out_none_that_are_not() -> None:
    """Nor do so many of them that not even their hashes are remembered."""
    cache, keys = full_cache()
    once = [key_of(Conversion.ROW_TO_DOCUMENT, stored) for stored in stored_values(100_000, 100)]
    for key in once:
        cache.put(key, b"x")
    cache.put(once[0], b"x")
    assert all(cache.get(key) for key in keys)
    cache.put(once[-1], b"x")
    assert cache.get(once[-1])


def test_no_answer_takes_more_than_an_eighth() -> None:
    cache = ConversionCache(80_000)
    small, large = (key_of(Conversion.ROW_TO_TASK, stored) for stored in (b"small", b"large"))
    cache.put(small, b"x" * 9000)
    cache.put(large, b"x" * 10_000)
    assert (cache.get(small) is not None, cache.get(large)) == (True, None)
    assert not cache.accepts(b"x" * 10_001)


def test_one_value_is_not_another_conversion() -> None:
    cache = ConversionCache()
    for conversion in Conversion:
        cache.put(key_of(conversion, b"row"), conversion.value)
    assert [cache.get(key_of(conversion, b"row")) for conversion in Conversion] == [each.value for each in Conversion]


@pytest.mark.parametrize("size", [100, 2500, 50_000])
def test_what_is_counted_is_what_is_taken(size: int) -> None:
    """No more memory than the capacity, and not much less."""
    cache = ConversionCache(4 * 2**20)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        number = 0
        while len(cache) == number:  # until one is not kept
            cache.put(key_of(Conversion.ROW_TO_TASK, b"%0*d" % (size, number)), bytes(size))
            number += 1
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.6 * cache.held_bytes < taken <= cache.held_bytes <= 4 * 2**20

"""Reads of one ID that share what they can share, and nothing that they must not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.turns import turns
from taskgate.base.errors import StoreUnavailable
from taskgate.stores import single_flight
from taskgate.stores.single_flight import SingleFlight


class Database:
    """A store whose reads look at the start, as a snapshot does, and end when they are told to."""

    def __init__(self) -> None:
        self.value: bytes | None = b"1"
        self.error: Exception | None = None
        self.reads = 0
        self.gate = asyncio.Event()
        self.closed = False
        self.abandoned = 0

    def abandon(self, read: asyncio.Task[object]) -> None:
        self.abandoned += 1
        read.cancel()

    async def get_document(self, task_id: str) -> bytes | None:
        self.reads += 1
        value, error = self.value, self.error
        await self.gate.wait()
        if error is not None:
            raise error
        return value

    async def check(self) -> None:
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self.closed = True
        self.error = StoreUnavailable("closed")
        self.gate.set()


@asynccontextmanager
async def opened(*, cancellable: bool = False) -> AsyncIterator[tuple[Database, SingleFlight]]:
    database = Database()
    store = SingleFlight(database, cancellable=cancellable)
    yield database, store
    await store.close()


async def test_reads_that_come_together_are_one() -> None:
    async with opened() as (database, store):
        database.gate.set()
        assert await asyncio.gather(*(store.get_document("a") for _ in range(1000))) == [b"1"] * 1000
        assert database.reads == 1


async def test_other_ids_are_other_reads() -> None:
    async with opened() as (database, store):
        database.gate.set()
        await asyncio.gather(*(store.get_document(name) for name in "abcabc"))
        assert database.reads == 3


async def test_late_reader_sees_what_was_written_since() -> None:
    """A read under way may have looked before the write; who came after the write gets a later one."""
    async with opened() as (database, store):
        early = asyncio.create_task(store.get_document("a"))
        await turns()
        database.value = b"2"
        late = [asyncio.create_task(store.get_document("a")) for _ in range(100)]
        await turns()
        assert database.reads == 1
        database.gate.set()
        assert await early == b"1"
        assert await asyncio.gather(*late) == [b"2"] * 100
        assert database.reads == 2


async def test_reader_that_comes_as_the_second_read_begins_takes_a_third() -> None:
    """The same once more, for the flight that waited."""
    async with opened() as (database, store):
        first = asyncio.create_task(store.get_document("a"))
        await turns()
        second = asyncio.create_task(store.get_document("a"))
        await turns()
        database.gate.set()
        await first
        database.gate.clear()
        await turns()
        assert database.reads == 2
        database.value = b"3"
        third = asyncio.create_task(store.get_document("a"))
        await turns()
        database.gate.set()
        assert (await second, await third) == (b"1", b"3")


async def test_reader_of_a_file_waits_for_the_read_before_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one would only wait for the same page of the disk, in one more thread."""
    monkeypatch.setattr(single_flight, "LONGEST_WAIT", 0.01)
    database = Database()
    store = SingleFlight(database, patient=True)
    reads = [asyncio.create_task(store.get_document("a")) for _ in range(3)]
    await turns()
    reads += [asyncio.create_task(store.get_document("a")) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert database.reads == 1
    database.gate.set()
    assert await asyncio.gather(*reads) == [b"1"] * 6
    assert database.reads == 2
    await store.close()


async def test_lone_read_of_a_cancellable_store_needs_no_task() -> None:
    """Its caller reads; those who come meanwhile share the next read, which sees what was written since."""
    async with opened(cancellable=True) as (database, store):
        first = asyncio.create_task(store.get_document("a"))
        await turns()
        assert (database.reads, store._tasks) == (1, set())
        database.value = b"2"
        others = [asyncio.create_task(store.get_document("a")) for _ in range(100)]
        await turns()
        assert database.reads == 1
        database.gate.set()
        assert await first == b"1"
        assert await asyncio.gather(*others) == [b"2"] * 100
        assert database.reads == 2
        await turns()
        assert (store._boarding, store._flying, store._tasks) == ({}, {}, set())


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_lone_read_that_ends_early_lets_the_others_go_on(how: str) -> None:
    """Those who waited for its end share a read of their own; nothing is kept."""
    async with opened(cancellable=True) as (database, store):
        if how == "failed":
            database.error = StoreUnavailable("away")
        first = asyncio.create_task(store.get_document("a"))
        await turns()
        database.error = None
        others = [asyncio.create_task(store.get_document("a")) for _ in range(3)]
        await turns()
        if how == "cancelled":
            first.cancel()
            await turns()
            assert database.reads == 2  # without waiting for anything
        database.gate.set()
        assert await asyncio.gather(*others) == [b"1"] * 3
        (outcome,) = await asyncio.gather(first, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError if how == "cancelled" else StoreUnavailable)
        assert (database.reads, database.abandoned) == (2, 0)
        await turns()
        assert (store._boarding, store._flying) == ({}, {})


@pytest.mark.parametrize("cancellable", [False, True])
async def test_few_large_documents_are_read_at_once(cancellable: bool) -> None:
    """And small ones beside them; a large one whose caller has gone keeps its turn until the database is done."""
    async with opened(cancellable=cancellable) as (database, store):
        database.gate.set()
        database.value = b"x" * (single_flight.LARGE_DOCUMENT + 1)
        large = [f"large {number}" for number in range(12)]
        for task_id in large:
            await store.get_document(task_id)
        database.gate.clear()
        database.reads = 0
        reads = [asyncio.create_task(store.get_document(task_id)) for task_id in large]
        await turns()
        assert database.reads == 4
        for read in reads:
            read.cancel()
        await asyncio.wait(reads)
        assert database.abandoned == 0
        small = asyncio.create_task(store.get_document("small"))
        await turns()
        assert database.reads == 5
        database.value = b"1"
        database.gate.set()
        await small
        await turns()
        assert database.reads == 5  # those that waited for their turn have left without reading
        assert await store.get_document(large[0]) == b"1"


async def test_no_reader_waits_long_for_the_read_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that hangs delays no others: the next sets out by itself, and as many as there must be."""
    monkeypatch.setattr(single_flight, "LONGEST_WAIT", 0.05)
    async with opened() as (database, store):
        hanging = asyncio.create_task(store.get_document("a"))
        await turns()
        later = asyncio.create_task(store.get_document("a"))
        async with asyncio.timeout(10):
            while database.reads < 2:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.001)
        database.gate.set()
        await hanging
        await later


async def test_one_reader_cancelled_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever caller leaves, first or last, the read continues for the rest."""
    async with opened() as (database, store):
        readers = [asyncio.create_task(store.get_document("a")) for _ in range(10)]
        await turns()
        for reader in (readers[0], readers[-1]):
            reader.cancel()
        await turns()
        database.gate.set()
        results = await asyncio.gather(*readers, return_exceptions=True)
        assert results[1:-1] == [b"1"] * 8
        assert database.abandoned == 0
        assert {type(result) for result in (results[0], results[-1])} == {asyncio.CancelledError}


async def test_read_without_callers_is_not_begun() -> None:
    async with opened() as (database, store):
        first = asyncio.create_task(store.get_document("a"))
        await turns()
        gone = asyncio.create_task(store.get_document("a"))
        await turns()
        gone.cancel()
        await turns()
        database.gate.set()
        await first
        await turns()
        assert database.reads == 1
        assert await store.get_document("a") == b"1"


async def test_read_without_callers_is_abandoned_in_the_store() -> None:
    """Once, when the last one has gone; who comes then gets a read of their own."""
    async with opened() as (database, store):
        readers = [asyncio.create_task(store.get_document("a")) for _ in range(10)]
        await turns()
        late = asyncio.create_task(store.get_document("a"))
        await turns()
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
        assert (database.reads, database.abandoned) == (1, 1)
        await turns()
        database.gate.set()
        assert await late == b"1"
        assert (database.reads, database.abandoned) == (2, 1)


async def test_error_reaches_every_reader_and_passes() -> None:
    async with opened() as (database, store):
        database.gate.set()
        database.error = StoreUnavailable("away")
        results = await asyncio.gather(*(store.get_document("a") for _ in range(3)), return_exceptions=True)
        assert [str(result) for result in results] == ["The store is unavailable: away"] * 3
        with pytest.raises(StoreUnavailable, match="away"):
            await store.check()
        database.error = None
        assert await store.get_document("a") == b"1"


async def test_nothing_is_kept() -> None:
    """However reads end, the tables of flights are empty afterwards."""
    async with opened() as (database, store):
        database.gate.set()
        await asyncio.gather(*(store.get_document(f"{n}") for n in range(100)))
        database.error = StoreUnavailable("away")
        await asyncio.gather(*(store.get_document(f"{n}") for n in range(100)), return_exceptions=True)
        readers = [asyncio.create_task(store.get_document(f"{n}")) for n in range(100)]
        await asyncio.sleep(0)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await turns()
        assert (store._boarding, store._flying, store._tasks) == ({}, {}, set())


async def test_close_waits_for_reads_under_way() -> None:
    async with opened() as (database, store):
        reader = asyncio.create_task(store.get_document("a"))
        await turns()
        await store.close()
        assert database.closed
        assert await reader == b"1"
        with pytest.raises(StoreUnavailable):
            await store.get_document("a")

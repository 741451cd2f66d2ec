"""The conformance suite: every "must" of ``taskgate.stores.base``, for any store.

A store takes part by a subclass with a ``rig`` fixture (see ``test_sqlite.py``). The docstring of each test is the
sentence that it checks.
"""

import asyncio
import itertools
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given, settings

from conformance.rig import Rig
from support import public_words
from support.histories import History, expected_counts, histories, latest_versions
from support.lateness import within
from taskgate.base.errors import DocumentUnreadable, Overloaded, StoreUnavailable
from taskgate.documents.document import MAX_DOCUMENT_BYTES
from taskgate.stores.base import StoredTask, TaskStore, WriteCounts

ID = "65fc73fe-0586-11f1-8b8d-6219b54da7fe"
OTHER_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7ff"
PASSWORD = "correct horse"  # noqa: S105 - the tests search messages for it


def stored(task_id: str = ID, update_time: int = 1, document: bytes = b'{"a":1}') -> StoredTask:
    return StoredTask(task_id, update_time, document)


def assert_public(error: StoreUnavailable, rig: Rig) -> None:
    """One sentence without the location of the store, and for the log one that names it; no words of the driver."""
    public_words.assert_public(error.message)
    assert (
        error.private
        == error.message.replace("The store", f"The store {rig.name}", 1) + error.private.partition(error.reason)[2]
    )
    assert PASSWORD not in error.private


async def refusals(store: TaskStore, rig: Rig) -> set[str]:
    """The errors that refuse a read and a check: within three seconds each, in public words."""
    messages = set()
    for ask in (store.get_document(ID), store.check()):
        async with within(3):
            with pytest.raises(StoreUnavailable) as refused:
                await ask
        assert_public(refused.value, rig)
        messages.add(refused.value.message)
    return messages


async def recovery(store: TaskStore) -> None:
    """Return once a check succeeds, within seconds: a check begun during an outage may fail after it."""
    async with asyncio.timeout(10):
        while True:
            with suppress(StoreUnavailable):
                return await store.check()
            await asyncio.sleep(0.01)


class StoreSuite:
    """Reading."""

    async def test_document_is_returned_as_stored(self, rig: Rig) -> None:
        """Must return the bytes as stored, whatever they are."""
        rig.create()
        store = rig.open_store()
        for number, document in enumerate(("{}", '{"a": "\\ud800 é 😀"}', "not json", "", " " * 1000)):
            rig.put(rig.task_id(number), document)
            assert await store.get_document(rig.task_id(number)) == document.encode()
        await store.close()

    async def test_large_document_is_returned_as_stored(self, rig: Rig) -> None:
        """Must return the bytes however many they are."""
        rig.create()
        document = "x" * (MAX_DOCUMENT_BYTES + 1)
        rig.put(ID, document)
        store = rig.open_store()
        assert await store.get_document(ID) == document.encode()
        await store.close()

    async def test_unknown_id_is_none(self, rig: Rig) -> None:
        """None if no task has this ID."""
        rig.create()
        store = rig.open_store()
        assert await store.get_document(ID) is None
        await store.close()

    async def test_ids_are_compared_exactly(self, rig: Rig) -> None:
        """Must compare IDs exactly: case, spaces and Unicode forms count."""
        rig.create()
        for task_id in rig.similar_ids:
            rig.put(task_id, f"{{}}{task_id}")
        store = rig.open_store()
        for task_id in rig.similar_ids:
            assert await store.get_document(task_id) == f"{{}}{task_id}".encode()
        for task_id in rig.similar_ids_of_no_task:
            assert await store.get_document(task_id) is None
        await store.close()

    @pytest.mark.parametrize("task_id", ["", "\0", "a\0b", "\ud800", "x" * 100_000, "😀"], ids=ascii)
    async def test_any_string_is_taken(self, rig: Rig, task_id: str) -> None:
        """Must take any string; one that no database could hold is an ID that no task has."""
        rig.create()
        store = rig.open_store()
        assert await store.get_document(task_id) is None
        await store.close()

    async def test_finished_write_is_seen(self, rig: Rig) -> None:
        """Must see every write that was finished before the read began."""
        rig.create()
        store = rig.open_store()
        for number in range(50):
            rig.put(ID, f'{{"n":{number}}}')
            assert await store.get_document(ID) == f'{{"n":{number}}}'.encode()
        await store.close()

    async def test_replaced_document_is_old_or_new_and_whole(self, rig: Rig) -> None:
        """Must return the old document or the new one, whole, while a writer replaces it."""
        versions = {b"a" * 300_000, b"b" * 300_000}
        writer = rig.open_writer()
        writer.write([stored(document=b"a" * 300_000)])
        store = rig.open_store()
        stop = False
        written = 0

        def replace() -> None:
            nonlocal written
            with rig.open_writer() as other:
                while not stop:
                    document = (b"b", b"a")[written % 2] * 300_000
                    other.write([stored(update_time=written + 2, document=document)])
                    written += 1

        seen = set()
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(replace)
            try:
                async with asyncio.timeout(60):
                    while written <= 10 and not writing.done():
                        seen |= {await store.get_document(ID) for _ in range(20)}
            finally:
                stop = True
            writing.result()
        assert seen <= versions
        writer.close()
        await store.close()

    async def test_event_loop_stays_free_while_locked(self, rig: Rig) -> None:
        """Must leave the event loop free while the database is locked."""
        rig.create()
        store = rig.open_store()
        with rig.locked():
            reads = [asyncio.create_task(store.get_document(ID)) for _ in range(20)]
            longest, before = 0.0, time.perf_counter()
            started = before
            while not all(read.done() for read in reads):
                await asyncio.sleep(0.005)
                now = time.perf_counter()
                longest, before = max(longest, now - before), now
            results = await asyncio.gather(*reads, return_exceptions=True)
        assert {type(result) for result in results} == {StoreUnavailable}
        assert longest < (before - started) / 2  # longer means that the reads ran one after the other
        await store.close()

    async def test_cancelled_reads_leave_no_trace(self, rig: Rig) -> None:
        """Must answer later reads as usual after a read was cancelled."""
        rig.create()
        rig.put(ID, "{}")
        store = rig.open_store()
        for _ in range(5):
            reads = [asyncio.create_task(store.get_document(ID)) for _ in range(100)]
            await asyncio.sleep(0)
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
        assert await store.get_document(ID) == b"{}"
        await store.close()

    async def test_large_reads_that_come_and_go_hold_up_no_small_one(self, rig: Rig) -> None:
        """None must stand in a queue behind a read that was cancelled, and no small one behind many large ones."""
        rig.create()
        large = [rig.task_id(number) for number in range(12)]
        for task_id in large:
            rig.put(task_id, "x" * 8_000_000)
        rig.put(ID, "{}")
        store = rig.open_store()
        for task_id in [ID, *large]:
            await store.get_document(task_id)
        given_up: set[asyncio.Task[bytes | None]] = set()

        async def come_and_go() -> None:
            for task_id in itertools.cycle(large):
                read = asyncio.create_task(store.get_document(task_id))
                given_up.add(read)
                read.add_done_callback(given_up.discard)
                asyncio.get_running_loop().call_later(0.05, read.cancel)
                await asyncio.sleep(0.001)

        coming = asyncio.create_task(come_and_go())
        waits = []
        until = time.monotonic() + 1.5
        while (began := time.monotonic()) < until:
            assert await store.get_document(ID) == b"{}"
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.02)
        coming.cancel()
        await asyncio.gather(coming, *given_up, return_exceptions=True)
        assert statistics.median(waits) < 0.25  # 0.06 on a busy machine, on the slowest of them
        assert await store.get_document(large[0]) == b"x" * 8_000_000
        await store.close()

    @pytest.mark.parametrize("trouble", ["away", "locked", "damaged"])
    async def test_trouble_is_unavailable_within_seconds_and_passes(self, rig: Rig, trouble: str) -> None:
        """Must raise StoreUnavailable within 3 seconds, in public words, from reads and checks alike, and recover."""
        rig.create()
        rig.put(ID, "{}")
        store = rig.open_store()
        assert await store.get_document(ID) == b"{}"
        await store.check()
        with getattr(rig, trouble)():
            for _ in range(3):  # on a busy machine the first of two timeouts may vary
                messages = await refusals(store, rig)
                if len(messages) == 1:
                    break
            assert len(messages) == 1
        await store.check()
        assert await store.get_document(ID) == b"{}"
        await store.close()

    async def test_overload_fails_fast(self, rig: Rig) -> None:
        """Must raise Overloaded when too many reads wait, before any of those gives up, and answer again afterwards."""
        rig.create()
        rig.put(ID, "{}")
        store = rig.open_store()
        assert await store.get_document(ID) == b"{}"  # connected now: else it might be refused meanwhile
        ended: list[type[BaseException] | None] = []
        with rig.locked():
            # Different IDs, because equal reads share one.
            reads = [asyncio.create_task(store.get_document(rig.task_id(n))) for n in range(20_000)]
            for read in reads:
                read.add_done_callback(lambda read: ended.append(type(read.exception())))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            busiest = store.state()
            check, *results = await asyncio.gather(store.check(), *reads, return_exceptions=True)
        assert not isinstance(check, Overloaded), "a check is not refused because many reads wait"
        assert {type(result) for result in results} <= {StoreUnavailable, Overloaded}, Counter(map(repr, results))
        assert list(itertools.takewhile(lambda kind: kind is Overloaded, ended))[10_000:]
        await store.check()  # another check may still be probing whether it is back
        assert await store.get_document(ID) == b"{}"
        assert busiest.waiting > 100
        assert store.state().waiting == 0
        await store.close()

    @pytest.mark.parametrize("value", [None, 5, 1.5], ids=repr)
    async def test_value_of_another_type_is_unreadable(self, rig: Rig, value: object) -> None:
        """Must raise DocumentUnreadable when the stored value is neither text nor bytes."""
        rig.foreign()
        rig.put(ID, value)
        store = rig.open_store()
        with pytest.raises(DocumentUnreadable) as refused:
            await store.get_document(ID)
        assert ID in refused.value.message
        await store.close()

    async def test_conductors_own_table_is_read(self, rig: Rig) -> None:
        """The same statement reads the table that Conductor makes."""
        rig.foreign()
        rig.put(ID, "{}")
        store = rig.open_store()
        assert await store.get_document(ID) == b"{}"
        await store.close()

    @pytest.mark.parametrize("used", [False, True])
    async def test_closed_store_is_unavailable(self, rig: Rig, used: bool) -> None:
        """Close must be safe to call twice, used or not; later reads and checks raise StoreUnavailable."""
        rig.create()
        store: TaskStore = rig.open_store()
        if used:
            await store.get_document(ID)
        await store.close()
        await store.close()
        for ask in (store.get_document(ID), store.check()):
            with pytest.raises(StoreUnavailable):
                await ask
        assert store.state().waiting == 0  # metrics may be asked for until the process ends


class NetworkStoreSuite(StoreSuite):
    """Reading from a database on a network, where calls may outlive their callers, and outages be long."""

    async def test_outage_fails_fast(self, rig: Rig) -> None:
        """Reads fail within seconds, and at once when the outage is known, one after another as well as many together.

        Cancelled callers do not delay later ones.
        """
        rig.create()
        rig.put(ID, "{}")
        store = rig.open_store()
        assert await store.get_document(ID) == b"{}"
        with rig.silent():
            gone = [asyncio.create_task(store.get_document(rig.task_id(n))) for n in range(3000)]
            await asyncio.sleep(0.1)  # so that they are in front of later reads
            for read in gone:
                read.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
            async with within(3):
                reads = (store.get_document(rig.task_id(n)) for n in range(50))
                found_out = await asyncio.gather(*reads, return_exceptions=True)
            assert {type(result) for result in found_out} == {StoreUnavailable}
            async with within(5):  # a second each, without a memory of the outage
                for number in range(100):
                    with pytest.raises(StoreUnavailable) as refused:
                        await store.get_document(rig.task_id(number))
                    assert_public(refused.value, rig)
            async with within(3):
                reads = (store.get_document(rig.task_id(n)) for n in range(1000))
                refused_at_once = await asyncio.gather(*reads, return_exceptions=True)
            assert {type(result) for result in refused_at_once} == {StoreUnavailable}
            assert store.state().refusing
        await recovery(store)
        assert await store.get_document(ID) == b"{}"
        assert not store.state().refusing
        await store.close()


class WriterSuite:
    """Writing."""

    def test_written_tasks_are_there_for_others(self, rig: Rig) -> None:
        """Written tasks are found without taskgate, byte for byte."""
        documents = {f"id-{n}": f'{{"n":{n},"s":"é\\ud800"}}'.encode() for n in range(1200)}
        with rig.open_writer() as writer:
            assert writer.created
            counts = writer.write([stored(task_id, 1, document) for task_id, document in documents.items()])
            assert counts == WriteCounts(added=1200) == writer.total
        assert rig.stored() == documents
        with rig.open_writer() as again:
            assert not again.created

    def test_added_updated_and_kept_are_counted(self, rig: Rig) -> None:
        """Added, unchanged, older (kept) and replaced, as ``TaskWriter.write`` defines them."""
        with rig.open_writer() as writer:
            assert writer.write([stored(update_time=10, document=b"{}")]) == WriteCounts(added=1)
            assert writer.write([stored(update_time=10, document=b"{}")]) == WriteCounts(unchanged=1)
            assert writer.write([stored(update_time=9, document=b'{"older":1}')]) == WriteCounts(older=1)
            assert rig.stored() == {ID: b"{}"}
            assert writer.write([stored(update_time=10, document=b'{"pollCount":1}')]) == WriteCounts(replaced=1)
            assert writer.write([stored(update_time=10, document=b"{}")]) == WriteCounts(older=1)
            assert writer.write([stored(update_time=11, document=b'{"same":1}')]) == WriteCounts(replaced=1)
            assert writer.write([stored(update_time=10, document=b'{"pollCount":2}')]) == WriteCounts(older=1)
            assert writer.write([]) == WriteCounts()
            assert writer.total == WriteCounts(added=1, unchanged=1, older=3, replaced=2)
        assert rig.stored() == {ID: b'{"same":1}'}

    def test_many_ties_at_once(self, rig: Rig) -> None:
        """Between versions of one update time the finished one stays, whichever comes first, large ones included."""
        running = {f"id-{n}": b'{"status":"IN_PROGRESS","s":"%s"}' % (b"x" * (n % 3 * 5_000_000)) for n in range(6)}
        ended = {task_id: text.replace(b"IN_PROGRESS", b"COMPLETED") for task_id, text in running.items()}
        with rig.open_writer() as writer:
            for documents, counts in (
                (running, WriteCounts(added=6)),
                (ended, WriteCounts(replaced=6)),
                (running, WriteCounts(older=6)),
                (ended, WriteCounts(unchanged=6)),
            ):
                tasks = [stored(task_id, 7, document) for task_id, document in documents.items()]
                assert writer.write(tasks) == counts
        assert rig.stored() == ended

    def test_any_order_leaves_the_latest_version(self, rig: Rig) -> None:
        """The same versions, in whatever order and in however many writes, must leave the same one."""
        runs = itertools.count()  # every example has its own tasks in the one database

        @settings(max_examples=12, deadline=None)
        @given(history=histories())
        def check(history: History) -> None:
            run = next(runs)
            counts = WriteCounts()
            for writes in history:
                with rig.open_writer() as writer:
                    for versions in writes:
                        counts += writer.write([version.task(f"{run}-{version.number}") for version in versions])
            assert counts == expected_counts(history)
            found = rig.stored()
            for number, latest in latest_versions(history).items():
                assert found[f"{run}-{number}"] == latest.task("").document

        check()

    def test_one_id_several_times_in_a_write(self, rig: Rig) -> None:
        """Must treat several tasks with one ID as if written one after the other."""
        tasks = [
            stored(update_time=5, document=b'{"n":1}'),
            stored(update_time=4, document=b'{"n":2}'),
            stored(update_time=5, document=b'{"n":1}'),
            stored(OTHER_ID, 1, b"{}"),
            stored(update_time=6, document=b'{"n":3}'),
        ]
        with rig.open_writer() as writer:
            assert writer.write(tasks) == WriteCounts(added=2, older=1, unchanged=1, replaced=1)
        assert rig.stored() == {ID: b'{"n":3}', OTHER_ID: b"{}"}

    def test_failed_write_leaves_nothing(self, rig: Rig) -> None:
        """Must have written all of them or none, whatever interrupts it."""
        broken = StoredTask(OTHER_ID, 1, b"\xff")  # not UTF-8: the last one makes the transaction fail
        with rig.open_writer() as writer:
            with pytest.raises(UnicodeDecodeError):
                writer.write([stored(f"id-{n}") for n in range(100)] + [broken])
            assert writer.total == WriteCounts()
            assert rig.stored() == {}
            assert writer.write([stored()]) == WriteCounts(added=1)
        assert set(rig.stored()) == {ID}

    async def test_reader_is_not_held_up(self, rig: Rig) -> None:
        """Must never hold up a reader."""
        rig.create()
        rig.put(ID, "{}")
        store = rig.open_store()
        stop = False

        def write() -> int:
            count = 0
            with rig.open_writer() as writer:
                while not stop:
                    writer.write([stored(f"{count}-{n}", 1, b"x" * 2000) for n in range(500)])
                    count += 1
            return count

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            times = []
            until = time.perf_counter() + 1
            while (started := time.perf_counter()) < until:
                assert await store.get_document(ID) == b"{}"
                times.append(time.perf_counter() - started)
                await asyncio.sleep(0.001)
            stop = True
            assert writing.result() > 0
        assert statistics.median(times) < 0.25
        assert max(times) < 5
        await store.close()

    def test_second_writer_waits(self, rig: Rig) -> None:
        """Must wait a while for another writer to finish; nothing of either is lost."""

        def write(first: int) -> None:
            with rig.open_writer() as writer:
                for number in range(20):
                    writer.write([stored(f"{first}-{number}")])

        rig.create()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert len(rig.stored()) == 80

    @pytest.mark.parametrize("trouble", ["damaged"])
    def test_trouble_is_told_in_public_words(self, rig: Rig, trouble: str) -> None:
        """Opening must raise StoreUnavailable in the same kind of words as a read."""
        rig.create()
        with getattr(rig, trouble)(), pytest.raises(StoreUnavailable) as refused:
            rig.open_writer()
        assert_public(refused.value, rig)

    def test_foreign_database_is_left_alone(self, rig: Rig) -> None:
        """Opening must not change a database that another program made."""
        rig.foreign()
        rig.put(ID, "{}")
        with pytest.raises(StoreUnavailable, match="belongs to another program") as refused:
            rig.open_writer()
        assert_public(refused.value, rig)
        assert rig.stored() == {ID: b"{}"}

    def test_closed_writer_is_unavailable(self, rig: Rig) -> None:
        """Close must be safe to call twice; a write after it raises StoreUnavailable."""
        writer = rig.open_writer()
        writer.close()
        writer.close()
        with pytest.raises(StoreUnavailable):
            writer.write([stored()])

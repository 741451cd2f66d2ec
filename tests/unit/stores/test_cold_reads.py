"""Reads that may have to wait for a disk: which ones need a thread, and what they leave to others."""

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from taskgate.base.errors import Overloaded, StoreUnavailable
from taskgate.stores.recent import Recent
from taskgate.stores.single_flight import HUGE_AT_ONCE, LARGE_DOCUMENT
from taskgate.stores.sqlite import cold_reads
from taskgate.stores.sqlite.cold_reads import ColdReads, HugeDocument


class Disk:
    """Documents of which those called "slow" have to be waited for, as have those called "huge" when they are copied.

    Those called "large" take as long as from memory.
    """

    def __init__(self) -> None:
        self.released = threading.Event()
        self.read: list[str] = []

    def __call__(self, task_id: str, _asked: float = 0.0, *, in_turn: bool = False) -> bytes | None:
        if task_id.startswith("huge") and not in_turn:
            raise HugeDocument
        self.read.append(task_id)
        if task_id.startswith(("slow", "huge")):
            self.released.wait(30)
        elif task_id == "large":
            time.sleep(2 * cold_reads._QUICK)
        return b"x" * (LARGE_DOCUMENT + 1) if task_id == "large" else task_id.encode()


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Disk, ColdReads]]:
    disk = Disk()
    reads = ColdReads("tasks.db", disk)
    yield disk, reads
    disk.released.set()
    await reads.close()


def begin(reads: ColdReads, *task_ids: str) -> list[asyncio.Task[bytes | None]]:
    return [asyncio.create_task(reads.get_document(task_id)) for task_id in task_ids]


async def until(condition: object) -> None:
    """Wait for something that comes about in another thread."""
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


async def test_what_was_read_a_moment_ago_is_quick() -> None:
    """Not what was never read, what is large, or what the disk took long for."""
    async with opened() as (disk, reads):
        assert not reads.is_quick("a", time.monotonic())
        await asyncio.gather(*begin(reads, "a", "large"))
        assert reads.is_quick("a", time.monotonic())
        assert not reads.is_quick("large", time.monotonic())
        assert not reads.is_quick("a", time.monotonic() + 100)
        (slow,) = begin(reads, "slow")
        await asyncio.sleep(0.1)
        disk.released.set()
        await slow
        assert not reads.is_quick("slow", time.monotonic())


async def test_many_quick_first_reads_speak_for_others() -> None:
    """And no longer, as soon as one waits; a few never do."""
    async with opened() as (_, reads):
        number = 0

        async def read_some(count: int) -> int:
            """Read so many tasks for the first time; how many needed no thread."""
            nonlocal number
            quick = 0
            for _ in range(count):
                number += 1
                if reads.is_quick(f"{number}", time.monotonic()):
                    quick += 1
                else:
                    await reads.get_document(f"{number}")
            return quick

        async with asyncio.timeout(30):
            while await read_some(1000) < 500:
                pass
        (slow,) = begin(reads, "slow")
        await asyncio.sleep(0.1)
        assert await read_some(1000) == 0
        slow.cancel()


async def test_large_reads_do_not_send_small_ones_to_threads() -> None:
    """A large document takes its time also from memory: it says nothing about the disk."""
    async with opened() as (_, reads):
        quick = number = 0
        async with asyncio.timeout(30):
            while quick < 500:
                larges = begin(reads, *["large"] * 10)
                for _ in range(2 * cold_reads._SAMPLES):
                    number += 1
                    if reads.is_quick(f"{number}", time.monotonic()):
                        quick += 1
                    else:
                        await reads.get_document(f"{number}")
                await asyncio.gather(*larges)


async def test_huge_documents_are_copied_a_few_at_a_time_and_wait_in_no_thread() -> None:
    """However many are read for the first time while some are stuck, other first reads go on; all of them end."""
    async with opened() as (disk, reads):
        huge = begin(reads, *(f"huge {number}" for number in range(4 * cold_reads._THREADS)))
        await until(lambda: len(disk.read) == HUGE_AT_ONCE)
        async with asyncio.timeout(10):
            assert await reads.get_document("a") == b"a"
        gone = huge.pop()
        reads.abandon(gone)
        await asyncio.wait([gone])
        assert gone.cancelled()
        assert disk.read[HUGE_AT_ONCE:] == ["a"]
        disk.released.set()
        assert [await read for read in huge] == [f"huge {number}".encode() for number in range(len(huge))]


async def test_few_first_reads_speak_for_no_others() -> None:
    async with opened() as (_, reads):
        for number in range(cold_reads._SAMPLES):
            assert not reads.is_quick(f"{number}", time.monotonic())
            await reads.get_document(f"{number}")
            await asyncio.sleep(cold_reads._SAMPLE_SECONDS / 10)


async def test_reads_that_wait_hold_up_neither_others_nor_repetitions() -> None:
    """Many slow tasks leave threads for what was read a moment ago, and one fewer for other first reads."""
    async with opened() as (_, reads):
        await asyncio.gather(*begin(reads, "a"))
        slow = begin(reads, *(f"slow {number}" for number in range(cold_reads._THREADS - 1)))
        async with asyncio.timeout(10):
            assert await reads.get_document("b") == b"b"
            slow += begin(reads, "slow and last")
            assert await reads.get_document("a") == b"a"
        assert not any(read.done() for read in slow)


async def test_read_that_was_given_up_leaves_the_queue() -> None:
    """However many come and go while every thread waits, they are not read, and there is room for others."""
    async with opened() as (disk, reads):
        slow = begin(reads, *(f"slow {number}" for number in range(cold_reads._THREADS)))
        await until(lambda: len(disk.read) == len(slow))
        for _ in range(5):
            gone = begin(reads, *(f"gone {number}" for number in range(500)))
            await asyncio.sleep(0)
            for read in gone:
                reads.abandon(read)
            await asyncio.wait(gone)
            assert all(read.cancelled() for read in gone)
        for read in slow:
            reads.abandon(read)
        disk.released.set()
        await asyncio.gather(*slow)
        assert await reads.get_document("a") == b"a"
        assert disk.read[len(slow) :] == ["a"]


async def test_one_too_many_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_reads, "_MOST_READS", 3)
    async with opened() as (disk, reads):
        slow = begin(reads, *("slow 1", "slow 2", "slow 3"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="3 reads wait for the store"):
            await reads.get_document("a")
        disk.released.set()
        await asyncio.gather(*slow)
        assert await reads.get_document("a") == b"a"


async def test_check_asks_only_if_nothing_else_tells() -> None:
    """A disk that is slow answers health checks as long as it answers at all."""
    async with opened() as (disk, reads):
        await reads.check()
        assert disk.read == [""]
        slow = begin(reads, "slow", "a")
        await slow[1]
        await reads.check()
        assert disk.read.count("") == 1


async def test_check_is_answered_however_many_reads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not refused where a read is, and not behind the reads that hold every thread."""
    monkeypatch.setattr(cold_reads, "_ALIVE_SECONDS", 0)
    monkeypatch.setattr(cold_reads, "_MOST_READS", 100)
    async with opened() as (_, reads):
        begin(reads, *(f"slow {number}" for number in range(100)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await reads.get_document("a")
        for _ in range(3):
            async with asyncio.timeout(10):
                await reads.check()


async def test_checks_that_hang_take_one_thread() -> None:
    """Those after it are given up in the queue; each first read and each repetition has the threads that it had."""
    asked = list[str]()
    released = threading.Event()

    def read(task_id: str, _asked: float, *, in_turn: bool) -> bytes | None:
        asked.append(task_id)
        if not task_id:
            released.wait(30)
        return b"{}"

    reads = ColdReads("tasks.db", read)
    for _ in range(cold_reads._THREADS + cold_reads._THREADS_FOR_REPEATS):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await reads.check()
    async with asyncio.timeout(10):
        assert [await reads.get_document(task_id) for task_id in "aa"] == [b"{}"] * 2
        released.set()
        await reads.check()
    assert asked == ["", "a", "a", ""]
    await reads.close()


async def test_closing_fails_what_waits_and_lets_finish_what_runs() -> None:
    async with opened() as (disk, reads):
        slow = begin(reads, *(f"slow {number}" for number in range(cold_reads._THREADS)))
        await until(lambda: len(disk.read) == len(slow))
        waiting = begin(reads, "a", "b")
        await asyncio.sleep(0)
        closing = asyncio.create_task(reads.close())
        failed = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in failed] == [StoreUnavailable] * 2
        disk.released.set()
        assert all(await asyncio.gather(*slow))
        await closing
        with pytest.raises(StoreUnavailable, match="is closed"):
            await reads.get_document("a")


async def test_closing_fails_what_waits_for_its_turn() -> None:
    async with opened() as (disk, reads):
        huge = begin(reads, *(f"huge {number}" for number in range(HUGE_AT_ONCE)))
        await until(lambda: len(disk.read) == HUGE_AT_ONCE)
        (waiting,) = begin(reads, "huge and last")
        await until(lambda: len(reads._huge) == HUGE_AT_ONCE + 1)
        closing = asyncio.create_task(reads.close())
        with pytest.raises(StoreUnavailable, match="is closed"):
            await waiting
        assert not waiting.cancelling()
        disk.released.set()
        assert await asyncio.gather(*huge) == [b"huge 0", b"huge 1"]
        await closing
        with pytest.raises(StoreUnavailable, match="is closed"):
            await reads.check()


async def test_closing_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_reads, "_CLOSE_SECONDS", 0.1)
    async with opened() as (disk, reads):
        (slow,) = begin(reads, "slow")
        await until(lambda: disk.read)
        async with asyncio.timeout(5):
            await reads.close()
        assert not slow.done()
        disk.released.set()
        await slow


async def test_answers_are_not_kept_after_they_were_given() -> None:
    """Documents have megabytes; an idle thread may not hold one."""

    class Held:
        """Something that a weak reference can watch."""

        def __len__(self) -> int:
            return 1

    held = weakref.WeakSet[Held]()

    def read(_task_id: str, _asked: float, *, in_turn: bool) -> bytes | None:
        one = Held()
        held.add(one)
        return one  # type: ignore[return-value] # as good as any bytes

    reads = ColdReads("tasks.db", read)
    await reads.get_document("a")
    await until(lambda: not held)
    await reads.close()


def test_what_is_recent_is_bounded() -> None:
    """By number and by time."""
    now = time.monotonic()
    recent = Recent(10, 30.0)
    for number in range(100):
        recent.add(f"{number}", now)
    assert recent.has("99", now)
    assert sum(recent.has(f"{number}", now) for number in range(100)) <= 20
    assert recent.has("99", now + 31)
    assert not recent.has("99", now + 62)
    recent.add("a", now + 62)
    recent.discard("a")
    assert not recent.has("a", now + 62)

"""Run file reads that may wait for the disk in threads, so that they do not block the event loop.

Whether a page of a file is in memory cannot be known beforehand. But recently read tasks are in memory; and when
hundreds of tasks a second are read for the first time and a sample of them is quick in threads, the others are quick
too. Such reads may run on the event loop, which takes half the CPU.
"""

import asyncio
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from taskgate.base.errors import DocumentUnreadable, StoreUnavailable
from taskgate.stores.base import StoreState
from taskgate.stores.recent import Recent
from taskgate.stores.refusals import CLOSED, overloaded
from taskgate.stores.single_flight import HUGE_AT_ONCE, LARGE_DOCUMENT

T = TypeVar("T")

_THREADS: Final = 16
"""How many different tasks can wait for a slow disk at once while others are read for the first time.

With 64, many first reads took a tenth more CPU and 80 MB more: each thread has a connection with its cache.
"""

_THREADS_FOR_REPEATS: Final = 4
"""Threads for tasks that were read recently, so that these reads do not queue behind slow ones."""

_THREADS_FOR_CHECKS: Final = 1
"""A hanging probe blocks only this thread; later probes queue behind it and leave the queue when cancelled."""

_MOST_READS: Final = 1024
"""Limit of reads in flight, including those that wait for a thread."""

_IN_MEMORY: Final = (100_000, 30.0)
"""How many tasks count as in memory, for how many seconds; at most twice that. The record takes about 15 MB."""

SLOW_READ: Final = 0.02
"""Seconds after which a read of a small document probably waited for the disk, and not only for its turn."""

_SAMPLES, _SAMPLE_SECONDS = 20, 0.1
"""How many quick reads in threads within how many seconds vouch for others, for as many seconds more."""

_QUICK, _QUICK_TO_SLOW = 0.005, 9
"""Seconds of a quick read, and how many quick reads offset a slow one: a thread may have to wait for its turn."""

_ALIVE_SECONDS: Final = 2.0
"""Seconds since the last answer for which a disk counts as slow rather than gone."""

_CLOSE_SECONDS: Final = 2.0
"""Seconds that ``close`` waits for running reads; one that hangs in the kernel is abandoned."""


class HugeDocument(Exception):
    """Raised by a ``read`` that is not ``in_turn`` and finds a document of over ``HUGE_DOCUMENT`` bytes."""


class Read(Protocol):
    """Read a document, for as long as it takes."""

    def __call__(self, task_id: str, asked: float, *, in_turn: bool) -> bytes | None:
        """Return the document of ``task_id``, requested at ``asked``, a time of ``time.monotonic``.

        Raises HugeDocument before copying a huge document, unless it is ``in_turn``.
        """
        ...


@dataclass(slots=True)
class _Job:
    future: Future[tuple[bytes | None, float]]
    began: float


class ColdReads:
    """An ``AbandonableStore`` that runs each ``read`` in a thread.

    For one event loop. ``store`` is the name of the database in messages.

    Huge documents are copied ``HUGE_AT_ONCE`` at a time: more would take the processors from the event loop. Only a
    read finds out which are huge. It then releases its thread, and reads the document again in its turn.
    """

    def __init__(self, store: str, read: Read) -> None:
        self._store = store
        self._read = read
        self._threads = ThreadPoolExecutor(_THREADS, "read")
        self._threads_for_repeats = ThreadPoolExecutor(_THREADS_FOR_REPEATS, "read-again")
        self._threads_for_checks = ThreadPoolExecutor(_THREADS_FOR_CHECKS, "check")
        self._jobs: dict[asyncio.Task[Any], _Job] = {}  # oldest first
        self._huge_turns = asyncio.Semaphore(HUGE_AT_ONCE)
        self._huge: dict[asyncio.Task[Any], Future[Any] | None] = {}  # None: waits for its turn
        self._in_memory = Recent(*_IN_MEMORY)
        self._samples = _Samples()
        self._answered = -math.inf
        self._closed = False

    def is_quick(self, task_id: str, now: float) -> bool:
        """Predict whether reading ``task_id`` at ``now`` (``time.monotonic``) needs no wait for the disk."""
        if self._closed:
            return False
        return self._in_memory.has(task_id, now) or (self._samples.speak_for_others(now) and not self._waits_long(now))

    def note(self, task_id: str, document: bytes | None, seconds: float) -> None:
        """Record that ``task_id`` was read just now, in ``seconds``, as ``document``."""
        if seconds < SLOW_READ and (document is None or len(document) <= LARGE_DOCUMENT):
            self._in_memory.add(task_id, time.monotonic())
        else:
            self._in_memory.discard(task_id)

    async def get_document(self, task_id: str) -> bytes | None:
        """Return or raise what ``read`` does.

        Raises StoreUnavailable if this store is closed, and Overloaded if too many reads are in flight.
        """
        if self._closed:
            raise self._refusal()
        if len(self._jobs) + len(self._huge) >= _MOST_READS:
            raise overloaded(_MOST_READS)
        asked = time.monotonic()
        with suppress(HugeDocument):
            return await self._read_unknown(task_id, asked)
        return await self._read_huge(task_id, asked)

    def abandon(self, read: asyncio.Task[Any]) -> None:
        """Cancel the task ``read`` if it still waits for a thread or a turn. A running read cannot be interrupted."""
        job = self._jobs.get(read)
        if job is not None:
            job.future.cancel()  # cancels the task that waits for it
        elif read in self._huge:
            future = self._huge[read]
            if future is None:
                read.cancel()
            else:
                future.cancel()

    async def check(self) -> None:
        """Return if reads are answered; probe with an empty task ID unless other reads were answered recently.

        The probe is never refused or queued behind reads, however many wait: tasks in memory can be served.
        """
        if self._closed:
            raise self._refusal()
        if (self._jobs or self._huge) and time.monotonic() - self._answered < _ALIVE_SECONDS:
            return
        with suppress(HugeDocument, DocumentUnreadable):  # also an answer
            await self._result(self._threads_for_checks.submit(self._read, "", time.monotonic(), in_turn=False))
        self._answered = time.monotonic()

    def state(self) -> StoreState:
        """Return the state now."""
        reads = len(self._jobs) + len(self._huge)
        busy = min(reads, _THREADS)
        return StoreState(busy, _THREADS - busy, reads - busy)

    async def close(self) -> None:
        """End the threads: running reads get ``_CLOSE_SECONDS`` to finish; waiting reads fail."""
        self._closed = True
        loop = asyncio.get_running_loop()
        ends = []
        for task, future in self._huge.items():
            if future is None:
                task.cancel()
        for threads in (self._threads, self._threads_for_repeats, self._threads_for_checks):
            threads.shutdown(wait=False, cancel_futures=True)
            ends.append(loop.run_in_executor(None, threads.shutdown))
        await asyncio.wait(ends, timeout=_CLOSE_SECONDS)

    async def _read_unknown(self, task_id: str, asked: float) -> bytes | None:
        task = _current_task()
        threads = self._threads_for_repeats if self._in_memory.has(task_id, asked) else self._threads
        job = threads.submit(self._timed, task_id, asked)
        self._jobs[task] = _Job(job, asked)
        try:
            document, seconds = await self._result(job)
        finally:
            del self._jobs[task]
        self._answered = time.monotonic()
        if document is None or len(document) <= LARGE_DOCUMENT:  # a large one is slow even from memory
            self._samples.add(seconds)
        self.note(task_id, document, seconds)
        return document

    async def _read_huge(self, task_id: str, asked: float) -> bytes | None:
        task = _current_task()
        self._huge[task] = None
        try:
            async with self._huge_turns:
                if self._closed:
                    raise self._refusal()
                job = self._threads.submit(self._read, task_id, asked, in_turn=True)
                self._huge[task] = job
                document = await self._result(job)
        except asyncio.CancelledError:
            if self._closed and self._huge[task] is None:
                task.uncancel()
                raise self._refusal() from None
            raise
        finally:
            del self._huge[task]
        self._answered = time.monotonic()
        self._in_memory.discard(task_id)
        return document

    async def _result(self, job: Future[T]) -> T:
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if self._closed and job.cancelled():
                raise self._refusal() from None
            raise

    def _timed(self, task_id: str, asked: float) -> tuple[bytes | None, float]:
        began = time.monotonic()
        document = self._read(task_id, asked, in_turn=False)
        return document, time.monotonic() - began

    def _waits_long(self, now: float) -> bool:
        """Whether a read in flight seems to wait for the disk."""
        oldest = next(iter(self._jobs.values()), None)
        return oldest is not None and now - oldest.began > SLOW_READ

    def _refusal(self) -> StoreUnavailable:
        return StoreUnavailable(CLOSED, store=self._store)


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines run in tasks
    return task


class _Samples:
    """Time the first ``_SAMPLES`` reads of each ``_SAMPLE_SECONDS`` in threads, to predict the others."""

    def __init__(self) -> None:
        self._ends = 0.0
        self._asked = self._quick = 0
        self._enough_before = False

    def speak_for_others(self, now: float) -> bool:
        """Whether a read at ``now`` need not be a sample. If it must be one, count it as begun."""
        if now >= self._ends:
            self._enough_before = self._quick >= _SAMPLES and now < self._ends + _SAMPLE_SECONDS
            self._ends = now + _SAMPLE_SECONDS
            self._asked = self._quick = 0
        self._asked += 1
        return self._enough_before and self._asked > _SAMPLES

    def add(self, seconds: float) -> None:
        """Count the ``seconds`` of a sample, or of any other threaded read of a document that is not large."""
        self._quick += 1 if seconds < _QUICK else -_QUICK_TO_SLOW

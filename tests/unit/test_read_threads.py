"""Blocking reads on threads: answered, in time, in bounds, without a trace of the ones that were given up."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from taskgate.errors import Overloaded, StoreUnavailable
from taskgate.stores.read_threads import ReadThreads


def reading_threads() -> int:
    return sum(thread.name.startswith("read-") for thread in threading.enumerate())


@asynccontextmanager
async def reading(
    answer: Callable[[int], object], *, seconds: float = 2.0, max_waiting: int = 1024
) -> AsyncIterator[ReadThreads[int, object]]:
    threads = ReadThreads("tasks.db", answer, threads=2, timeout=seconds, max_waiting=max_waiting)
    yield threads
    await threads.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that comes about in another thread."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - of what is looked at, nobody tells
            await asyncio.sleep(0.001)


async def test_every_question_gets_its_own_answer() -> None:
    async with reading(lambda number: number * 2) as threads:
        answers = await asyncio.gather(*(threads.ask(number) for number in range(1000)))
    assert answers == [number * 2 for number in range(1000)]


async def test_what_the_answer_raises_is_raised_where_it_was_asked() -> None:
    def divide(number: int) -> float:
        return 1 / number

    async with reading(divide) as threads:
        results = await asyncio.gather(threads.ask(1), threads.ask(0), threads.ask(2), return_exceptions=True)
        assert [results[0], results[2]] == [1, 0.5]
        assert isinstance(results[1], ZeroDivisionError)
        assert await threads.ask(4) == 0.25


async def test_no_more_threads_than_allowed_and_none_before_the_first_question() -> None:
    before = reading_threads()
    async with reading(lambda _: time.sleep(0.01)) as threads:
        assert reading_threads() == before
        await asyncio.gather(*(threads.ask(number) for number in range(20)))
        assert reading_threads() == before + 2
    assert reading_threads() == before


async def test_hanging_read_fails_in_time_and_the_rest_is_answered_afterwards() -> None:
    """A disk that does not answer holds up neither the caller nor the loop."""
    release = threading.Event()
    async with reading(lambda _: release.wait(), seconds=0.2) as threads:
        started = time.monotonic()
        results = await asyncio.gather(*(threads.ask(number) for number in range(10)), return_exceptions=True)
        assert time.monotonic() - started < 1
        assert {str(result) for result in results} == {"The store is unavailable: it did not answer within 0.2 s"}
        release.set()
        assert await threads.ask(1) is True


async def test_each_question_has_its_own_deadline() -> None:
    release = threading.Event()
    async with reading(lambda _: release.wait(), seconds=1.5) as threads:
        first = asyncio.create_task(threads.ask(1))
        await asyncio.sleep(0.75)
        second = asyncio.create_task(threads.ask(2))
        with pytest.raises(StoreUnavailable):
            await first
        assert not second.done()
        release.set()
        assert await second is True


async def test_questions_given_up_do_not_make_room_for_more_work_than_allowed() -> None:
    """While the threads hang, callers that come and go must not queue work without end."""
    release = threading.Event()
    begun: list[int] = []
    answered: list[int] = []

    def answer(number: int) -> None:
        begun.append(number)
        release.wait()
        answered.append(number)

    async with reading(answer, seconds=100, max_waiting=10) as threads:
        for _ in range(5):
            given_up = [asyncio.create_task(threads.ask(number)) for number in range(20)]
            await until(lambda: len(begun) == 2)
            for read in given_up:
                read.cancel()
            await asyncio.gather(*given_up, return_exceptions=True)
        with pytest.raises(Overloaded, match="10 reads wait for the store"):
            await threads.ask(1)
        release.set()
        await until(lambda: not threads._questions.qsize())
        await threads.ask(7)
    assert len(answered) == 3  # the two that the threads had begun, and the last


async def test_closing_fails_what_waits_and_lets_finish_what_runs() -> None:
    release = threading.Event()
    begun: list[int] = []

    def answer(number: int) -> bool:
        begun.append(number)
        return release.wait()

    async with reading(answer, seconds=100) as threads:
        reads = [asyncio.create_task(threads.ask(number)) for number in range(6)]
        await until(lambda: len(begun) == 2)
        closing = asyncio.create_task(threads.close())
        await until(lambda: threads.closed)
        release.set()
        await closing
        results = await asyncio.gather(*reads, return_exceptions=True)
    assert results[:2] == [True, True]
    assert {str(result) for result in results[2:]} == {"The store is unavailable: it is closed"}


async def test_queue_that_moves_is_no_outage() -> None:
    """Reads of large documents may wait longer than the timeout in all, as long as one after the other is answered."""
    async with reading(lambda number: time.sleep(0.15) or number, seconds=1) as threads:
        began = time.monotonic()
        asking = [asyncio.create_task(threads.ask(number)) for number in range(16)]
        await asking[0]
        assert threads.moving
        assert await asyncio.gather(*asking) == list(range(16))
        assert time.monotonic() - began > 1.1
        assert not threads.moving


async def test_errors_are_no_sign_of_life() -> None:
    """A queue whose reads all fail slowly is given up after the timeout, not worked off."""

    def fail(_: int) -> None:
        time.sleep(0.2)
        raise StoreUnavailable("locked")

    async with reading(fail, seconds=1) as threads:
        results = await asyncio.gather(*(threads.ask(number) for number in range(20)), return_exceptions=True)
    locked = "The store is unavailable: locked"
    messages = [str(result) for result in results]
    assert set(messages) == {locked, "The store is unavailable: it did not answer within 1 s"}
    assert messages.count(locked) <= 10  # two at a time, for a second


async def test_answer_that_came_while_the_loop_was_busy_is_given() -> None:
    """The timer may be the first thing that a busy loop comes back to."""
    async with reading(lambda number: number, seconds=0.1) as threads:
        asking = asyncio.create_task(threads.ask(1))
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - the loop stands still, on purpose
        assert await asking == 1


async def test_closing_does_not_wait_for_ever() -> None:
    release = threading.Event()
    threads: ReadThreads[int, bool] = ReadThreads("tasks.db", lambda _: release.wait(), threads=1, timeout=0.2)
    with pytest.raises(StoreUnavailable):
        await threads.ask(1)
    started = time.monotonic()
    await threads.close()
    assert time.monotonic() - started < 1
    release.set()


class _Document:
    """Something that a weak reference can watch."""


async def test_answers_are_not_kept_after_they_were_given() -> None:
    """Documents have megabytes; neither an idle thread nor a pending timer may hold one."""
    async with reading(lambda _: _Document()) as threads:
        watched = [weakref.ref(await threads.ask(number)) for number in range(10)]
        await asyncio.sleep(0.05)
        gc.collect()
        assert [reference() for reference in watched] == [None] * 10


def test_loop_that_ended_first_does_no_harm() -> None:
    """Threads notice that nobody is there any more, and end."""
    release = threading.Event()
    threads: ReadThreads[int, bool] = ReadThreads("tasks.db", lambda _: release.wait(), threads=1)
    before = reading_threads()

    async def ask_and_leave() -> None:
        asking = asyncio.create_task(threads.ask(1))
        await asyncio.sleep(0.01)
        asking.cancel()

    asyncio.run(ask_and_leave())
    release.set()
    deadline = time.monotonic() + 2
    while reading_threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reading_threads() == before

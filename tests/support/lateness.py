"""Bounds on seconds that hold on a busy machine too."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

_TICK = 0.01


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Check that the block takes less than ``seconds``, without the time in which the machine ran something else.

    That time is measured as the lateness of timers of the same event loop.
    """
    late = 0.0

    async def tick() -> None:
        nonlocal late
        while True:
            due = time.perf_counter() + 2 * _TICK
            await asyncio.sleep(_TICK)
            late += max(0.0, time.perf_counter() - due)

    ticking = asyncio.create_task(tick())
    started = time.perf_counter()
    try:
        yield
        took = time.perf_counter() - started
        await asyncio.sleep(0)  # the last tick may be late itself
    finally:
        ticking.cancel()
    assert took - late < seconds, f"{took:.2f} s, of which {late:.2f} s were the machine's"


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """The same for a block without an event loop; the timers are those of a thread."""
    late = 0.0
    done = threading.Event()

    def tick() -> None:
        nonlocal late
        over = False
        while not over:
            due = time.perf_counter() + 2 * _TICK
            over = done.wait(_TICK)
            late += max(0.0, time.perf_counter() - due)

    ticking = threading.Thread(target=tick)
    ticking.start()
    started = time.perf_counter()
    try:
        yield
        took = time.perf_counter() - started
    finally:
        done.set()
        ticking.join()
    assert took - late < seconds, f"{took:.2f} s, of which {late:.2f} s were the machine's"

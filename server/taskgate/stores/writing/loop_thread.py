"""Run an event loop in its own thread, so that blocking code anywhere can use an asynchronous driver."""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_LOOK_INTERVAL = 0.1
"""Seconds between two checks for Ctrl-C."""


class LoopThread:
    """Run coroutines one at a time, each to completion, for one waiting thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._turn, name="loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of ``work``; any exception while waiting cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def run_unless(self, held: Sequence[int], grace: float, work: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of ``work``, or None without one ``grace`` seconds after ``held`` got an item.

        ``held`` is the list of ``interrupts_held``. On None, ``work`` was cancelled and has ended.
        """
        ended = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_telling(ended, work), self._loop)
        until: float | None = None
        while True:
            try:
                return future.result(_LOOK_INTERVAL)
            except concurrent.futures.TimeoutError:
                if future.done():
                    raise
            if held and until is None:
                until = time.monotonic() + grace
            if until is not None and time.monotonic() > until:
                future.cancel()
                ended.wait()
                return None

    def close(self) -> None:
        """End the thread; safe to call twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _turn(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(asyncio.sleep(0))  # closes aborted transports, one turn later
        finally:
            self._loop.close()


async def _telling(ended: threading.Event, work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    finally:
        ended.set()

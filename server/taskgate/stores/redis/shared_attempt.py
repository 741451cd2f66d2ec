"""Make one attempt at a time, and share its outcome among all callers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from taskgate.stores.redis.faults import Unreachable
from taskgate.stores.refusals import CLOSED

T = TypeVar("T")

_PAUSE: Final = 0.05
"""Seconds between the end of an attempt and the start of the next."""


class SharedAttempt(Generic[T]):
    """Calls ``attempt`` for the first caller; all callers that come before its end share the outcome.

    The attempt continues when a caller is cancelled.
    """

    def __init__(self, attempt: Callable[[], Awaitable[T]], *, pause_after_success: bool) -> None:
        """``attempt`` raises Unreachable if it fails. A failure is always followed by a pause."""
        self._attempt = attempt
        self._pause_after_success = pause_after_success
        self._task: asyncio.Task[T | Unreachable] | None = None
        self._earliest = 0.0
        self._closed = False

    @property
    def under_way(self) -> bool:
        """Whether an attempt has started and not ended."""
        return self._task is not None

    async def outcome(self) -> T:
        """Return the outcome of the attempt under way, or of a new one. Raises Unreachable."""
        if self._closed:
            raise Unreachable(CLOSED)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        outcome = await asyncio.shield(self._task)
        if isinstance(outcome, Unreachable):
            raise Unreachable(outcome.reason) from outcome
        return outcome

    async def close(self) -> None:
        """Cancel the attempt; its callers and all later ones get Unreachable."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> T | Unreachable:
        loop = asyncio.get_running_loop()
        paused = True
        try:
            if (pause := self._earliest - loop.time()) > 0:
                await asyncio.sleep(pause)
            outcome = await self._attempt()
        except Unreachable as error:
            return error  # not raised: many callers would share one traceback
        except asyncio.CancelledError:  # only ``close`` cancels the task
            return Unreachable(CLOSED)
        else:
            paused = self._pause_after_success
            return outcome
        finally:
            if paused:
                self._earliest = loop.time() + _PAUSE
            self._task = None

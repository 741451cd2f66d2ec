"""Circuit breaker: during an outage, refuse all reads at once, except for one probe at a time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

PROBE_PATIENCE: Final = 0.25
"""Seconds that a caller waits for its probe: enough for a server that has recovered."""


class Circuit:
    """Opened by a read that finds the database unavailable, closed by a read that gets an answer.

    The probe is independent of its caller: it continues after the caller is refused. So a caller that retries, or for
    which Envoy retries, waits little in each attempt, and the next caller benefits from the result.
    """

    def __init__(self, refusal: Callable[[str], Exception]) -> None:
        """``refusal`` turns a reason into the exception to raise."""
        self.reason: str | None = None
        """Why reads are refused; None while the circuit is closed."""
        self._refusal = refusal
        self._probe: asyncio.Task[Any] | None = None

    def open(self, reason: str) -> None:
        """Refuse reads from now on."""
        self.reason = reason

    def close(self) -> None:
        """Allow all reads from now on."""
        self.reason = None

    async def probe(self, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run ``read`` as the probe and return its result if it ends soon; raise the refusal otherwise.

        Raise the refusal at once if another probe is in flight. Only for a circuit that is open.
        """
        assert self.reason is not None  # noqa: S101 - see the docstring
        refusal = self._refusal(self.reason)
        if self._probe is None:
            probe: asyncio.Task[T] = asyncio.create_task(read())
            self._probe = probe
            probe.add_done_callback(self._see_end)
            await asyncio.wait((probe,), timeout=PROBE_PATIENCE)
            if probe.done():
                return probe.result()
        raise refusal

    def _see_end(self, probe: asyncio.Task[Any]) -> None:
        self._probe = None
        if not probe.cancelled():
            probe.exception()  # mark it as retrieved: the caller may be gone

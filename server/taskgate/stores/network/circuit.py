"""What is known of an outage: while it lasts, reads are refused at once, but for one at a time, which looks again."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

PROBE_PATIENCE: Final = 0.25
"""Seconds for which a caller waits for what it has sent out to look: enough for a server that is back."""


class Circuit:
    """Opened by whoever finds the database away, closed by whoever gets an answer.

    A look is nobody's own. It goes on after its caller was refused, so that a caller who tries again and again, or for
    whom Envoy does, is not held up by each attempt; and what it finds is known to the next one.
    """

    def __init__(self, refusal: Callable[[str], Exception]) -> None:
        """``refusal`` makes of a reason what is raised."""
        self.reason: str | None = None
        """Why reads are refused; None while they are not."""
        self._refusal = refusal
        self._probe: asyncio.Task[Any] | None = None

    def open(self, reason: str) -> None:
        """Refuse reads from now on."""
        self.reason = reason

    def close(self) -> None:
        """Refuse nobody."""
        self.reason = None

    async def probe(self, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What ``read`` returns, if none is looking yet and it returns soon; else raises the refusal.

        Only for a circuit that is open.
        """
        assert self.reason is not None  # noqa: S101 - as was just said
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
            probe.exception()  # seen, though it may be that nobody waits for it any more

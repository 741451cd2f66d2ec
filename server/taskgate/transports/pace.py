"""Large answers in parts, as fast as their readers take them, and no slower than a reader must."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

PART_BYTES = 64 * 1024
"""A large answer leaves in parts of this size, each when there is room: a slow reader pins little memory."""

FAST_PART_BYTES = 256 * 1024
"""The size of parts for a reader that keeps up: a quarter of the work for each byte."""

PINNED_BYTES = 2 * FAST_PART_BYTES
"""What a stalled reader of parts pins at most: a part in Envoy's buffers, and one that waits for room."""

MIN_RATE = 64 * 1024
"""Bytes a second that a reader of a large answer must take."""

GRACE_SECONDS = 10.0
"""How long a reader may be behind ``MIN_RATE``."""

_FIRST_PARTS = 2  # in Envoy and before it; they are taken at once from a reader that stands still, too
_KEEPS_UP = 0.05  # seconds within which a part is taken from a reader that keeps up


class ReaderTooSlow(Exception):
    """The caller reads its answer more slowly than ``MIN_RATE``; the answer must not be gone on with.

    Envoy resets a stream on which nothing happens any more, so the caller sees that its answer is not whole.
    """


def longest_seconds(size: int) -> float:
    """How long a reader may take for ``size`` bytes."""
    return GRACE_SECONDS + size / MIN_RATE


class Turns:
    """Turns of the event loop, each for one part of a large answer, so that small answers come in between.

    Without, a hundred readers make each turn take 30 ms; and grpcio takes up one call in two turns.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a turn that nobody has taken."""
        loop = asyncio.get_running_loop()
        if self._taken:
            turn: asyncio.Future[None] = loop.create_future()
            self._waiting.append(turn)
            await turn
        else:
            self._taken = True
            loop.call_soon(self._next)

    def _next(self) -> None:
        self._taken = False
        while self._waiting and not self._taken:
            turn = self._waiting.popleft()
            if not turn.done():  # cancelled
                turn.set_result(None)
                self._taken = True
                asyncio.get_running_loop().call_soon(self._next)


async def send_in_parts(send: Callable[[bytes], Awaitable[object]], body: bytes, end: int, turns: Turns) -> None:
    """Hand ``body`` up to ``end`` to ``send``, which waits until there is room for more. Raises ReaderTooSlow."""
    clock = asyncio.get_running_loop().time
    start, size, quick = 0, PART_BYTES, 0
    now = clock()
    deadline = now + GRACE_SECONDS
    try:
        async with asyncio.timeout_at(deadline) as limit:
            while start < end:
                await turns.take()
                began = clock()
                await send(body[start : min(start + size, end)])
                now = clock()
                deadline = min(deadline + size / MIN_RATE, now + GRACE_SECONDS)
                limit.reschedule(deadline)
                start += size
                quick = quick + 1 if now - began < _KEEPS_UP else 0
                size = FAST_PART_BYTES if quick > _FIRST_PARTS else PART_BYTES
    except TimeoutError:
        if limit.expired():
            raise ReaderTooSlow from None
        raise

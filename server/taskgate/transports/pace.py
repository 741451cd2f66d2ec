"""Send large answers in parts, at the pace of the client, and refuse clients that read too slowly."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

PART_BYTES = 64 * 1024
"""The size of a part, which is sent when the connection has room for it: a slow reader pins little memory."""

FAST_PART_BYTES = 256 * 1024
"""The size of parts for a fast reader: a quarter of the work for each byte."""

PINNED_BYTES = 2 * FAST_PART_BYTES
"""The most memory that a stalled reader pins: a part in Envoy's buffers, and one that waits for room."""

MIN_RATE = 64 * 1024
"""Bytes a second that a client must read of a large answer."""

GRACE_SECONDS = 10.0
"""How many seconds a client may fall behind ``MIN_RATE``."""

TOO_SLOW = "a client read its answer too slowly; the answer was broken off"
"""The log event of a ``ReaderTooSlow``."""

_BUFFERED_PARTS = 2  # parts that buffers in and before Envoy take at once, even if the client has stalled
_FAST_SECONDS = 0.05  # a fast reader takes a part within this time


class ReaderTooSlow(Exception):
    """The client reads its answer more slowly than ``MIN_RATE``; the answer must be broken off.

    Envoy resets a stream without progress, so the client sees that its answer is incomplete.
    """


def longest_seconds(size: int) -> float:
    """Return how many seconds a client may take to read ``size`` bytes."""
    return GRACE_SECONDS + size / MIN_RATE


class Turns:
    """Limit each turn of the event loop to one part of a large answer, so that small answers come in between.

    Otherwise a hundred readers would make each turn last 30 ms, and grpcio needs two turns to accept a call.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a turn of one's own, in order of arrival."""
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
    """Pass ``body`` up to ``end`` to ``send`` in parts; ``send`` waits for room. Raises ReaderTooSlow."""
    clock = asyncio.get_running_loop().time
    start, size, fast = 0, PART_BYTES, 0
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
                fast = fast + 1 if now - began < _FAST_SECONDS else 0
                size = FAST_PART_BYTES if fast > _BUFFERED_PARTS else PART_BYTES
    except TimeoutError:
        if limit.expired():
            raise ReaderTooSlow from None
        raise

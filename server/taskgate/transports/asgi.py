"""Read and write ASGI as pyvoy, the ASGI server inside Envoy, implements it.

pyvoy differs from other servers in two ways, both seen by running it (1.3.0). After the end of a request ``receive``
returns at once: an empty part, or the disconnect if the caller has left. And ``send`` takes effect when it is called;
awaiting its result only waits for a slow reader.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from taskgate.service.calls import EagerCoroutine
from taskgate.transports.pace import Turns, send_in_parts

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

T = TypeVar("T")

_POLL_INTERVAL = 0.05
"""Seconds between two polls for the disconnect of a waiting caller."""

IDLE_INTERVAL = 30.0
"""The longest interval between two polls, in seconds, for a stream that may be silent for hours."""

_TICK = 1.0
"""Polls at longer intervals than this happen together: one alone costs 150 µs of CPU time, many cost 20 µs each."""


class CallerGone(Exception):
    """The caller cancelled or its connection is closed: the call needs no answer."""


async def finish(started: EagerCoroutine[T], receive: Receive) -> T:
    """Finish a call that waits, and cancel it when its caller leaves. Raises CallerGone.

    Most calls wait for a database on the network and finish before the first poll, so a timer starts the polling task.
    """
    async with cancel_when_caller_leaves(receive, after=_POLL_INTERVAL):
        return await started


@asynccontextmanager
async def cancel_when_caller_leaves(
    receive: Receive,
    take: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
    *,
    after: float = 0,
    longest: float = _POLL_INTERVAL,
) -> Any:
    """Poll for the caller's disconnect, then cancel the body of this context and raise CallerGone.

    ``take`` gets every part of the request that comes meanwhile, and the last one repeatedly. Polling starts after
    ``after`` seconds. Once the request has ended, the interval doubles with each poll, up to ``longest`` seconds, less
    a random part that spreads the polls of many streams.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - an ASGI application runs in a task
    gone = False

    async def watch() -> None:
        nonlocal gone
        wait = _POLL_INTERVAL
        while (event := await shielded(receive()))["type"] != "http.disconnect":
            if take is not None:
                await take(event)
            if not event["more_body"]:
                await asyncio.sleep(wait if wait < _TICK else _until_tick_after(wait))
                wait = min(2 * wait, longest) * random.uniform(0.75, 1)  # noqa: S311 - no secret
        gone = True
        task.cancel()

    watching: asyncio.Task[None] | None = None

    def begin() -> None:
        nonlocal watching
        watching = asyncio.create_task(watch())

    timer = asyncio.get_running_loop().call_later(after, begin)
    try:
        yield
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise CallerGone from None
        raise
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()


def _until_tick_after(seconds: float) -> float:
    now = _now()
    return math.ceil((now + seconds) / _TICK) * _TICK - now


def _now() -> float:
    return asyncio.get_running_loop().time()


def shielded(future: Awaitable[T]) -> Awaitable[T]:
    """Shield a future of ``receive`` or ``send`` from the cancellation of the task that awaits it.

    pyvoy sets the result even of a cancelled future, and may set an error after its waiter has left; asyncio would log
    either.
    """
    inner = asyncio.ensure_future(future)
    inner.add_done_callback(_retrieve)
    return asyncio.shield(inner)


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def send_body(send: Send, body: bytes, *, last: bool = True) -> None:
    """Send ``body`` as one part; ``last`` unless more follows. Raises CallerGone."""
    try:
        if last:
            await send({"type": "http.response.body", "body": body})
        else:
            await _send_part(send, body)
    except OSError as error:
        release_frames(error)
        raise CallerGone from None


async def send_large(send: Send, body: bytes, turns: Turns, wrap: Callable[[bytes], bytes] = bytes) -> None:
    """Send ``body`` in parts, each encoded by ``wrap``; return when Envoy has taken the last. More may follow.

    Raises:
        CallerGone: the caller has left.
        ReaderTooSlow: the caller reads too slowly.
    """
    try:
        await send_in_parts(lambda part: _send_part(send, wrap(part)), body, len(body), turns)
    except OSError as error:
        release_frames(error)
        raise CallerGone from None


def release_frames(error: OSError) -> None:
    """Drop the traceback of an error of ``send``: pyvoy keeps the error for ever, and its frames keep the body."""
    error.__traceback__ = None


async def _send_part(send: Send, part: bytes) -> None:
    """Send ``part`` and wait for room for the next one."""
    await shielded(send({"type": "http.response.body", "body": part, "more_body": True}))

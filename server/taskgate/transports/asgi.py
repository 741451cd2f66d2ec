"""ASGI as pyvoy speaks it: what a transport inside Envoy reads from and writes to.

Two ways in which pyvoy differs from other servers, both seen by running it (1.3.0). ``receive`` at the end of a request
does not wait for the caller to leave: it returns an empty part at once, or the disconnect once that has happened. And a
call of ``send`` takes effect when it is made; what it returns needs awaiting only to wait for a slow reader.
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
"""Seconds between two looks whether the caller of a waiting call is still there."""

IDLE_INTERVAL = 30.0
"""Seconds between two looks, at most, for a stream that may be silent for hours."""

_TICK = 1.0
"""Looks that are at least so many seconds apart happen together: one alone costs 150 µs of CPU time, many 20 each."""


class CallerGone(Exception):
    """The caller cancelled, or its connection is gone; nobody waits for an answer."""


async def finish(started: EagerCoroutine[T], receive: Receive) -> T:
    """The result of a call that has to wait, for as long as somebody waits for it. Raises CallerGone.

    Most have waited for a database on the network, and go on before the first look: a timer costs them less than a task
    that watches.
    """
    async with caller_watched(receive, after=_POLL_INTERVAL):
        return await started


@asynccontextmanager
async def caller_watched(
    receive: Receive,
    take: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
    *,
    after: float = 0,
    longest: float = _POLL_INTERVAL,
) -> Any:
    """Cancel what runs inside when the caller goes, and raise CallerGone instead.

    ``take`` gets every part of the request that comes meanwhile, the last one again and again. The first look is
    ``after`` so many seconds. Once the request has ended, each wait for the next look is twice as long as the one
    before, up to ``longest`` seconds and a random part less, so that many streams do not look at the same moment.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - an ASGI application runs in a task
    gone = False

    async def watch() -> None:
        nonlocal gone
        wait = _POLL_INTERVAL
        while (event := await uncancelled(receive()))["type"] != "http.disconnect":
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


def uncancelled(future: Awaitable[T]) -> Awaitable[T]:
    """What ``receive`` or ``send`` returned, to be awaited where the waiting task may be cancelled.

    pyvoy sets the result of a future whether or not that was cancelled, and may set an error when nobody waits any
    more; asyncio would have something to say to either.
    """
    inner = asyncio.ensure_future(future)
    inner.add_done_callback(_retrieve)
    return asyncio.shield(inner)


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def send_body(send: Send, body: bytes, *, last: bool = True) -> None:
    """Send ``body``, small enough for one part; ``last`` unless more is to follow. Raises CallerGone."""
    try:
        if last:
            await send({"type": "http.response.body", "body": body})
        else:
            await _send_part(send, body)
    except OSError as error:
        released(error)
        raise CallerGone from None


async def send_large(send: Send, body: bytes, turns: Turns, wrap: Callable[[bytes], bytes] = bytes) -> None:
    """Send ``body``, to which nothing or more may follow, in parts; returns when Envoy has taken the last of them.

    ``wrap`` makes of a part what is sent of it.

    Raises:
        CallerGone: the caller is not there any more.
        ReaderTooSlow: it reads too slowly.
    """
    try:
        await send_in_parts(lambda part: _send_part(send, wrap(part)), body, len(body), turns)
    except OSError as error:
        released(error)
        raise CallerGone from None


def released(error: OSError) -> None:
    """Make an error of ``send`` hold nothing: pyvoy never lets go of it, nor of a body in the frames behind it."""
    error.__traceback__ = None


async def _send_part(send: Send, part: bytes) -> None:
    """Send ``part`` and wait until there is room for more."""
    await uncancelled(send({"type": "http.response.body", "body": part, "more_body": True}))

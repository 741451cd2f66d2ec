"""What happens around every call, whichever wire it came in on: log line, masking, deadline.

A transport makes a ``Call``, hands it to the handler that ``build_handlers`` made for its path, and puts the answer on
its wire: bytes, or one of ``taskgate.base.errors``. Nothing else ever leaves a handler but ``asyncio.CancelledError``.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import structlog

from taskgate.base.errors import DeadlineExceeded, InternalError, TaskgateError
from taskgate.base.logs import log_of_calls
from taskgate.base.printable import printable
from taskgate.service.in_flight import Peer, Room

REQUEST_ID_HEADER = "x-request-id"

_USABLE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@~-]{1,128}")
_LOGGED_ID_CHARACTERS = 64

T = TypeVar("T")


@dataclass(slots=True)
class Call:
    """One call in flight.

    ``path`` is the gRPC path, ``timeout`` the seconds its caller still waits (None: no deadline), ``task_id`` is set
    by the endpoint once the request has been decoded, and is not yet known to be well formed. ``peer`` is who asks,
    ``copies`` how many copies of a large answer the transport makes, and ``room``, where the answer is large, what the
    transport releases once it has been sent.
    """

    path: str
    request_id: str
    timeout: float | None = None
    task_id: str = ""
    peer: Peer | None = None
    copies: int = 0
    room: Room | None = None


class LargeAnswer(NamedTuple):
    """Response bytes in two parts, ``head`` and the large ``payload``, so that joining them copies nothing."""

    head: bytes
    payload: bytes


Answer = bytes | LargeAnswer

Handler = Callable[[Call, bytes], Coroutine[Any, Any, Answer]]
"""An endpoint, or an endpoint with layers around it: request bytes to response bytes."""

Layer = Callable[[Handler], Handler]


def usable_request_id(offered: str | None) -> str:
    """The caller's request ID if it is fit for a log line (1-128 plain characters), else a new one."""
    if offered is not None and _USABLE_REQUEST_ID.fullmatch(offered):
        return offered
    return str(uuid.uuid4())


def build_handlers(endpoints: Mapping[str, Handler], *, request_timeout: float) -> dict[str, Handler]:
    """``endpoints`` (gRPC path to endpoint) with the layers around each."""
    layers: list[Layer] = [
        log_call(),  # outermost: one line a call, with the status its caller sees
        mask_unexpected,  # inside the log, so that a masked error is logged as what the caller sees
        limit_time(request_timeout),  # inside the mask, so that its own failures are masked too
    ]
    handlers = dict(endpoints)
    for layer in reversed(layers):
        handlers = {path: layer(handler) for path, handler in handlers.items()}
    return handlers


def log_call() -> Layer:
    """Write one line a call: method, status, duration in milliseconds, request and task ID. Never a payload.

    Where an error has a ``private`` message of its own, the line has it too: it is not for callers to read.
    """
    write = log_of_calls()

    def layer(handler: Handler) -> Handler:
        async def logged(call: Call, request: bytes) -> Answer:
            started = time.perf_counter()
            code, fault, private = "CANCELLED", False, ""  # what stands if neither branch below is reached
            try:
                answer = await handler(call, request)
                code = "OK"
            except TaskgateError as error:
                code, fault = error.status.grpc_code, error.status.http_status >= 500  # noqa: PLR2004 - HTTP's
                private = "" if error.private == error.message else printable(error.private)
                raise
            else:
                return answer
            finally:
                milliseconds = round((time.perf_counter() - started) * 1000, 3)
                write(call.path, code, milliseconds, call.request_id, _for_log(call.task_id), fault, private)

        return logged

    return layer


def mask_unexpected(handler: Handler) -> Handler:
    """Turn anything that is not a domain error into ``InternalError``; the log gets all of it, the client an ID."""
    log = structlog.get_logger("taskgate.calls").bind()  # resolved once, not for every call

    async def masked(call: Call, request: bytes) -> Answer:
        try:
            return await handler(call, request)
        except TaskgateError:
            raise
        except Exception as error:
            log.exception("unexpected error", method=call.path, request_id=call.request_id)
            raise InternalError(
                f"Internal error; the server's log has it under request ID {call.request_id}",
                request_id=call.request_id,
            ) from error

    return masked


def limit_time(limit: float) -> Layer:
    """Give every call at most ``limit`` seconds, and no more than its caller still waits."""

    def layer(handler: Handler) -> Handler:
        async def limited(call: Call, request: bytes) -> Answer:
            seconds = limit if call.timeout is None else min(limit, call.timeout)
            if seconds <= 0:
                raise _too_late(seconds)
            started = Started(handler(call, request))
            if started.done:  # most calls never wait, and a timer costs as much as the rest of them
                return started.result
            try:
                async with asyncio.timeout(seconds):
                    return await started
            except TimeoutError as error:
                raise _too_late(seconds) from error

        return limited

    return layer


class Started(Generic[T]):
    """A coroutine that has run, inside the current task, up to the first thing that it must wait for.

    Either it is ``done`` and ``result`` is what it returned (what it raises, making this object raises), or awaiting
    this object runs the rest of it. So a caller can do what only a call that waits needs: a timer, a watch.
    """

    __slots__ = ("_coroutine", "_waits_for", "done", "result")

    result: T

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        try:
            self._waits_for = coroutine.send(None)
        except StopIteration as stop:
            self.result = stop.value
            self.done = True
        else:
            self.done = False

    def __await__(self) -> Generator[Any, Any, T]:
        """The rest; to be awaited once, and only if it is not ``done``."""
        try:
            while True:
                try:
                    sent = yield self._take_future()
                except BaseException as error:  # noqa: BLE001 - a cancellation, on its way into the coroutine
                    self._waits_for = self._coroutine.throw(error)
                else:
                    self._waits_for = self._coroutine.send(sent)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _take_future(self) -> Any:
        """What to wait for, kept nowhere: its result is the document that was read, perhaps dropped since.

        A name in ``__await__`` would keep it for as long as the traceback of a refusal.
        """
        waits_for = self._waits_for
        del self._waits_for
        return waits_for


def _too_late(seconds: float) -> DeadlineExceeded:
    digits = 3 if seconds >= 1 else 2  # a moment of the limit may have gone by before the call began
    return DeadlineExceeded(f"The call did not finish within {max(seconds, 0):.{digits}g} s")


def _for_log(task_id: str) -> str:
    """The ID as it is where it is short and printable; otherwise escaped and cut, so it cannot forge a line."""
    if len(task_id) <= _LOGGED_ID_CHARACTERS and task_id.isascii() and task_id.isprintable():
        return task_id
    return ascii(task_id[:_LOGGED_ID_CHARACTERS])

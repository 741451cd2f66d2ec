"""Wrap every call in the same layers, for all transports: a log line, the masking of unexpected errors, a time limit.

A transport makes a ``Call`` and runs the handler that ``build_handlers`` made for its path. The handler returns bytes,
or raises one of ``taskgate.base.errors`` or ``asyncio.CancelledError``.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import structlog

from taskgate.base.errors import DeadlineExceeded, InternalError, PermissionDenied, TaskgateError
from taskgate.base.logs import log_of_calls
from taskgate.base.printable import printable
from taskgate.service.audit import read_denied
from taskgate.service.in_flight import Peer, Room
from taskgate.service.view import View

REQUEST_ID_HEADER = "x-request-id"

TRACE_HEADERS = ("traceparent", "tracestate")
"""The headers of W3C Trace Context."""

_USABLE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@~-]{1,128}")
_LOGGED_ID_CHARACTERS = 64

T = TypeVar("T")


@dataclass(slots=True)
class Call:
    """One call in flight.

    - ``path``: the gRPC path.
    - ``timeout``: the seconds until the caller's deadline; None without one.
    - ``task_id``: set by the endpoint when it has decoded the request; not validated.
    - ``token``: what the caller sent to show who it is; empty without one.
    - ``caller``: the name of the caller, once its token has been verified.
    - ``peer``: address and port of the caller.
    - ``trace``: the caller's ``traceparent`` and ``tracestate`` (W3C), as far as it sent them.
    - ``copies``: how many copies of a large answer the transport makes.
    - ``room``: the room that a large answer takes; the transport releases it when the answer has been sent.
    - ``view``: what the caller may see; None for a caller who was not asked for a token.
    """

    path: str
    request_id: str
    timeout: float | None = None
    task_id: str = ""
    token: str = ""
    caller: str = ""
    peer: Peer | None = None
    trace: Mapping[str, str] | None = None
    copies: int = 0
    room: Room | None = None
    view: View | None = None


class LargeAnswer(NamedTuple):
    """Response bytes as ``head`` and the large ``payload``: joining them would copy the payload."""

    head: bytes
    payload: bytes


Answer = bytes | LargeAnswer

Handler = Callable[[Call, bytes], Coroutine[Any, Any, Answer]]
"""Request bytes to response bytes: an endpoint, or an endpoint with layers around it."""

Layer = Callable[[Handler], Handler]


class CallCounter(Protocol):
    """Counts calls by method and status; ``code`` is a name of ``google.rpc.Code``."""

    def layer(self, handler: Handler) -> Handler:
        """Count the calls of ``handler``."""
        ...

    def begin(self, path: str) -> float:
        """Count the begin of a call that reaches no handler with this layer; return what ``end`` needs."""
        ...

    def end(self, path: str, code: str, began: float) -> None:
        """Count the end of such a call."""
        ...


def usable_request_id(offered: str | None) -> str:
    """Return the caller's request ID if it is fit for a log line (1-128 plain characters), else a new one."""
    if offered is not None and _USABLE_REQUEST_ID.fullmatch(offered):
        return offered
    return str(uuid.uuid4())


def build_handlers(
    endpoints: Mapping[str, Handler],
    *,
    request_timeout: float,
    counter: CallCounter | None = None,
    tracer: Layer | None = None,
    inner: Sequence[Layer] = (),
) -> dict[str, Handler]:
    """Put the layers around each of ``endpoints`` (gRPC path to endpoint); ``inner`` are further ones, inside these."""
    layers: list[Layer] = [
        *([] if tracer is None else [tracer]),
        *([] if counter is None else [counter.layer]),  # outermost, as the next one; without metrics it costs nothing
        log_call(),  # to log the status that the caller sees
        mask_unexpected,  # inside the log, so that the log line has the masked error
        limit_time(request_timeout),  # inside the mask, so that its own failures are masked too
        *inner,
    ]
    handlers = dict(endpoints)
    for layer in reversed(layers):
        handlers = {path: layer(handler) for path, handler in handlers.items()}
    return handlers


def log_call() -> Layer:
    """Write one line a call: method, status, duration in milliseconds, request ID, task ID. Never log a payload.

    The line also has the ``private`` message of an error, where it differs from the public one. A denied read gets an
    audit line besides.
    """
    write = log_of_calls()

    def layer(handler: Handler) -> Handler:
        async def logged(call: Call, request: bytes) -> Answer:
            started = time.perf_counter()
            code, fault, private = "CANCELLED", False, ""  # unless the call returns or raises a TaskgateError
            try:
                answer = await handler(call, request)
                code = "OK"
            except TaskgateError as error:
                code, fault = error.status.grpc_code, error.status.http_status >= 500  # noqa: PLR2004 - HTTP's
                private = "" if error.private == error.message else printable(error.private)
                if isinstance(error, PermissionDenied):
                    _audit(call, error)
                raise
            else:
                return answer
            finally:
                milliseconds = round((time.perf_counter() - started) * 1000, 3)
                write(call.path, code, milliseconds, call.request_id, _for_log(call.task_id), fault, private)

        return logged

    return layer


def mask_unexpected(handler: Handler) -> Handler:
    """Turn any other exception into ``InternalError``: the log gets its traceback, the client only a request ID."""
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
    """Give every call ``limit`` seconds, or until its caller's deadline if that is sooner."""

    def layer(handler: Handler) -> Handler:
        async def limited(call: Call, request: bytes) -> Answer:
            seconds = limit if call.timeout is None else min(limit, call.timeout)
            if seconds <= 0:
                raise _too_late(seconds)
            started = EagerCoroutine(handler(call, request))
            if started.done:  # most calls never wait, and a timer would double their cost
                return started.result
            try:
                async with asyncio.timeout(seconds):
                    return await started
            except TimeoutError as error:
                raise _too_late(seconds) from error

        return limited

    return layer


class EagerCoroutine(Generic[T]):
    """Run a coroutine in the current task until it first waits, as ``asyncio.eager_task_factory`` does for tasks.

    If it is ``done``, ``result`` is what it returned; an exception leaves the constructor. Otherwise await this object
    for the rest. The caller can thus set up a timer or a watch for only those calls that wait.
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
        """Run the rest. Await it once, and only if it is not ``done``."""
        try:
            while True:
                try:
                    sent = yield self._take_future()
                except BaseException as error:  # noqa: BLE001 - a cancellation, to be raised inside the coroutine
                    self._waits_for = self._coroutine.throw(error)
                else:
                    self._waits_for = self._coroutine.send(sent)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _take_future(self) -> Any:
        """Hand over the future to wait for, and keep no reference: its result is a document of perhaps megabytes.

        A local variable of ``__await__`` would keep the document alive as long as the traceback of an error.
        """
        waits_for = self._waits_for
        del self._waits_for
        return waits_for


def _audit(call: Call, error: PermissionDenied) -> None:
    task_id, reason = _for_log(call.task_id), printable(error.reason)
    caller = printable(call.caller)
    read_denied(request_id=call.request_id, caller=caller, task_id=task_id, reason=reason, peer=call.peer)


def _too_late(seconds: float) -> DeadlineExceeded:
    digits = 3 if seconds >= 1 else 2  # rounds 0.4997 to 0.5: part of the limit passes before the call starts
    return DeadlineExceeded(f"The call did not finish within {max(seconds, 0):.{digits}g} s")


def _for_log(task_id: str) -> str:
    """Return a short, printable ID as it is; escape and cut any other, so that it cannot forge a log line."""
    if len(task_id) <= _LOGGED_ID_CHARACTERS and task_id.isascii() and task_id.isprintable():
        return task_id
    return ascii(task_id[:_LOGGED_ID_CHARACTERS])

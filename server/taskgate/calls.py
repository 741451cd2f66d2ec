"""What happens around every call, whichever wire it came in on: log line, masking, deadline.

A transport makes a ``Call``, hands it to the handler that ``build_handler`` returns, and puts the answer on its wire:
bytes, or one of ``taskgate.errors``. Nothing else ever leaves the handler but ``asyncio.CancelledError``.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from taskgate.errors import DeadlineExceeded, InternalError, TaskgateError

REQUEST_ID_HEADER = "x-request-id"

_USABLE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@~-]{1,128}")
_LOGGED_ID_CHARACTERS = 64


@dataclass(slots=True)
class Call:
    """One call in flight.

    ``path`` is the gRPC path, ``timeout`` the seconds its caller still waits (None: no deadline), ``task_id`` is set
    by the endpoint once the request has been decoded, and is not yet known to be well formed.
    """

    path: str
    request_id: str
    timeout: float | None = None
    task_id: str = ""


Handler = Callable[[Call, bytes], Awaitable[bytes]]
Layer = Callable[[Handler], Handler]


def usable_request_id(offered: str | None) -> str:
    """The caller's request ID if it is fit for a log line (1-128 plain characters), else a new one."""
    if offered is not None and _USABLE_REQUEST_ID.fullmatch(offered):
        return offered
    return str(uuid.uuid4())


def build_handler(endpoints: Mapping[str, Handler], *, request_timeout: float) -> Handler:
    """The handler for all of ``endpoints`` (gRPC path to endpoint); the caller asks only for paths in it."""

    async def dispatch(call: Call, request: bytes) -> bytes:
        return await endpoints[call.path](call, request)

    layers: list[Layer] = [
        log_call,  # outermost: one line a call, with the status its caller sees
        mask_unexpected,  # inside the log, so that a masked error is logged as what the caller sees
        limit_time(request_timeout),  # inside the mask, so that its own failures are masked too
    ]
    handler: Handler = dispatch
    for layer in reversed(layers):
        handler = layer(handler)
    return handler


def log_call(handler: Handler) -> Handler:
    """Write one line a call: method, status, duration in milliseconds, request and task ID. Never a payload."""
    log = structlog.get_logger("taskgate.calls").bind()  # resolved once, not for every call

    async def logged(call: Call, request: bytes) -> bytes:
        started = time.perf_counter()
        code = "CANCELLED"  # what stands if neither branch below is reached
        write = log.info
        try:
            answer = await handler(call, request)
            code = "OK"
        except TaskgateError as error:
            code = error.status.grpc_code
            write = log.info if error.status.http_status < 500 else log.warning  # noqa: PLR2004 - HTTP's server errors
            raise
        else:
            return answer
        finally:
            write(
                "call",
                method=call.path,
                code=code,
                duration_ms=round((time.perf_counter() - started) * 1000, 3),
                request_id=call.request_id,
                task_id=_for_log(call.task_id),
            )

    return logged


def mask_unexpected(handler: Handler) -> Handler:
    """Turn anything that is not a domain error into ``InternalError``; the log gets all of it, the client an ID."""
    log = structlog.get_logger("taskgate.calls").bind()  # resolved once, not for every call

    async def masked(call: Call, request: bytes) -> bytes:
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
        async def limited(call: Call, request: bytes) -> bytes:
            seconds = limit if call.timeout is None else min(limit, call.timeout)
            try:
                async with asyncio.timeout(seconds):
                    return await handler(call, request)
            except TimeoutError as error:
                raise DeadlineExceeded(f"The call did not finish within {seconds:.3g} s") from error

        return limited

    return layer


def _for_log(task_id: str) -> str:
    """The ID as it is where it is short and printable; otherwise escaped and cut, so it cannot forge a line."""
    if len(task_id) <= _LOGGED_ID_CHARACTERS and task_id.isascii() and task_id.isprintable():
        return task_id
    return ascii(task_id[:_LOGGED_ID_CHARACTERS])

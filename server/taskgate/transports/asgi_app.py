"""Serve gRPC, REST and /healthz inside Envoy, as an ASGI application.

Envoy's transcoder turns a REST call into a gRPC call, with the original path in ``x-envoy-original-path``. The answer
is the bare document: the transcoder passes an answer that is not gRPC unchanged. The routes are in
``gateway/embedded.yaml``; other requests do not come here.

This module must not import grpcio, which would cost every process inside Envoy memory and start-up time.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog

from taskgate.base.errors import STATUS_OF, ErrorStatus, InternalError, StoreUnavailable, TaskgateError
from taskgate.base.logs import flush_logs
from taskgate.base.settings import Settings
from taskgate.service.calls import (
    REQUEST_ID_HEADER,
    Call,
    EagerCoroutine,
    Handler,
    LargeAnswer,
    build_handlers,
    usable_request_id,
)
from taskgate.service.endpoints import (
    HEALTH_SERVICES,
    SERVICE,
    STREAM_TASK_JSON,
    body_part,
    build_document_endpoint,
    build_endpoints,
)
from taskgate.service.in_flight import InFlight
from taskgate.service.readiness import watch_store
from taskgate.service.tasks import TaskService
from taskgate.stores.base import TaskStore
from taskgate.transports import health, reflection
from taskgate.transports.asgi import (
    IDLE_INTERVAL,
    CallerGone,
    Receive,
    Scope,
    Send,
    cancel_when_caller_leaves,
    finish,
    release_frames,
    send_body,
    send_large,
)
from taskgate.transports.grpc_wire import (
    ACCEPTED_ENCODINGS,
    CONTENT_TYPE,
    Headers,
    ProtocolError,
    check_encoding,
    frame,
    late_request,
    not_one_message,
    prefix,
    split_frame,
    status,
    status_of_error,
    timeout_seconds,
)
from taskgate.transports.pace import PINNED_BYTES, TOO_SLOW, ReaderTooSlow, Turns

_TASK_PATH = b"/api/tasks/"
_REQUEST_ID = REQUEST_ID_HEADER.encode()
_JSON = (b"content-type", b"application/json")
_GRPC_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [CONTENT_TYPE, (b"grpc-accept-encoding", ACCEPTED_ENCODINGS)],
    "trailers": True,
}
_GRPC_OK = ((b"grpc-status", b"0"),)

_LATE_CHECK_SECONDS = 0.05
"""Seconds between two checks for late requests; a timer for each request would cost 5 µs a call."""

_STREAM_PARTS = 16
"""Parts of a streaming request that may wait for its handler; beyond that, backpressure stops the caller."""


class AsgiTransport:
    """The ASGI application for one store. Call ``start`` before the first request and ``stop`` after the last."""

    def __init__(self, settings: Settings, store: TaskStore, *, python: str) -> None:
        """``python`` is the interpreter that runs large conversions."""
        self._instance = settings.instance
        self._store = store
        self._health = health.Health(HEALTH_SERVICES)
        self._watch: asyncio.Task[None] | None = None
        self._service = service = TaskService(
            store,
            settings.task_id_format,
            layout=settings.layout,
            in_flight=InFlight(settings.in_flight_mib << 20, own_bytes=PINNED_BYTES),
            python=python,
        )
        self._turns = Turns()
        self._pending = _PendingRequests()
        self._limit = limit = settings.request_timeout
        self._get_document = build_handlers({"": build_document_endpoint(service)}, request_timeout=limit)[""]
        self._unary: Mapping[bytes, Handler] = {
            path.encode(): handler
            for path, handler in build_handlers(build_endpoints(service), request_timeout=limit).items()
        }
        self._health_check = f"/{health.SERVICE_NAME}/Check".encode()
        self._health_watch = f"/{health.SERVICE_NAME}/Watch".encode()
        self._reflection = reflection.Reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME))
        self._reflection_info = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo".encode()

    async def start(self) -> None:
        """Start probing the store; health is NOT_SERVING until it answers."""
        self._watch = asyncio.create_task(watch_store(self._store, self._health.report))

    def drain(self) -> None:
        """Start draining: fail health checks, and keep answering calls."""
        self._health.shut_down()

    async def stop(self) -> None:
        """Close the service and the store."""
        if self._watch is not None:
            self._watch.cancel()
        self._health.shut_down()
        await self._service.close()
        await self._store.close()
        flush_logs()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises nothing: pyvoy would print the error and answer 500 in plain text."""
        headers = dict(scope["headers"])
        path = headers.get(b"x-envoy-original-path")
        try:
            if path is not None:
                await self._rest(scope, path, headers, receive, send)
            elif scope["method"] == "POST":
                await self._grpc(scope, headers, receive, send)
            elif scope["path"] == "/healthz":
                await self._healthz(scope["method"], headers, send)
            else:  # a GET with gRPC's content type, which the transcoder passes through
                await self._rest(scope, scope["raw_path"], headers, receive, send)
        except (CallerGone, asyncio.CancelledError):
            return
        except ReaderTooSlow:
            structlog.get_logger("taskgate.server").warning(TOO_SLOW)
        except OSError as error:  # from "send": the caller has left; handlers raise none
            release_frames(error)
        except Exception:  # noqa: BLE001 - see above
            structlog.get_logger("taskgate.server").exception("a request could not be answered")
            with suppress(OSError, RuntimeError):  # RuntimeError: the answer had started
                if path is None and scope["method"] == "POST":
                    await _send_status(send, [*status(_INTERNAL.grpc_code, _INTERNAL_MESSAGE), _id_header(headers)])
                else:
                    await self._send_json_error(send, _INTERNAL, _INTERNAL_MESSAGE, _id_header(headers))

    async def _rest(
        self, scope: Scope, path: bytes, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        """Answer ``GET /api/tasks/{taskId}``. Only the path names the task; query parameters and body are ignored."""
        task_id = path.partition(b"?")[0][len(_TASK_PATH) :]
        if b"%" in task_id:
            task_id = unquote_to_bytes(task_id)
        call = Call(STREAM_TASK_JSON, _request_id(headers), peer=scope["client"])
        id_header = (_REQUEST_ID, call.request_id.encode())
        try:
            started = EagerCoroutine(self._get_document(call, task_id))
            document = started.result if started.done else await finish(started, receive)
            assert isinstance(document, bytes)  # noqa: S101 - the document endpoint returns no LargeAnswer
            length = (b"content-length", str(len(document)).encode())
            await send({"type": "http.response.start", "status": 200, "headers": [_JSON, length, id_header]})
            if call.room is not None:
                await send_large(send, document, self._turns)
                document = b""
            await send_body(send, document)
        except TaskgateError as error:
            refusal = error.status, error.message
        else:
            return
        finally:
            if call.room is not None:
                call.room.release()
        await self._send_json_error(send, *refusal, id_header)  # outside "except": no traceback keeps the document

    async def _send_json_error(
        self, send: Send, row: ErrorStatus, message: str, id_header: tuple[bytes, bytes]
    ) -> None:
        """Send an error in Conductor's shape (``ErrorResponse``); ``id_header`` is the header with the request ID."""
        body = json.dumps(
            {
                "status": row.http_status,
                "message": message,
                "instance": self._instance,
                "retryable": row.retryable,
            },
            separators=(",", ":"),
        ).encode()
        headers = [_JSON, (b"content-length", str(len(body)).encode()), id_header]
        if row.retry_after is not None:
            headers.append((b"retry-after", str(row.retry_after).encode()))
        await send({"type": "http.response.start", "status": row.http_status, "headers": headers})
        await send_body(send, body)

    async def _healthz(self, method: str, headers: Mapping[bytes, bytes], send: Send) -> None:
        id_header = _id_header(headers)
        if not self._health.serving:
            await self._send_json_error(send, _UNAVAILABLE, "The store does not answer; try again", id_header)
            return
        body = b'{"healthy":true}'
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [_JSON, length, id_header]})
        await send_body(send, b"" if method == "HEAD" else body)

    async def _grpc(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        try:
            _check_protocol(scope, headers)
            path: bytes = scope["raw_path"]
            request = _Request(headers, receive, send, self._limit, self._pending)
            if (handler := self._unary.get(path)) is not None:
                message = await request.only_message()
                call = Call(path.decode(), _request_id(headers), request.seconds_left(), peer=scope["client"])
                await self._unary_call(handler, call, message, receive, send)
            elif path == self._health_check:
                await _send_message(send, await self._health.check(await request.only_message()))
                await _send_trailers(send, (*_GRPC_OK, _id_header(headers)))
            elif path == self._health_watch:
                messages = self._health.watch(await request.only_message())
                left = request.callers_seconds_left()
                await _stream_call(messages, receive, send, seconds=left, id_header=_id_header(headers))
            elif path == self._reflection_info:
                parts = _RequestParts(headers.get(b"grpc-encoding"))
                messages = self._reflection.info(parts.messages())
                left = request.seconds_left()
                await _stream_call(
                    messages, receive, send, seconds=left, id_header=_id_header(headers), take=parts.take
                )
            else:
                unknown = status("UNIMPLEMENTED", "Method not found!")  # grpcio's own words
                await _send_status(send, [*unknown, _id_header(headers)])
        except ProtocolError as refused:
            await _send_status(send, [*status(refused.code, refused.message), *refused.extra, _id_header(headers)])

    async def _unary_call(self, handler: Handler, call: Call, message: bytes, receive: Receive, send: Send) -> None:
        id_header = (_REQUEST_ID, call.request_id.encode())
        try:
            started = EagerCoroutine(handler(call, message))
            response = started.result if started.done else await finish(started, receive)
            if not isinstance(response, LargeAnswer):
                await _send_message(send, response)
            elif call.path == STREAM_TASK_JSON:
                await _send_stream(send, response.payload, self._turns)
            else:
                await _send_large_message(send, response, self._turns)
            await _send_trailers(send, (*_GRPC_OK, id_header))
        except TaskgateError as error:
            trailers = [*status_of_error(error), id_header]
        else:
            return
        finally:
            if call.room is not None:
                call.room.release()
        await _send_status(send, trailers)  # outside "except": no traceback keeps the document


_INTERNAL_MESSAGE = "Internal error; the server's log has it"
_INTERNAL = STATUS_OF[InternalError]
_UNAVAILABLE = STATUS_OF[StoreUnavailable]


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    offered = headers.get(_REQUEST_ID)
    return usable_request_id(None if offered is None else offered.decode("latin-1"))


def _id_header(headers: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return the header or trailer that carries the request ID in the answer."""
    return _REQUEST_ID, _request_id(headers).encode()


def _check_protocol(scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    if scope["http_version"] != "2":
        raise ProtocolError("UNIMPLEMENTED", "gRPC needs POST over HTTP/2")
    if headers.get(b"te") != b"trailers":
        raise ProtocolError(
            "INTERNAL", "The header 'te: trailers' is missing: a proxy before the server may drop trailers"
        )
    check_encoding(headers.get(b"grpc-encoding"))


class _PendingRequests:
    """Requests whose message has not arrived; one timer ends those that are late."""

    def __init__(self) -> None:
        self._requests: set[_Request] = set()
        self._check_scheduled = False

    def add(self, request: "_Request") -> None:
        self._requests.add(request)
        if not self._check_scheduled:
            self._check_scheduled = True
            asyncio.get_running_loop().call_later(_LATE_CHECK_SECONDS, self._end_late)

    def remove(self, request: "_Request") -> None:
        self._requests.discard(request)

    def _end_late(self) -> None:
        for request in [request for request in self._requests if request.seconds_left() <= 0]:
            self._requests.discard(request)
            request.time_out()
        self._check_scheduled = bool(self._requests)
        if self._check_scheduled:
            asyncio.get_running_loop().call_later(_LATE_CHECK_SECONDS, self._end_late)


class _Request:
    """A request whose message and answer are due within the server's limit and the caller's deadline."""

    __slots__ = ("_began", "_headers", "_limit", "_loop", "_pending", "_receive", "_seconds", "_send", "_timed_out")

    def __init__(
        self, headers: Mapping[bytes, bytes], receive: Receive, send: Send, limit: float, pending: _PendingRequests
    ) -> None:
        """``limit`` is the server's limit in seconds. Raises ProtocolError for a malformed grpc-timeout."""
        self._headers = headers
        self._seconds = timeout_seconds(headers.get(b"grpc-timeout"))
        self._receive, self._send, self._limit = receive, send, limit
        self._pending = pending
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()  # uvloop's clock counts whole milliseconds
        self._timed_out = False

    def seconds_left(self) -> float:
        """Return how long the call may still take."""
        return (self._limit if self._seconds is None else min(self._seconds, self._limit)) - self._waited()

    def callers_seconds_left(self) -> float | None:
        """Return the time to the caller's deadline; None without one."""
        return None if self._seconds is None else self._seconds - self._waited()

    def _waited(self) -> float:
        return time.monotonic() - self._began

    async def only_message(self) -> bytes:
        """Return the one message of the request, without waiting for the caller to close its side.

        Raises ProtocolError for a malformed message, and CallerGone if the caller left or the request timed out.
        """
        self._pending.add(self)
        try:
            message = await self._read()
        except ProtocolError:
            if self._timed_out:  # already answered
                raise CallerGone from None
            raise
        finally:
            self._pending.remove(self)
        if self._timed_out:
            raise CallerGone
        return message

    def time_out(self) -> None:
        """Answer DEADLINE_EXCEEDED; Envoy then ends the request, which ends ``only_message``."""
        self._timed_out = True
        seconds = self._seconds
        refused = late_request(self._limit if seconds is None or seconds > self._limit else seconds)
        trailers = [*status(refused.code, refused.message), _id_header(self._headers)]
        answering = self._loop.create_task(_send_status(self._send, trailers))
        answering.add_done_callback(_retrieve_error)

    async def _read(self) -> bytes:
        body = bytearray()
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise CallerGone
            body += event["body"]
            if (found := split_frame(body, self._headers.get(b"grpc-encoding"))) is not None:
                message, end = found
                if end != len(body):
                    raise not_one_message("more")
                return message
            if not event["more_body"]:
                raise not_one_message()


def _retrieve_error(answering: asyncio.Task[None]) -> None:
    """Retrieve the error that ``send`` raised because the caller had left."""
    if not answering.cancelled() and isinstance(error := answering.exception(), OSError):
        release_frames(error)


class _RequestParts:
    """Split a streaming request into messages; a short queue of its parts puts backpressure on the caller."""

    def __init__(self, encoding: bytes | None) -> None:
        self._encoding = encoding
        self._parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=_STREAM_PARTS)
        self._ended = False

    async def take(self, part: dict[str, Any]) -> None:
        """Queue ``part`` of the request's body; wait while the queue is full."""
        if not self._ended:
            self._ended = not part["more_body"]
            await self._parts.put(part)

    async def messages(self) -> AsyncIterator[bytes]:
        """Yield each message. Raises ProtocolError if the request ends within one."""
        body = bytearray()
        more = True
        while True:
            while (found := split_frame(body, self._encoding)) is not None:
                message, end = found
                del body[:end]
                yield message
            if not more:
                break
            part = await self._parts.get()
            body += part["body"]
            more = part["more_body"]
        if body:
            raise not_one_message()


async def _stream_call(
    messages: AsyncIterator[bytes],
    receive: Receive,
    send: Send,
    *,
    seconds: float | None,
    id_header: tuple[bytes, bytes],
    take: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
) -> None:
    """Send ``messages`` as they come, then trailers with the status and ``id_header``.

    ``take`` gets the parts of the request that come meanwhile; without it they are dropped.
    """
    begun = False
    trailers: Headers = status("OK", "")
    try:
        async with asyncio.timeout(seconds), cancel_when_caller_leaves(receive, take, longest=IDLE_INTERVAL):
            async for message in messages:
                if not begun:
                    await send(_GRPC_START)
                    begun = True
                await send_body(send, frame(message), last=False)
    except ProtocolError as refused:
        trailers = status(refused.code, refused.message)
    except TimeoutError:
        trailers = status("DEADLINE_EXCEEDED", f"The call did not finish within {seconds or 0:.3g} s")
    if not begun:
        await _send_status(send, [*trailers, id_header])
        return
    await send_body(send, b"")
    await _send_trailers(send, (*trailers, id_header))


async def _send_message(send: Send, message: bytes) -> None:
    """Send an answer of one small message, without its trailers."""
    await send(_GRPC_START)
    await send_body(send, frame(message))


async def _send_large_message(send: Send, message: LargeAnswer, turns: Turns) -> None:
    """Send an answer of one large message, without its trailers."""
    head, payload = message
    await send(_GRPC_START)
    await send_body(send, prefix(len(head) + len(payload)) + head, last=False)
    await send_large(send, payload, turns)
    await send_body(send, b"")


async def _send_stream(send: Send, document: bytes, turns: Turns) -> None:
    """Send a streaming answer, without its trailers."""
    await send(_GRPC_START)
    await send_body(send, frame(body_part(b"", first=True)), last=False)
    await send_large(send, document, turns, lambda part: frame(body_part(part, first=False)))
    await send_body(send, b"")


async def _send_trailers(send: Send, trailers: Headers) -> None:
    await send({"type": "http.response.trailers", "headers": trailers, "more_trailers": False})


async def _send_status(send: Send, trailers: Headers) -> None:
    """Send an answer of only a status: gRPC's "trailers-only"."""
    await send({"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE, *trailers]})
    await send_body(send, b"")

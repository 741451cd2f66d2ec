"""Serve gRPC, REST and /healthz inside Envoy, as an ASGI application.

Envoy's transcoder turns a REST call into a gRPC call, with the original path in ``x-envoy-original-path``. The answer
is the bare document: the transcoder passes an answer that is not gRPC unchanged. The routes are in
``gateway/embedded.yaml``; other requests do not come here.

This module must not import grpcio, which would cost every process inside Envoy memory and start-up time.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import unquote_to_bytes

import structlog

from taskgate.base.errors import STATUS_OF, ErrorStatus, InternalError, StoreUnavailable, TaskgateError
from taskgate.base.logs import flush_logs
from taskgate.base.settings import Settings
from taskgate.service.calls import Call, EagerCoroutine, Handler, LargeAnswer, build_handlers
from taskgate.service.endpoints import (
    HEALTH_SERVICES,
    SERVICE,
    STREAM_TASK_JSON,
    build_document_endpoint,
    build_endpoints,
)
from taskgate.service.in_flight import InFlight
from taskgate.service.readiness import watch_store
from taskgate.service.tasks import TaskService
from taskgate.stores.base import TaskStore
from taskgate.transports import health, reflection
from taskgate.transports.asgi import CallerGone, Receive, Scope, Send, finish, release_frames, send_body, send_large
from taskgate.transports.asgi_answers import (
    GRPC_OK,
    REQUEST_ID,
    request_id,
    request_id_header,
    send_large_message,
    send_message,
    send_status,
    send_stream,
    send_trailers,
    stream_call,
)
from taskgate.transports.asgi_requests import PendingRequests, Request, RequestParts
from taskgate.transports.grpc_wire import ProtocolError, check_encoding, status, status_of_error
from taskgate.transports.pace import PINNED_BYTES, TOO_SLOW, ReaderTooSlow, Turns

_TASK_PATH = b"/api/tasks/"
_JSON = (b"content-type", b"application/json")


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
        self._pending = PendingRequests()
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
                    await send_status(
                        send, [*status(_INTERNAL.grpc_code, _INTERNAL_MESSAGE), request_id_header(headers)]
                    )
                else:
                    await self._send_json_error(send, _INTERNAL, _INTERNAL_MESSAGE, request_id_header(headers))

    async def _rest(
        self, scope: Scope, path: bytes, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        """Answer ``GET /api/tasks/{taskId}``. Only the path names the task; query parameters and body are ignored."""
        task_id = path.partition(b"?")[0][len(_TASK_PATH) :]
        if b"%" in task_id:
            task_id = unquote_to_bytes(task_id)
        call = Call(STREAM_TASK_JSON, request_id(headers), peer=scope["client"])
        id_header = (REQUEST_ID, call.request_id.encode())
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
        id_header = request_id_header(headers)
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
            request = Request(headers, receive, send, self._limit, self._pending)
            if (handler := self._unary.get(path)) is not None:
                message = await request.only_message()
                call = Call(path.decode(), request_id(headers), request.seconds_left(), peer=scope["client"])
                await self._unary_call(handler, call, message, receive, send)
            elif path == self._health_check:
                await send_message(send, await self._health.check(await request.only_message()))
                await send_trailers(send, (*GRPC_OK, request_id_header(headers)))
            elif path == self._health_watch:
                messages = self._health.watch(await request.only_message())
                left = request.callers_seconds_left()
                await stream_call(messages, receive, send, seconds=left, id_header=request_id_header(headers))
            elif path == self._reflection_info:
                parts = RequestParts(headers.get(b"grpc-encoding"))
                messages = self._reflection.info(parts.messages())
                left = request.seconds_left()
                await stream_call(
                    messages, receive, send, seconds=left, id_header=request_id_header(headers), take=parts.take
                )
            else:
                unknown = status("UNIMPLEMENTED", "Method not found!")  # grpcio's own words
                await send_status(send, [*unknown, request_id_header(headers)])
        except ProtocolError as refused:
            await send_status(
                send, [*status(refused.code, refused.message), *refused.extra, request_id_header(headers)]
            )

    async def _unary_call(self, handler: Handler, call: Call, message: bytes, receive: Receive, send: Send) -> None:
        id_header = (REQUEST_ID, call.request_id.encode())
        try:
            started = EagerCoroutine(handler(call, message))
            response = started.result if started.done else await finish(started, receive)
            if not isinstance(response, LargeAnswer):
                await send_message(send, response)
            elif call.path == STREAM_TASK_JSON:
                await send_stream(send, response.payload, self._turns)
            else:
                await send_large_message(send, response, self._turns)
            await send_trailers(send, (*GRPC_OK, id_header))
        except TaskgateError as error:
            trailers = [*status_of_error(error), id_header]
        else:
            return
        finally:
            if call.room is not None:
                call.room.release()
        await send_status(send, trailers)  # outside "except": no traceback keeps the document


_INTERNAL_MESSAGE = "Internal error; the server's log has it"
_INTERNAL = STATUS_OF[InternalError]
_UNAVAILABLE = STATUS_OF[StoreUnavailable]


def _check_protocol(scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    if scope["http_version"] != "2":
        raise ProtocolError("UNIMPLEMENTED", "gRPC needs POST over HTTP/2")
    if headers.get(b"te") != b"trailers":
        raise ProtocolError(
            "INTERNAL", "The header 'te: trailers' is missing: a proxy before the server may drop trailers"
        )
    check_encoding(headers.get(b"grpc-encoding"))

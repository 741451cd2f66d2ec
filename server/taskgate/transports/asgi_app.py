"""Serve gRPC, REST and /healthz inside Envoy, as an ASGI application.

Envoy sends four kinds of request here (the routes are in ``gateway/embedded.yaml``):

- REST, which its transcoder has made a gRPC call; only the transcoder sets ``x-envoy-original-path``
- gRPC: POST over HTTP/2, or over HTTP/1.1 with Envoy's mark of gRPC-Web
- ``/healthz``
- GET with gRPC's content type, which the transcoder passes through; it is answered as REST

An answer of REST is the bare document: the transcoder passes on unchanged what is not gRPC.

This module must not import grpcio, which would cost every process inside Envoy memory and start-up time.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from taskgate.access.credentials import token_in
from taskgate.access.gate import CREATE_TOKEN, open_gate
from taskgate.base.errors import InternalError, TaskgateError
from taskgate.base.logs import flush_logs
from taskgate.base.settings import Settings
from taskgate.service.calls import TRACE_HEADERS, Call, EagerCoroutine, Handler, LargeAnswer, build_handlers
from taskgate.service.endpoints import (
    STREAM_TASK_JSON,
    build_document_endpoint,
    build_endpoints,
)
from taskgate.service.in_flight import InFlight
from taskgate.service.readiness import watch_readiness
from taskgate.service.tasks import TaskService
from taskgate.stores.base import TaskStore
from taskgate.telemetry.server import ServerMeter
from taskgate.transports import health, reflection
from taskgate.transports.asgi import CallerGone, Receive, Scope, Send, finish, release_frames
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
from taskgate.transports.asgi_rest import Rest
from taskgate.transports.closing import close_all
from taskgate.transports.counting import counted
from taskgate.transports.grpc_wire import ProtocolError, check_encoding, status, status_of_error
from taskgate.transports.pace import PINNED_BYTES, TOO_SLOW, ReaderTooSlow, Turns

if TYPE_CHECKING:
    from taskgate.telemetry.tracing import Tracing

_CREATE_TOKEN = CREATE_TOKEN.encode()


class AsgiTransport:
    """The ASGI application for one store. Call ``start`` before the first request and ``stop`` after the last."""

    def __init__(
        self,
        settings: Settings,
        store: TaskStore,
        *,
        python: str,
        meter: ServerMeter | None = None,
        tracing: "Tracing | None" = None,
        replacement: bool = False,
    ) -> None:
        """``python`` is the interpreter that runs large conversions.

        If they are given, ``meter`` counts calls and ``tracing`` traces them. ``replacement`` is passed to
        ``open_gate``.
        """
        self._meter = meter
        self._counter = counter = None if meter is None else meter.calls
        if meter is not None:
            store = meter.store(store)
        self._tracing = tracing
        tracer = None if tracing is None else tracing.layer
        if tracing is not None:
            store = tracing.store(store)
        self._store = store
        self._watch: asyncio.Task[None] | None = None
        in_flight = InFlight(settings.in_flight_mib << 20, own_bytes=PINNED_BYTES)
        self._service = service = TaskService(
            store,
            settings.task_id_format,
            layout=settings.layout,
            in_flight=in_flight,
            python=python,
            mask=settings.mask,
        )
        self._in_flight = in_flight
        self._turns = Turns()
        self._pending = PendingRequests()
        self._limit = limit = settings.request_timeout
        self._grpc_web = bool(settings.cors_origins)
        self._gate = gate = open_gate(settings, replacement=replacement)
        layers = () if gate is None else (gate.layer,)
        build = partial(build_handlers, request_timeout=limit, counter=counter, tracer=tracer)
        get_document = build({"": build_document_endpoint(service)}, inner=layers)[""]
        self._rest = Rest(get_document, instance=settings.instance, turns=self._turns, no_store=gate is not None)
        handlers = build(build_endpoints(service), inner=layers)
        if gate is not None:
            handlers |= build(gate.endpoints)
        self._unary: Mapping[bytes, Handler] = {path.encode(): handler for path, handler in handlers.items()}
        self._health_check = f"/{health.SERVICE_NAME}/Check".encode()
        self._health_watch = f"/{health.SERVICE_NAME}/Watch".encode()
        names = reflection.services(settings.reflection, gate)
        self._health = health.Health(names)
        self._reflection = reflection.Reflection(names)
        self._reflection_infos = {path.encode() for path in reflection.paths(settings.reflection)}

    async def start(self) -> None:
        """Start probing the store; health is NOT_SERVING until it answers and callers' keys are known."""
        if self._gate is not None:
            await self._gate.start()
        keys = None if self._gate is None else self._gate.keys
        self._watch = asyncio.create_task(watch_readiness(self._store, self._health.report, keys))
        if self._meter is not None:
            self._meter.start(self._store, self._in_flight, lambda: self._health.store_answers, keys)

    def drain(self) -> None:
        """Start draining: fail health checks, and keep answering calls."""
        self._health.shut_down()

    async def stop(self) -> None:
        """Fail health checks, and stop probing; then close gate, service, store and tracing."""
        if self._watch is not None:
            self._watch.cancel()
        if self._meter is not None:
            self._meter.stop()
        self._health.shut_down()
        await close_all(self._gate, self._service, self._store, self._tracing)
        flush_logs()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; end quietly if the caller has left.

        Raises nothing: pyvoy would print the error and answer 500 in plain text.
        """
        headers = dict(scope["headers"])
        path = headers.get(b"x-envoy-original-path")
        try:
            if path is not None:
                await self._rest_call(scope, path, headers, receive, send)
            elif scope["method"] == "POST":
                await self._grpc(scope, headers, receive, send)
            elif scope["path"] == "/healthz":
                await self._rest.healthz(scope["method"], headers, send, serving=self._health.serving)
            else:  # a GET with gRPC's content type, which the transcoder passes through
                await self._rest_call(scope, scope["raw_path"], headers, receive, send)
        except (CallerGone, asyncio.CancelledError):
            return
        except ReaderTooSlow:
            structlog.get_logger("taskgate.server").warning(TOO_SLOW)
        except OSError as error:  # from "send": the caller has left; handlers raise none
            release_frames(error)
        except Exception:  # noqa: BLE001 - see above
            structlog.get_logger("taskgate.server").exception("a request could not be answered")
            with suppress(OSError, RuntimeError):  # RuntimeError: the answer had started
                id_header = request_id_header(headers)
                if path is None and scope["method"] == "POST":
                    await send_status(send, [*status("INTERNAL", _INTERNAL_MESSAGE), id_header])
                else:
                    await self._rest.send_error(send, InternalError(_INTERNAL_MESSAGE), id_header)

    async def _rest_call(
        self, scope: Scope, path: bytes, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        create = self._unary.get(_CREATE_TOKEN)
        if create is not None and scope["raw_path"] == _CREATE_TOKEN:
            # A deadline of gRPC means nothing in REST; proxied, a malformed one is ignored, too.
            kept = {name: value for name, value in headers.items() if name != b"grpc-timeout"}
            request = Request(kept, receive, send, self._limit, self._pending)
            call = self._call(CREATE_TOKEN, scope, headers, request.seconds_left())
            await self._rest.create_token(create, call, request, receive, send)
        else:
            call = self._call(STREAM_TASK_JSON, scope, headers)
            await self._rest.get_task(path, call, receive, send)

    def _call(self, path: str, scope: Scope, headers: Mapping[bytes, bytes], seconds_left: float | None = None) -> Call:
        call = Call(path, request_id(headers), seconds_left, peer=scope["client"])
        if self._gate is not None:
            bare, scheme = headers.get(b"x-authorization"), headers.get(b"authorization")
            if bare is not None and scheme is None:  # the form of SDKs
                call.token = bare.decode("latin-1")
            else:
                call.token = token_in(*(None if value is None else value.decode("latin-1") for value in (bare, scheme)))
        if self._tracing is not None:
            call.trace = _trace(headers)
        return call

    async def _grpc(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        path: bytes = scope["raw_path"]
        handler = self._unary.get(path)
        try:
            if handler is None:
                with counted(self._counter, path.decode("latin-1")) as outcome:
                    request = self._request(scope, headers, receive, send)
                    outcome.code = await self._other_call(path, request, headers, receive, send)
                return
            try:
                request = self._request(scope, headers, receive, send)
                message = await request.only_message()
            except BaseException:  # no handler will count this call: its request never arrived whole
                with counted(self._counter, path.decode()):
                    raise
            call = self._call(path.decode(), scope, headers, request.seconds_left())
            await self._unary_call(handler, call, message, receive, send)
        except ProtocolError as refused:
            await send_status(
                send, [*status(refused.code, refused.message), *refused.extra, request_id_header(headers)]
            )

    def _request(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> Request:
        """Return the request whose headers have arrived. Raises ProtocolError."""
        _check_protocol(scope, headers, grpc_web=self._grpc_web and _GRPC_WEB in headers)
        return Request(headers, receive, send, self._limit, self._pending)

    async def _other_call(
        self, path: bytes, request: Request, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> str:
        """Answer a call of a service other than the tasks' and return its status. Raises ProtocolError."""
        id_header = request_id_header(headers)
        if path == self._health_check:
            await send_message(send, await self._health.check(await request.only_message()))
            await send_trailers(send, (*GRPC_OK, id_header))
            return "OK"
        if path == self._health_watch:
            messages = self._health.watch(await request.only_message())
            left = request.callers_seconds_left()
            return await stream_call(messages, receive, send, seconds=left, id_header=id_header)
        if path in self._reflection_infos:
            parts = RequestParts(headers.get(b"grpc-encoding"))
            messages = self._reflection.info(parts.messages())
            left = request.seconds_left()
            return await stream_call(messages, receive, send, seconds=left, id_header=id_header, take=parts.take)
        raise ProtocolError("UNIMPLEMENTED", "Method not found!")  # grpcio's own words

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

_GRPC_WEB = b"x-taskgate-grpc-web"
"""Envoy's mark of a call that came as gRPC-Web, whose trailers need no HTTP/2; see ``gateway/browser.yaml``."""


def _trace(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name: headers[name.encode()].decode("latin-1") for name in TRACE_HEADERS if name.encode() in headers}


def _check_protocol(scope: Scope, headers: Mapping[bytes, bytes], *, grpc_web: bool) -> None:
    if scope["http_version"] != "2" and not grpc_web:
        raise ProtocolError("UNIMPLEMENTED", "gRPC needs POST over HTTP/2")
    if headers.get(b"te") != b"trailers":
        raise ProtocolError(
            "INTERNAL", "The header 'te: trailers' is missing: a proxy before the server may drop trailers"
        )
    check_encoding(headers.get(b"grpc-encoding"))

"""Serve gRPC with grpc.aio, in mode proxied and for ``serve``.

Handlers take and return raw bytes. The endpoints decode them, so that a malformed request gets our error instead of
grpcio's "Exception deserializing request!", and a document of megabytes is not copied into a message object.

Every method is registered as one that takes a stream. grpcio calls the handler of a unary method only when the message
has arrived, so a call whose message never comes, is cut off or has an unknown flag would stay in the server for ever.
A stream handler starts with the call. Ours wait a limited time for the message, and answer the call in any case.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc
import structlog

from taskgate.access.credentials import token_in
from taskgate.access.gate import open_gate
from taskgate.base.addresses import Address, check_port_free
from taskgate.base.certificates import TlsFiles
from taskgate.base.errors import SettingsError, TaskgateError
from taskgate.base.file_limit import connections_within, raise_file_limit
from taskgate.base.gc_freeze import trim_heap
from taskgate.base.logs import flush_logs
from taskgate.base.settings import Settings
from taskgate.documents.document import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES
from taskgate.service.calls import (
    REQUEST_ID_HEADER,
    TRACE_HEADERS,
    Call,
    CallCounter,
    Handler,
    LargeAnswer,
    build_handlers,
    usable_request_id,
)
from taskgate.service.endpoints import STREAM_TASK_JSON, body_part, build_endpoints
from taskgate.service.in_flight import InFlight, Peer
from taskgate.service.readiness import watch_readiness
from taskgate.service.tasks import TaskService
from taskgate.stores import files_of
from taskgate.stores.base import TaskStore
from taskgate.telemetry.server import ServerMeter
from taskgate.transports import health, reflection
from taskgate.transports.closing import close_all
from taskgate.transports.counting import counted
from taskgate.transports.error_details import status_details
from taskgate.transports.grpc_wire import ProtocolError, late_answer, late_request, not_one_message, timeout_seconds
from taskgate.transports.grpcio_calls import end_call, this_call_lasts, track_calls
from taskgate.transports.grpcio_drain import Behaviour, Methods
from taskgate.transports.grpcio_tls import ServerCertificates
from taskgate.transports.pace import (
    GRACE_SECONDS,
    PART_BYTES,
    PINNED_BYTES,
    TOO_SLOW,
    ReaderTooSlow,
    Turns,
    longest_seconds,
    send_in_parts,
)
from taskgate.transports.private_socket import until_envoy_has_left

if TYPE_CHECKING:
    from taskgate.telemetry.tracing import Tracing

_SERVER_FILES = 48
"""Open files of a server beside connections and its store: 22 of its own, the rest for large conversions."""

_UNARY_COPIES = 2
"""Copies of a large answer that a unary call makes: the message, and grpcio's copy of it."""

PEER_HEADER = "x-taskgate-peer"
"""The header in which Envoy names its caller, as ``TOKEN ADDRESS:PORT``."""

TIMEOUT_HEADER = "x-taskgate-timeout"
"""The header in which Envoy passes on ``grpc-timeout``, so that grpcio does not end the call (gateway/README.md)."""

_TRIM_AGAIN_SECONDS = 5.0

LENGTH_HEADER = "x-taskgate-length"
"""The length of a streamed document; Envoy copies it to the ``content-length`` of a REST answer."""

_RESET_SECONDS = 5.0
"""How much longer than ``request_timeout`` a call with a slow reader waits for Envoy to reset it."""

MAX_CALLS_ON_A_CONNECTION = 10_000
"""Calls in flight that one connection may have on the server's own port."""


_STATUS_CODES = {code.name: code for code in grpc.StatusCode}


class GrpcServer:
    """A grpc.aio server over one store, with TaskService, health and reflection.

    Call ``start`` once, then ``stop`` once.
    """

    def __init__(
        self,
        settings: Settings,
        store: TaskStore,
        *,
        share_port: bool = False,
        peer_token: str | None = None,
        private_socket: str | None = None,
        meter: ServerMeter | None = None,
        tracing: "Tracing | None" = None,
        replacement: bool = False,
    ) -> None:
        """``share_port`` lets other processes listen on the same port (SO_REUSEPORT).

        ``peer_token`` is a secret shared with our own Envoy: a ``PEER_HEADER`` that begins with it is trusted.
        ``private_socket`` is the path of a Unix socket to listen on too, in plain text: only this user can reach it.
        If they are given, ``meter`` counts calls and ``tracing`` traces them. ``replacement`` is passed to
        ``open_gate``. Raises SettingsError if the files for TLS cannot be used.
        """
        self._settings = settings
        self._meter = meter
        if meter is not None:
            store = meter.store(store)
        self._tracing = tracing
        if tracing is not None:
            store = tracing.store(store)
        self._store = store
        self._peer_token = peer_token
        self._gate = open_gate(settings, replacement=replacement)
        self._in_flight = in_flight = InFlight(
            settings.in_flight_mib << 20, own_bytes=PINNED_BYTES, on_idle=_trim_memory
        )
        self._service = TaskService(
            store, settings.task_id_format, layout=settings.layout, in_flight=in_flight, mask=settings.mask
        )
        self._share_port = share_port
        self._private_socket = private_socket
        files = TlsFiles.of(settings)
        self._certificates = None if files is None else ServerCertificates(files, copies=share_port)
        # Processes that share a port do not warn: the process that starts them does.
        connections = most_connections(settings, warn=not share_port)
        self._server = grpc.aio.server(options=_options(share_port=share_port, connections=connections))
        self._services = reflection.services(settings.reflection, self._gate)
        self._health = health.Health(self._services)
        self._watch: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("taskgate.server")

    async def start(self) -> Address:
        """Listen, and report NOT_SERVING until the store answers and callers' keys are known.

        Returns the address with the port that was bound. Raises SettingsError if the port is taken.
        """
        address = self._settings.grpc
        if not self._share_port:
            check_port_free(address, key="grpc")
        limit = self._settings.request_timeout
        gate = self._gate
        layers = () if gate is None else (gate.layer,)
        counter = None if self._meter is None else self._meter.calls
        tracer = None if self._tracing is None else self._tracing.layer
        build = partial(build_handlers, request_timeout=limit, counter=counter, tracer=tracer)
        handlers = build(build_endpoints(self._service), inner=layers)
        if gate is not None:
            await gate.start()
            handlers |= build(gate.endpoints)
        turns = Turns()
        unary = {
            path: _unary(path, handler, limit, self._peer_token, turns, counter=counter)
            for path, handler in handlers.items()
        } | {f"/{health.SERVICE_NAME}/Check": _check(self._health, limit, counter)}
        streaming = {f"/{health.SERVICE_NAME}/Watch": _watch(self._health, limit, counter)}
        described = reflection.Reflection(self._services)
        for path in reflection.paths(self._settings.reflection):
            streaming[path] = _reflect(path, described, limit, counter)
        self._methods = Methods(unary, streaming)
        self._server.add_generic_rpc_handlers((self._methods,))
        if counter is not None:
            self._server.add_generic_rpc_handlers((_UnknownMethods(counter),))
        try:
            if self._certificates is None:
                port = self._server.add_insecure_port(str(address))
            else:
                port = self._server.add_secure_port(str(address), self._certificates.credentials())
            if self._private_socket is not None:
                self._server.add_insecure_port(f"unix:{self._private_socket}")
        except RuntimeError as error:
            raise SettingsError(f"grpc: cannot listen on {address}") from error
        track_calls(asyncio.get_running_loop())
        await self._server.start()
        if self._certificates is not None:
            self._certificates.start()
        keys = None if self._gate is None else self._gate.keys
        self._watch = asyncio.create_task(watch_readiness(self._store, self._health.report, keys))
        if self._meter is not None:
            self._meter.start(self._store, self._in_flight, lambda: self._health.store_answers, keys)
        bound = Address(address.host, port)
        self._log.info("listening", grpc=str(bound))
        return bound

    async def stop(self) -> None:
        """Drain and shut down.

        1. If there is a private socket, keep serving until Envoy has left it, for up to half of ``shutdown_grace``.
        2. Fail health checks, so that load balancers stop sending calls.
        3. Wait ``drain_delay`` seconds for them to notice.
        4. Let calls in flight finish for up to half of what is left of ``shutdown_grace``; still accept new ones.
        5. Refuse new calls, and let those in flight finish within the rest of that time.
        6. Close gate, service, store and tracing.
        """
        self._log.info("shutting down", drain_delay=self._settings.drain_delay)
        grace = self._settings.shutdown_grace
        if self._private_socket is not None:
            began = time.monotonic()
            await until_envoy_has_left(self._private_socket, self._health.shut_down, grace / 2)
            grace -= time.monotonic() - began
        if self._watch is not None:
            self._watch.cancel()
        if self._certificates is not None:
            self._certificates.stop()
        if self._meter is not None:
            self._meter.stop()
        self._health.shut_down()
        await asyncio.sleep(self._settings.drain_delay)
        began = time.monotonic()
        await self._methods.drain(grace / 2)
        await self._server.stop(grace - (time.monotonic() - began))
        await close_all(self._gate, self._service, self._store, self._tracing)
        flush_logs()
        self._log.info("stopped")


def most_connections(settings: Settings, *, warn: bool) -> int:
    """Return how many connections a server accepts within this process's file limit; see ``connections_within``."""
    return connections_within(raise_file_limit(), others=_SERVER_FILES + files_of(settings.store), warn=warn)


def _options(*, share_port: bool, connections: int) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.so_reuseport", int(share_port)),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # Envoy sends an 8 KB path twice, as task ID and as metadata; gRPC's defaults reject such calls at random.
        ("grpc.max_metadata_size", 64 * 1024),
        ("grpc.absolute_max_metadata_size", 96 * 1024),
        # Calls that wait for a handler, including those cancelled meanwhile. Above the first number gRPC answers some
        # calls with CANCELLED, at random, though their callers did not cancel. Its default is a thousand.
        ("grpc.server.max_pending_requests", 10_000),
        ("grpc.server.max_pending_requests_hard_limit", 20_000),
        # Not Envoy's 100: grpcio also counts calls that a client has just ended, and would reset new calls of a client
        # that keeps to the limit.
        ("grpc.max_concurrent_streams", MAX_CALLS_ON_A_CONNECTION),
        # Clients may ping once a second, with or without calls; a few faster pings end their connection. grpcio's
        # defaults ask for two hours between pings without a call (first option) and for five minutes otherwise
        # (second): a client with a keepalive of 10 s would be disconnected at its third ping.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        # As in Envoy: close the connections and watches of clients that vanished silently.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # As in Envoy: against handshakes that never end. The default is two minutes.
        ("grpc.server_handshake_timeout_ms", 10_000),
    )


class _UnknownMethods(grpc.GenericRpcHandler):
    """Counts the calls for which there is no handler before this one; grpcio then answers them with UNIMPLEMENTED."""

    def __init__(self, counter: CallCounter) -> None:
        self._counter = counter

    def service(self, handler_call_details: Any) -> None:
        path = handler_call_details.method
        self._counter.end(path, "UNIMPLEMENTED", self._counter.begin(path))


def _unary(
    path: str,
    handler: Handler,
    limit: float,
    peer_token: str | None,
    turns: Turns,
    *,
    counter: CallCounter | None,
) -> Behaviour:
    """Return a grpc.aio method that runs ``handler`` within ``limit`` seconds.

    Streaming methods are registered as unary ones that write before they return the last message: most answers are a
    single message, which grpcio then sends together with the status (``Methods`` does so outside a drain).
    """
    streams = path == STREAM_TASK_JSON
    send_large = partial(_send_stream if streams else _send_whole, turns)

    async def behave(_: Any, context: Any) -> bytes:
        metadata = dict(context.invocation_metadata())
        try:
            named = _named_seconds(metadata)
            message, left = await _only_message(context, limit if named is None else min(limit, named))
        except ProtocolError as refused:
            if counter is not None:  # the handler counts all other calls
                counter.end(path, refused.code, counter.begin(path))
            await _refuse(context, refused)
            raise  # unreachable: abort raises
        call = _make_call(path, context, metadata, left, peer_token)
        call.copies = 0 if streams else _UNARY_COPIES
        try:
            return await _answer(handler, call, message, context, send_large)
        except ReaderTooSlow:
            end = partial(_end_slow_call, call, context, limit + _RESET_SECONDS)
        except TaskgateError as error:
            trailers = _id_metadata(call) + _trailers(error)
            end = partial(context.abort, _STATUS_CODES[error.status.grpc_code], error.message, trailers)
        except BaseException:
            _release(call)
            raise
        # Outside "except" no traceback keeps the document alive; one turn of the event loop frees its references too.
        try:
            await asyncio.sleep(0)
        finally:
            _release(call)
        await end()
        return b""

    return behave


def _check(service: health.Health, limit: float, counter: CallCounter | None) -> Behaviour:
    async def behave(_: Any, context: Any) -> bytes:
        message, _left = await _only_message(context, limit)
        return await service.check(message)

    return _with_status(behave, counter, f"/{health.SERVICE_NAME}/Check")


def _watch(service: health.Health, limit: float, counter: CallCounter | None) -> Any:
    """Return the Watch method: ``limit`` seconds for the request, no limit for the stream of answers."""

    async def behave(_: Any, context: Any) -> None:
        this_call_lasts()
        message, _left = await _only_message(context, limit)
        async for response in service.watch(message):
            await context.write(response)

    return grpc.stream_stream_rpc_method_handler(_with_status(behave, counter, f"/{health.SERVICE_NAME}/Watch"))


def _reflect(path: str, described: reflection.Reflection, limit: float, counter: CallCounter | None) -> Any:
    """Return the reflection method, whose streams end after ``limit`` seconds; tools then open another one."""

    async def behave(_: Any, context: Any) -> None:
        this_call_lasts()
        try:
            async with asyncio.timeout(limit):
                async for response in described.info(_messages(context)):
                    await context.write(response)
        except TimeoutError:
            raise late_request(limit) from None

    return grpc.stream_stream_rpc_method_handler(_with_status(behave, counter, path))


def _with_status(behave: Callable[[Any, Any], Awaitable[Any]], counter: CallCounter | None, path: str) -> Behaviour:
    """Turn a ``ProtocolError`` of ``behave`` into its status; log any other exception and answer INTERNAL.

    ``counter`` counts the call as one of the method ``path``. The call ends at the deadline that Envoy passes on.
    """

    async def with_status(requests: Any, context: Any) -> Any:
        try:
            with counted(counter, path):
                seconds = _named_seconds(dict(context.invocation_metadata()))
                return await _within(seconds, behave(requests, context))
        except ProtocolError as refused:
            await _refuse(context, refused)
        except Exception:  # noqa: BLE001 - grpcio would show its class and text to the client
            structlog.get_logger("taskgate.server").exception("a request could not be answered")
            await _refuse(context, ProtocolError("INTERNAL", "Internal error; the server's log has it"))

    return with_status


async def _within(seconds: float | None, behaviour: Awaitable[Any]) -> Any:
    """Await ``behaviour``. Raises ProtocolError after ``seconds``, unless these are None."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await behaviour
    except TimeoutError:
        if seconds is None or not limit.expired():
            raise
        raise late_answer(seconds) from None


def _named_seconds(metadata: Mapping[str, Any]) -> float | None:
    """Return the caller's deadline in seconds, as Envoy passes it on; None without one.

    Raises ProtocolError if it is malformed.
    """
    value = metadata.get(TIMEOUT_HEADER)
    return None if value is None else timeout_seconds(value.encode())


async def _only_message(context: Any, limit: float) -> tuple[bytes, float]:
    """Return the first message of a request and the seconds left of ``limit``. Raises ProtocolError without one.

    grpcio cannot tell a request without a message from one that ends within its message or has an unknown flag; some of
    the latter it delivers as an empty message. Later messages are not read.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - grpc.aio runs each call in a task
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = loop.call_later(limit, expire)  # as asyncio.timeout, at an eighth of its cost
    try:
        message = await context.read()
    except asyncio.CancelledError:
        if expired and task.uncancel() == 0:
            raise late_request(limit) from None
        raise
    finally:
        timer.cancel()
    if message is grpc.aio.EOF:
        raise not_one_message()
    return message, timer.when() - loop.time()


async def _messages(context: Any) -> AsyncIterator[bytes]:
    """Yield the messages of a streaming request."""
    while (message := await context.read()) is not grpc.aio.EOF:
        yield message


async def _refuse(context: Any, refused: ProtocolError) -> None:
    await context.abort(_STATUS_CODES[refused.code], refused.message)


def _make_call(path: str, context: Any, metadata: Mapping[str, Any], left: float, peer_token: str | None) -> Call:
    """Make the Call of ``context``, with ``left`` seconds or until grpcio's deadline, whichever is sooner."""
    remaining = context.time_remaining()
    timeout = left if remaining is None else min(left, remaining)
    call = Call(path, usable_request_id(metadata.get(REQUEST_ID_HEADER)), timeout)
    call.token = token_in(metadata.get("x-authorization"), metadata.get("authorization"))
    if "traceparent" in metadata:
        call.trace = {name: str(metadata[name]) for name in TRACE_HEADERS if name in metadata}
    call.peer = _peer(metadata.get(PEER_HEADER), peer_token, context)
    return call


async def _answer(
    handler: Handler,
    call: Call,
    message: bytes,
    context: Any,
    send_large: Callable[[Call, LargeAnswer, Any], Awaitable[bytes]],
) -> bytes:
    """Send the answer except its last message, which is returned."""
    response = await handler(call, message)
    context.set_trailing_metadata(_id_metadata(call))
    return await send_large(call, response, context) if isinstance(response, LargeAnswer) else response


def _id_metadata(call: Call) -> tuple[tuple[str, str], ...]:
    return ((REQUEST_ID_HEADER, call.request_id),)


async def _send_whole(turns: Turns, call: Call, answer: LargeAnswer, _: Any) -> bytes:
    """Return the message of a unary answer, and end the call if its client reads too slowly.

    gRPC takes the whole message at once, so only the time for all of it can be limited. The room is released when the
    call is over.
    """
    await turns.take()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - grpc.aio runs each call in a task

    def give_up() -> None:
        structlog.get_logger("taskgate.server").warning(TOO_SLOW, request_id=call.request_id)
        end_call(task)

    late = loop.call_later(longest_seconds(len(answer.payload)), give_up)

    def over(_task: object) -> None:
        late.cancel()
        _release(call)

    task.add_done_callback(over)  # a callback of the context would keep the call alive
    return b"".join(answer)


async def _send_stream(turns: Turns, call: Call, answer: LargeAnswer, context: Any) -> bytes:
    """Write the parts of the document except the last, which is returned."""
    document = answer.payload
    length = ((LENGTH_HEADER, str(len(document))),)  # a REST answer in parts would lack its content-length
    await context.send_initial_metadata(length)
    await context.write(body_part(b"", first=True))
    end = max(len(document) - PART_BYTES, 0)  # a document made of a large row may be small

    async def write(part: bytes) -> None:
        await context.write(body_part(part, first=False))

    await send_in_parts(write, document, end, turns)
    _release(call)
    return body_part(document[end:], first=False)


async def _end_slow_call(call: Call, context: Any, seconds: float) -> None:
    """Wait ``seconds`` for Envoy to reset a call that is read too slowly; then end it with a status."""
    structlog.get_logger("taskgate.server").warning(TOO_SLOW, request_id=call.request_id)
    await asyncio.sleep(seconds)  # a status would be queued behind the unread parts
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - grpc.aio runs each call in a task
    unread = asyncio.get_running_loop().call_later(GRACE_SECONDS, end_call, task)
    task.add_done_callback(lambda _: unread.cancel())
    try:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "The answer was read too slowly")
    except grpc.aio.InternalError:  # the client has left; grpcio would log a traceback
        return


def _trim_memory() -> None:
    """Return free memory to the system, and again when gRPC's threads have freed the rest of broken-off calls."""
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, trim_heap)
    loop.call_later(_TRIM_AGAIN_SECONDS, loop.run_in_executor, None, trim_heap)


def _release(call: Call) -> None:
    if call.room is not None:
        call.room.release()


def _trailers(error: TaskgateError) -> tuple[tuple[str, str | bytes], ...]:
    details = ("grpc-status-details-bin", status_details(error))
    if error.retry_after is None:
        return (details,)
    return (details, ("retry-after", str(error.retry_after)))  # Envoy passes it to REST callers as a header


def _peer(header: str | None, token: str | None, context: Any) -> Peer | None:
    """Return the caller: from ``header`` if it has the token of our Envoy, else the other end of the connection."""
    if header is not None and token is not None and header.startswith(token):
        where = header[len(token) :].strip()
    else:  # ipv4:ADDRESS:PORT or ipv6:%5BADDRESS%5D:PORT
        where = unquote(context.peer().partition(":")[2])
    address, _, port = where.rpartition(":")
    return (address.strip("[]"), int(port)) if port.isdigit() else None

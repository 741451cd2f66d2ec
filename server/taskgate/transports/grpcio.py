"""gRPC over grpc.aio: the portable server, and the one to run without Envoy.

Handlers take and give raw bytes: decoding belongs to the endpoints, where a malformed request gets our error and not
grpcio's "Exception deserializing request!", and a document of megabytes is not copied through a message object.

Every method is registered as one that takes a stream. grpcio runs the handler of a unary method only once the message
has arrived: a call whose message never comes, is cut off or has an unknown flag would stay in the server for ever.
The handlers here start with the call, wait for its message for a limited time, and answer the call in any case.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import grpc
import structlog

from taskgate.base.addresses import Address, check_port_free
from taskgate.base.errors import SettingsError, TaskgateError
from taskgate.base.file_limit import connections_within, raise_file_limit
from taskgate.base.gc_freeze import trim_heap
from taskgate.base.logs import flush_logs
from taskgate.base.settings import Settings
from taskgate.documents.document import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES
from taskgate.service.calls import REQUEST_ID_HEADER, Call, Handler, LargeAnswer, build_handlers, usable_request_id
from taskgate.service.endpoints import HEALTH_SERVICES, SERVICE, STREAM_TASK_JSON, body_part, build_endpoints
from taskgate.service.in_flight import InFlight, Peer
from taskgate.service.readiness import watch_store
from taskgate.service.tasks import TaskService
from taskgate.stores import files_of
from taskgate.stores.base import TaskStore
from taskgate.transports import health, reflection
from taskgate.transports.error_details import status_details
from taskgate.transports.grpc_wire import Refused, late_request, no_whole_message
from taskgate.transports.grpcio_calls import end_call, note_calls
from taskgate.transports.pace import (
    GRACE_SECONDS,
    PART_BYTES,
    PINNED_BYTES,
    ReaderTooSlow,
    Turns,
    longest_seconds,
    send_in_parts,
)

_FILES = 48
"""Files that a server has open beside connections and its store: 22 of its own, and those of large conversions."""

_COPIES = 2
"""Copies of a large answer that a unary call has for itself: the message, and grpcio's own."""

PEER_HEADER = "x-taskgate-peer"
"""Where Envoy says who its caller is, as ``TOKEN ADDRESS:PORT``."""

_TRIM_AGAIN_SECONDS = 5.0

LENGTH_HEADER = "x-taskgate-length"
"""How long the document of a stream is; Envoy makes it the ``content-length`` of a REST answer."""

_PARKED_SECONDS = 5.0
"""How much longer than ``request_timeout`` a call whose reader is too slow waits for Envoy to reset it."""

MAX_CALLS_ON_A_CONNECTION = 10_000
"""Calls that one connection may have at a time on the server's own port."""

_TOO_SLOW = "a reader was too slow; its answer was not gone on with"

_STATUS_CODES = {code.name: code for code in grpc.StatusCode}


class GrpcServer:
    """One grpc.aio server over one store: TaskService, health and reflection.

    Use as ``await start()``, then ``await stop()``; a server is not started twice.
    """

    def __init__(
        self, settings: Settings, store: TaskStore, *, share_port: bool = False, peer_token: str | None = None
    ) -> None:
        """``share_port`` lets other processes listen on the same port (SO_REUSEPORT).

        ``peer_token`` is what only our own Envoy knows: ``PEER_HEADER`` is believed where it begins with that.
        """
        self._settings = settings
        self._store = store
        self._peer_token = peer_token
        in_flight = InFlight(settings.in_flight_mib << 20, own_bytes=PINNED_BYTES, on_idle=_give_memory_back)
        self._service = TaskService(store, settings.task_id_format, layout=settings.layout, in_flight=in_flight)
        self._share_port = share_port
        # Of several processes on a port, the one that starts them warns.
        connections = most_connections(settings, warn=not share_port)
        self._server = grpc.aio.server(options=_options(share_port=share_port, connections=connections))
        self._health = health.Health(HEALTH_SERVICES)
        self._watch: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("taskgate.server")

    async def start(self) -> Address:
        """Listen, and report NOT_SERVING until the store answers.

        Returns the address with the port that was bound. Raises SettingsError if the port is taken.
        """
        address = self._settings.grpc
        if not self._share_port:
            check_port_free(address, key="grpc")
        limit = self._settings.request_timeout
        handlers = build_handlers(build_endpoints(self._service), request_timeout=limit)
        described = reflection.Reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME))
        turns = Turns()
        methods = {
            path: _unary(path, handler, limit, self._peer_token, turns) for path, handler in handlers.items()
        } | {
            f"/{health.SERVICE_NAME}/Check": _check(self._health, limit),
            f"/{health.SERVICE_NAME}/Watch": _watch(self._health, limit),
            f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": _reflect(described, limit),
        }
        self._server.add_generic_rpc_handlers(_by_service(methods))
        try:
            port = self._server.add_insecure_port(str(address))
        except RuntimeError as error:
            raise SettingsError(f"grpc: cannot listen on {address}") from error
        note_calls(asyncio.get_running_loop())
        await self._server.start()
        self._watch = asyncio.create_task(watch_store(self._store, self._health.report))
        bound = Address(address.host, port)
        self._log.info("listening", grpc=str(bound))
        return bound

    async def stop(self) -> None:
        """Shut down without breaking a call.

        1. Fail health checks, so that balancers stop sending.
        2. Wait ``drain_delay`` seconds for them to notice.
        3. Refuse new calls; let running ones finish for up to ``shutdown_grace`` seconds.
        4. Close the service and the store.
        """
        self._log.info("shutting down", drain_delay=self._settings.drain_delay)
        if self._watch is not None:
            self._watch.cancel()
        self._health.end()
        await asyncio.sleep(self._settings.drain_delay)
        await self._server.stop(self._settings.shutdown_grace)
        await self._service.close()
        await self._store.close()
        flush_logs()
        self._log.info("stopped")


def most_connections(settings: Settings, *, warn: bool) -> int:
    """How many connections one server takes, by this process's limit of open files; see ``connections_within``."""
    return connections_within(raise_file_limit(), others=_FILES + files_of(settings.store), warn=warn)


def _options(*, share_port: bool, connections: int) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.so_reuseport", int(share_port)),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # An 8 KB path arrives from Envoy twice, as task ID and as metadata; by default gRPC drops such calls at random.
        ("grpc.max_metadata_size", 64 * 1024),
        ("grpc.absolute_max_metadata_size", 96 * 1024),
        # Calls that wait to be taken up, counting those that their callers cancelled meanwhile. From the first number
        # on gRPC answers CANCELLED at random, to callers that did no such thing; by default from a thousand on.
        ("grpc.server.max_pending_requests", 10_000),
        ("grpc.server.max_pending_requests_hard_limit", 20_000),
        # What one connection can hold. Not Envoy's 100: grpcio counts calls that a client has just ended, and then
        # resets new ones of a client that keeps to the limit.
        ("grpc.max_concurrent_streams", MAX_CALLS_ON_A_CONNECTION),
        # Clients may ping once a second, with calls or without; a few that come faster end their connection. Without
        # the first option grpcio wants two hours between two pings of a connection that has no call, without the second
        # five minutes: a client with a keepalive of 10 s would be cut off at its third ping.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        # As in Envoy: a caller that vanished without a word does not keep its connection and watches for ever.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    )


_Behaviour = Callable[[Any, Any], Awaitable[Any]]
"""What grpc.aio calls with an iterator of the request's messages and the call's context; it reads from the latter."""


def _by_service(methods: Mapping[str, Any]) -> tuple[Any, ...]:
    """The grpcio handlers for every path, grouped by service."""
    services: dict[str, dict[str, Any]] = {}
    for path, method_handler in methods.items():
        service, method = path.removeprefix("/").split("/")
        services.setdefault(service, {})[method] = method_handler
    return tuple(grpc.method_handlers_generic_handler(name, handlers) for name, handlers in services.items())


def _unary(path: str, handler: Handler, limit: float, peer_token: str | None, turns: Turns) -> Any:
    """A grpc.aio method that carries one call between grpcio and ``handler``, within ``limit`` seconds.

    A streaming method is a unary one that writes before it returns its last message: for the answers that are a single
    message, which most are, grpcio then sends all in one go.
    """
    streams = path == STREAM_TASK_JSON
    send_large = partial(_stream if streams else _whole, turns)

    async def behave(_: Any, context: Any) -> bytes:
        try:
            message, left = await _only_message(context, limit)
        except Refused as refused:
            await _refuse(context, refused)
            raise  # never reached: abort raises
        call = _call(path, context, left, peer_token)
        call.copies = 0 if streams else _COPIES
        try:
            return await _answer(handler, call, message, context, send_large)
        except ReaderTooSlow:
            end = partial(_give_up, call, context, limit + _PARKED_SECONDS)
        except TaskgateError as error:
            trailers = _identity(call) + _trailers(error)
            end = partial(context.abort, _STATUS_CODES[error.status.grpc_code], error.message, trailers)
        except BaseException:
            _release(call)
            raise
        # No traceback keeps any more what its frames have read, and the event loop nothing once it has had a turn.
        try:
            await asyncio.sleep(0)
        finally:
            _release(call)
        await end()
        return b""

    return grpc.stream_unary_rpc_method_handler(behave)


def _check(service: health.Health, limit: float) -> Any:
    async def behave(_: Any, context: Any) -> bytes:
        message, _left = await _only_message(context, limit)
        return await service.check(message)

    return grpc.stream_unary_rpc_method_handler(_refusing(behave))


def _watch(service: health.Health, limit: float) -> Any:
    """A watch may last; only its one message has to come within ``limit`` seconds."""

    async def behave(_: Any, context: Any) -> None:
        message, _left = await _only_message(context, limit)
        async for response in service.watch(message):
            await context.write(response)

    return grpc.stream_stream_rpc_method_handler(_refusing(behave))


def _reflect(described: reflection.Reflection, limit: float) -> Any:
    """A stream of questions, ended after ``limit`` seconds; tools open another one."""

    async def behave(_: Any, context: Any) -> None:
        try:
            async with asyncio.timeout(limit):
                async for response in described.info(_messages(context)):
                    await context.write(response)
        except TimeoutError:
            raise late_request(limit) from None

    return grpc.stream_stream_rpc_method_handler(_refusing(behave))


def _refusing(behave: _Behaviour) -> _Behaviour:
    """``behave`` with its ``Refused`` turned into a status, and all else that it raises into INTERNAL and the log."""

    async def refusing(requests: Any, context: Any) -> Any:
        try:
            return await behave(requests, context)
        except Refused as refused:
            await _refuse(context, refused)
        except Exception:  # noqa: BLE001 - grpcio would show its class and text to the client
            structlog.get_logger("taskgate.server").exception("a request could not be answered")
            await _refuse(context, Refused("INTERNAL", "Internal error; the server's log has it"))

    return refusing


async def _only_message(context: Any, limit: float) -> tuple[bytes, float]:
    """The one message of a request and the seconds that are left of ``limit``. Raises Refused if there is none in time.

    grpcio does not tell a request without a message from one that ends within its message or has an unknown flag before
    it; of the latter it hands some on as an empty message. What comes after the first message is not read.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - grpc.aio runs each call in a task
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = loop.call_later(limit, expire)  # asyncio.timeout, for an eighth of its time
    try:
        message = await context.read()
    except asyncio.CancelledError:
        if expired and task.uncancel() == 0:
            raise late_request(limit) from None
        raise
    finally:
        timer.cancel()
    if message is grpc.aio.EOF:
        raise no_whole_message()
    return message, timer.when() - loop.time()


async def _messages(context: Any) -> AsyncIterator[bytes]:
    """Each message of a streaming request."""
    while (message := await context.read()) is not grpc.aio.EOF:
        yield message


async def _refuse(context: Any, refused: Refused) -> None:
    await context.abort(_STATUS_CODES[refused.code], refused.message)


def _call(path: str, context: Any, left: float, peer_token: str | None) -> Call:
    """The call that ``context`` is of, to be answered within ``left`` seconds, or as long as its caller waits."""
    metadata = dict(context.invocation_metadata())
    remaining = context.time_remaining()
    timeout = left if remaining is None else min(left, remaining)
    call = Call(path, usable_request_id(metadata.get(REQUEST_ID_HEADER)), timeout)
    call.peer = _peer(metadata.get(PEER_HEADER), peer_token, context)
    return call


async def _answer(
    handler: Handler,
    call: Call,
    message: bytes,
    context: Any,
    send_large: Callable[[Call, LargeAnswer, Any], Awaitable[bytes]],
) -> bytes:
    """Send all of the answer but its last message, which is returned."""
    response = await handler(call, message)
    context.set_trailing_metadata(_identity(call))
    return await send_large(call, response, context) if isinstance(response, LargeAnswer) else response


def _identity(call: Call) -> tuple[tuple[str, str], ...]:
    return ((REQUEST_ID_HEADER, call.request_id),)


async def _whole(turns: Turns, call: Call, answer: LargeAnswer, _: Any) -> bytes:
    """The message of a unary answer.

    Its room is given back when the call is over, at the latest when the reader is too slow: gRPC has all of it at once,
    so that only the whole can be late.
    """
    await turns.take()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - grpc.aio runs each call in a task

    def give_up() -> None:
        structlog.get_logger("taskgate.server").warning(_TOO_SLOW, request_id=call.request_id)
        end_call(task)

    late = loop.call_later(longest_seconds(len(answer.payload)), give_up)

    def over(_task: object) -> None:
        late.cancel()
        _release(call)

    task.add_done_callback(over)  # one of the context would keep the call alive
    return b"".join(answer)


async def _stream(turns: Turns, call: Call, answer: LargeAnswer, context: Any) -> bytes:
    """Write all parts of the document but the last, which is returned."""
    document = answer.payload
    length = ((LENGTH_HEADER, str(len(document))),)  # a REST answer in parts would have none
    await context.send_initial_metadata(length)
    await context.write(body_part(b"", first=True))
    end = max(len(document) - PART_BYTES, 0)  # what was read was large, its document may be small

    async def write(part: bytes) -> None:
        await context.write(body_part(part, first=False))

    await send_in_parts(write, document, end, turns)
    _release(call)
    return body_part(document[end:], first=False)


async def _give_up(call: Call, context: Any, seconds: float) -> None:
    """End a call whose reader is too slow: in Envoy's way, which resets it within ``seconds``, else with a status."""
    structlog.get_logger("taskgate.server").warning(_TOO_SLOW, request_id=call.request_id)
    await asyncio.sleep(seconds)  # a status would be queued behind what it does not read
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - grpc.aio runs each call in a task
    unread = asyncio.get_running_loop().call_later(GRACE_SECONDS, end_call, task)
    task.add_done_callback(lambda _: unread.cancel())
    try:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "The answer was read too slowly")
    except grpc.aio.InternalError:  # the caller has gone, and grpcio would log that with a traceback
        return


def _give_memory_back() -> None:
    """Now, and again when gRPC's threads have freed what is left of calls that were broken off."""
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, trim_heap)
    loop.call_later(_TRIM_AGAIN_SECONDS, loop.run_in_executor, None, trim_heap)


def _release(call: Call) -> None:
    if call.room is not None:
        call.room.release()


def _trailers(error: TaskgateError) -> tuple[tuple[str, str | bytes], ...]:
    details = ("grpc-status-details-bin", status_details(error))
    if error.status.retry_after is None:
        return (details,)
    return (details, ("retry-after", str(error.status.retry_after)))  # REST callers get it as a header


def _peer(told: str | None, token: str | None, context: Any) -> Peer | None:
    """Who calls: as our Envoy says, else who connected."""
    if told is not None and token is not None and told.startswith(token):
        where = told[len(token) :].strip()
    else:  # ipv4:ADDRESS:PORT
        where = context.peer().partition(":")[2]
    address, _, port = where.rpartition(":")
    return (address, int(port)) if port.isdigit() else None

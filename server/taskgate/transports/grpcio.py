"""gRPC over grpc.aio: the portable server, and the one to run without Envoy.

Handlers take and give raw bytes: decoding belongs to the endpoints, where a malformed request gets our error and not
grpcio's "Exception deserializing request!", and a document of megabytes is not copied through a message object.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from taskgate.addresses import Address, check_port_free
from taskgate.calls import REQUEST_ID_HEADER, Call, Handler, build_handlers, usable_request_id
from taskgate.document import MAX_MESSAGE_BYTES
from taskgate.endpoints import HEALTH_SERVICES, SERVICE, build_endpoints
from taskgate.errors import SettingsError, TaskgateError
from taskgate.file_limit import connections_within, raise_file_limit
from taskgate.logs import flush_logs
from taskgate.readiness import watch_store
from taskgate.service import TaskService
from taskgate.settings import Settings
from taskgate.stores import files_of
from taskgate.stores.base import TaskStore
from taskgate.transports.error_details import status_details

_FILES = 48
"""Files that a server has open beside connections and its store: 22 of its own, and those of large conversions."""

_STATUS_CODES = {code.name: code for code in grpc.StatusCode}


class GrpcServer:
    """One grpc.aio server over one store: TaskService, health and reflection.

    Use as ``await start()``, then ``await stop()``; a server is not started twice.
    """

    def __init__(self, settings: Settings, store: TaskStore, *, share_port: bool = False) -> None:
        """``share_port`` lets other processes listen on the same port (SO_REUSEPORT)."""
        self._settings = settings
        self._store = store
        self._service = TaskService(store, settings.task_id_format, layout=settings.layout)
        self._share_port = share_port
        # Of several processes on a port, the one that starts them warns.
        connections = most_connections(settings, warn=not share_port)
        self._server = grpc.aio.server(options=_options(share_port=share_port, connections=connections))
        self._health = health.aio.HealthServicer()
        self._watch: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("taskgate.server")

    async def start(self) -> Address:
        """Listen, and report NOT_SERVING until the store answers.

        Returns the address with the port that was bound. Raises SettingsError if the port is taken.
        """
        address = self._settings.grpc
        if not self._share_port:
            check_port_free(address, key="grpc")
        handlers = build_handlers(build_endpoints(self._service), request_timeout=self._settings.request_timeout)
        self._server.add_generic_rpc_handlers(_generic_handlers(handlers))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        await self._report_health(False)
        try:
            port = self._server.add_insecure_port(str(address))
        except RuntimeError as error:
            raise SettingsError(f"grpc: cannot listen on {address}") from error
        await self._server.start()
        self._watch = asyncio.create_task(watch_store(self._store, self._report_health))
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
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._settings.drain_delay)
        await self._server.stop(self._settings.shutdown_grace)
        await self._service.close()
        await self._store.close()
        flush_logs()
        self._log.info("stopped")

    async def _report_health(self, answers: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if answers else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in HEALTH_SERVICES:
            await self._health.set(name, status)


def most_connections(settings: Settings, *, warn: bool) -> int:
    """How many connections one server takes, by this process's limit of open files; see ``connections_within``."""
    return connections_within(raise_file_limit(), others=_FILES + files_of(settings.store), warn=warn)


def _options(*, share_port: bool, connections: int) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.so_reuseport", int(share_port)),
        ("grpc.max_allowed_incoming_connections", connections),
        # gRPC's default. Not the 64 KiB that the other transport takes: with those, grpcio 1.85 leaves even more of the
        # calls whose message begins with an unknown flag without any answer. With any limit some have none before
        # their deadline.
        ("grpc.max_receive_message_length", 4 * 1024 * 1024),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # An 8 KB path arrives from Envoy twice, as task ID and as metadata; by default gRPC drops such calls at random.
        ("grpc.max_metadata_size", 64 * 1024),
        ("grpc.absolute_max_metadata_size", 96 * 1024),
        # Calls that wait to be taken up, counting those that their callers cancelled meanwhile. From the first number
        # on gRPC answers CANCELLED at random, to callers that did no such thing; by default from a thousand on.
        ("grpc.server.max_pending_requests", 10_000),
        ("grpc.server.max_pending_requests_hard_limit", 20_000),
        # Clients may ping an idle connection every 10 s; the default of 5 minutes cuts off common keepalive settings.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    )


def _generic_handlers(handlers: Mapping[str, Handler]) -> tuple[Any, ...]:
    """The grpcio handlers for every path, grouped by service."""
    services: dict[str, dict[str, Any]] = {}
    for path, handler in handlers.items():
        service, method = path.removeprefix("/").split("/")
        services.setdefault(service, {})[method] = grpc.unary_unary_rpc_method_handler(_unary(path, handler))
    return tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())


def _unary(path: str, handler: Handler) -> Any:
    """A grpc.aio behaviour that carries one call between grpcio and ``handler``."""

    async def behave(request: bytes, context: Any) -> bytes:
        metadata = dict(context.invocation_metadata())
        call = Call(path, usable_request_id(metadata.get(REQUEST_ID_HEADER)), context.time_remaining())
        identity = ((REQUEST_ID_HEADER, call.request_id),)
        try:
            response = await handler(call, request)
        except TaskgateError as error:
            code = _STATUS_CODES[error.status.grpc_code]
            details = (("grpc-status-details-bin", status_details(error)),)
            await context.abort(code, error.message, trailing_metadata=identity + details)
            raise  # never reached: abort raises
        context.set_trailing_metadata(identity)
        return response

    return behave

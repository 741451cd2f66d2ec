"""Run the gRPC server without Envoy, from opening the store to the last drained call."""

import asyncio
from collections.abc import Callable

from taskgate.base.addresses import Address
from taskgate.base.gc_freeze import freeze_startup_objects, return_large_blocks
from taskgate.base.settings import Settings
from taskgate.processes.signals import stop_on_signals
from taskgate.stores import open_store
from taskgate.telemetry.optional import open_tracing
from taskgate.telemetry.server import ServerMeter
from taskgate.transports.grpcio import GrpcServer


async def serve(
    settings: Settings,
    *,
    share_port: bool = False,
    peer_token: str | None = None,
    private_socket: str | None = None,
    meter: ServerMeter | None = None,
    replacement: bool = False,
    announce: Callable[[Address], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or ``stop``; then drain.

    ``announce`` is called with the address once the port is bound. ``share_port``, ``peer_token``,
    ``private_socket``, ``meter`` and ``replacement`` are passed to ``GrpcServer``. Raises SettingsError if the port is
    taken, the store URL is not supported or a file for TLS cannot be used.
    """
    return_large_blocks()
    stop = stop or asyncio.Event()
    stop_on_signals(stop)
    server = GrpcServer(
        settings,
        open_store(settings.store, settings.layout),
        share_port=share_port,
        peer_token=peer_token,
        private_socket=private_socket,
        meter=meter,
        tracing=open_tracing(settings),
        replacement=replacement,
    )
    announce(await server.start())
    freeze_startup_objects()
    await stop.wait()
    await server.stop()

"""``taskgate serve``: run the gRPC server without Envoy, in this process or in several."""

import asyncio
from contextlib import AsyncExitStack

from taskgate.base.settings import Settings
from taskgate.commands.checks import check_settings
from taskgate.commands.exposure import warn_unauthenticated
from taskgate.commands.node_metrics import node_metrics
from taskgate.processes.grpc_server import serve
from taskgate.processes.signals import event_loop_runner, stop_on_signals
from taskgate.processes.worker_pool import WorkerPool
from taskgate.telemetry.server import ServerMeter
from taskgate.transports.counting import METHODS
from taskgate.transports.grpcio import most_connections


def run_serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then drain. Raises SettingsError if it cannot start."""
    check_settings(settings, grpc=settings.grpc)
    event_loop_runner()(_serve(settings) if settings.workers == 1 else _supervise(settings))


async def _serve(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        node = node_metrics(settings, stack, mode="serve")
        meter = None if node is None else ServerMeter(node.ledger.open().descriptor, METHODS)
        await serve(settings, meter=meter, announce=lambda _: _warn(settings))


async def _supervise(settings: Settings) -> None:
    from taskgate.processes.published_certificates import publish_certificates  # noqa: PLC0415 - loads what runs Envoy

    stop = asyncio.Event()
    most_connections(settings, warn=True)
    grace = settings.drain_delay + settings.shutdown_grace + 1
    async with AsyncExitStack() as stack:
        certificates = publish_certificates(settings, stack)
        of_workers = settings if certificates is None else certificates.settings(settings)
        node = node_metrics(settings, stack, mode="serve")
        open_block = None if node is None else node.ledger.open
        pool = WorkerPool(of_workers, [settings.grpc], per_address=settings.workers, grace=grace, open_block=open_block)
        if node is not None:
            node.watch("worker", pool)
        stop_on_signals(stop, lambda: None if certificates is None else certificates.remove())
        stack.push_async_callback(pool.stop, grace)
        await pool.start()
        if certificates is not None:
            certificates.start()
        _warn(settings)
        await stop.wait()


def _warn(settings: Settings) -> None:
    warn_unauthenticated(settings, grpc=settings.grpc)

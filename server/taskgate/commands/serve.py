"""``taskgate serve``: run the gRPC server without Envoy, in this process or in several."""

import asyncio

from taskgate.base.logs import warn_unauthenticated
from taskgate.base.settings import Settings
from taskgate.processes.grpc_server import serve
from taskgate.processes.signals import event_loop_runner, stop_on_signals
from taskgate.processes.worker_pool import WorkerPool
from taskgate.stores import check_store
from taskgate.transports.grpcio import most_connections


def run_serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then drain. Raises SettingsError if it cannot start."""
    check_store(settings.store, settings.layout)
    run = event_loop_runner()
    run(serve(settings, announce=lambda _: warn_unauthenticated()) if settings.workers == 1 else _supervise(settings))


async def _supervise(settings: Settings) -> None:
    stop = asyncio.Event()
    most_connections(settings, warn=True)
    grace = settings.drain_delay + settings.shutdown_grace + 1
    pool = WorkerPool(settings, [settings.grpc], per_address=settings.workers, grace=grace)
    stop_on_signals(stop)
    try:
        await pool.start()
        warn_unauthenticated()
        await stop.wait()
    finally:
        await pool.stop(grace)

"""``taskgate up``: start store, service and Envoy on one machine, keep them running, and drain them in order."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import click
import structlog

from taskgate.base.addresses import Address
from taskgate.base.errors import SettingsError
from taskgate.base.file_limit import MAX_CONNECTIONS, connections_within, raise_file_limit
from taskgate.base.layout import Layout
from taskgate.base.logs import warn_unauthenticated
from taskgate.base.settings import Settings
from taskgate.documents.document import minify
from taskgate.processes.envoy import EnvoyProcess, GatewaySettings, resolve
from taskgate.processes.envoy.configuration import CONNECTIONS_TO_SERVERS
from taskgate.processes.envoy.embedded import unsupported_reason
from taskgate.processes.envoy_pool import EnvoyPool
from taskgate.processes.signals import event_loop_runner, stop_on_signals
from taskgate.processes.supervisor import Supervisor
from taskgate.processes.worker_pool import WorkerPool, consecutive_addresses
from taskgate.stores import check_store, is_embedded, open_writer
from taskgate.stores.base import StoredTask

DEMO_TASK_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7fe"
"""The task that Conductor's own documentation shows; ``--demo`` loads it."""

_STOP_MARGIN = 1.0
"""Seconds that a process may need beyond its grace before it is killed."""

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound


def run_up(settings: Settings, *, demo: bool) -> None:
    """Run everything until SIGINT or SIGTERM, then drain. Raises SettingsError or TaskgateError if it cannot start."""
    signal.signal(signal.SIGHUP, lambda *_: None)  # ignored during start-up; by default it would end the process
    check_store(settings.store, settings.layout)
    settings = with_possible_mode(settings)
    if settings.mode == "embedded":
        prepare_store(settings, demo=demo)
        event_loop_runner()(_up_embedded(settings, demo=demo))
    else:
        addresses = consecutive_addresses(settings.grpc, settings.workers)
        resolve(settings.http.host)  # fails early: Envoy is started last
        prepare_store(settings, demo=demo)
        event_loop_runner()(_up_proxied(settings, addresses, demo=demo))


def with_possible_mode(settings: Settings) -> Settings:
    """Return ``settings``, changed to mode proxied with a warning if Python cannot run inside Envoy."""
    if settings.mode == "embedded" and (reason := unsupported_reason()) is not None:
        structlog.get_logger("taskgate.up").warning(
            f"running with --mode proxied, because {reason}; each call will need several times as much CPU"
        )
        return settings.model_copy(update={"mode": "proxied"})
    return settings


def prepare_store(settings: Settings, *, demo: bool) -> None:
    """Create the store if it is taskgate's own file; with ``demo``, write the documented task into it.

    Raises SettingsError for ``demo`` on Conductor's own database, which is only read.
    """
    if not demo and (settings.layout is Layout.CONDUCTOR or not is_embedded(settings.store)):
        return  # the user of a database server may have no right to write
    if settings.layout is Layout.CONDUCTOR:
        raise SettingsError("layout: Conductor's own database is only read; --demo needs a store of layout taskgate")
    with open_writer(settings.store, settings.layout) as writer:
        if demo:
            writer.write([demo_task()])


async def _up_embedded(settings: Settings, *, demo: bool) -> None:
    """Run processes that are Envoy and server in one.

    To stop, they fail health checks, keep serving for ``drain_delay`` seconds, close their listeners and finish the
    calls in flight.
    """
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        pool = EnvoyPool(settings, gateway_settings(settings, []))
        stop_on_signals(stop, pool.abandon)
        stack.push_async_callback(pool.stop, settings.shutdown_grace)
        await pool.start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, pool.restart)
        warn_unauthenticated()
        click.echo(banner(pool.http, [pool.grpc], demo=demo))
        await stop.wait()
        structlog.get_logger("taskgate.up").info("draining", seconds=settings.drain_delay)
        await pool.drain(settings.drain_delay)


async def _up_proxied(settings: Settings, addresses: list[Address], *, demo: bool) -> None:
    """Run gRPC servers, and one Envoy in front of them, which is started last and stopped first.

    1. Envoy fails health checks, keeps serving for ``drain_delay`` seconds, and lets calls in flight finish.
    2. Envoy ends.
    3. The workers have no callers any more. They drain and close the store.
    """
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        # Workers need no drain delay: their only caller is this Envoy, which has waited for the load balancers.
        grace = settings.shutdown_grace + _STOP_MARGIN
        pool = WorkerPool(settings.model_copy(update={"drain_delay": 0.0}), addresses, grace=grace)
        gateway = gateway_settings(settings, pool.addresses)
        connections = connections_of_envoy(settings)
        envoy = EnvoyProcess(replace(gateway, max_connections=connections, peer_token=pool.peer_token))
        envoy_supervisor = Supervisor([lambda: envoy], name="Envoy", grace=settings.shutdown_grace)

        def abandon() -> None:
            envoy_supervisor.abandon()
            pool.abandon()

        stop_on_signals(stop, abandon)
        stack.push_async_callback(pool.stop, grace)
        await pool.start()
        stack.push_async_callback(envoy_supervisor.stop, settings.shutdown_grace)
        await envoy_supervisor.start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, pool.restart)
        warn_unauthenticated()
        assert envoy.address is not None  # noqa: S101 - known once started
        click.echo(banner(envoy.address, pool.addresses, demo=demo))
        await stop.wait()
        structlog.get_logger("taskgate.up").info("draining", seconds=settings.drain_delay)
        await envoy_supervisor.drain(settings.drain_delay)


def connections_of_envoy(settings: Settings) -> int:
    """Return how many client connections an Envoy in front of servers may accept.

    A connection full of calls takes further connections to the servers, which need files in both processes. Raises
    SettingsError if the limit of open files leaves room for too few.
    """
    from taskgate.transports.grpcio import most_connections  # noqa: PLC0415 - mode embedded runs without grpcio

    others = files_of_envoy(settings.workers)
    connections = connections_within(raise_file_limit(), others=others, each=1 + CONNECTIONS_TO_SERVERS)
    server = most_connections(settings, warn=False)
    return connections if server == MAX_CONNECTIONS else min(connections, server // CONNECTIONS_TO_SERVERS)


def files_of_envoy(servers: int) -> int:
    """Upper bound of the files that Envoy, with a thread for each CPU, has open beside client connections.

    Measured with two threads: 34.
    """
    threads = os.cpu_count() or 1
    return 48 + threads * (8 + 2 * servers) + servers  # two connections of each thread to each server, health checks


def gateway_settings(settings: Settings, upstreams: list[Address]) -> GatewaySettings:
    """Derive Envoy's settings from ``settings``; ``upstreams`` are the gRPC servers behind it."""
    return GatewaySettings(
        listen=settings.http,
        upstreams=tuple(upstreams),
        instance=settings.instance,
        request_timeout=settings.request_timeout,
        access_log=access_log(settings.access_log),
    )


def access_log(target: str) -> str:
    """Make a file name absolute: Envoy may run in another directory."""
    return str(Path(target).absolute()) if target not in {"", "stdout"} else target


def demo_task() -> StoredTask:
    """The documented sample task, as an import would store it."""
    document = minify(files("taskgate").joinpath("demo/task.json").read_bytes())
    return StoredTask(task_id=DEMO_TASK_ID, update_time=1770621022078, document=document)


def banner(listening: Address, direct: list[Address], *, demo: bool) -> str:
    """The text that tells the user where everything listens; each address can be pasted into a client."""
    base = f"http://{reachable(listening)}"
    try_this = f"curl {base}/api/tasks/{DEMO_TASK_ID}" if demo else f"curl {base}/healthz"
    return "\n".join(
        (
            "",
            "taskgate is up.",
            f"  REST  {base}/api/tasks/{{taskId}}",
            f"  gRPC  {reachable(listening)} through Envoy; {', '.join(map(str, map(reachable, direct)))} direct",
            "",
            "Try:",
            f"  {try_this}",
            "",
            "Ctrl-C drains and stops.",
        )
    )


def reachable(address: Address) -> Address:
    """The address at which a client on this machine reaches a server that listens on ``address``."""
    return Address(_WILDCARDS.get(address.host, address.host), address.port)

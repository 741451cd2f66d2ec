"""Run taskgate and the other measured servers, on free loopback ports, one process each."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
    """A running server. ``http`` and ``grpc`` are HOST:PORT, empty if it has no such door.

    ``databases`` are the separate databases that it asks.
    """

    process: ServerProcess
    http: str = ""
    grpc: str = ""
    databases: Sequence[ServerProcess] = ()


Starter = Callable[[Site], Server]
"""Starts a server, which may not answer yet. Raises Missing if it is not available here."""

BEHIND = ("--mode", "proxied")
"""The options that put taskgate behind Envoy."""


def start_taskgate(site: Site, *options: str, store: str = "", databases: Sequence[ServerProcess] = ()) -> Server:
    """Start ``taskgate up``, one worker, inside Envoy or per ``options``. ``store``: a URL, not the site's file."""
    if "proxied" not in options and (reason := unsupported_reason()) is not None:
        raise Missing(f"Python cannot run inside Envoy here: {reason}")  # up would run behind Envoy instead
    http, grpc = free_address(), free_address()
    command = [
        *(sys.executable, "-m", "taskgate", "up", "--mode", "embedded", "--workers", "1"),
        *("--store", store or f"sqlite:///{site.database}", "--http", http, "--grpc", grpc, "--log-format", "json"),
        *("--drain-delay", "0.1", "--shutdown-grace", "1", *options),
    ]
    process = ServerProcess(command, site.folder / f"taskgate-{http.rpartition(':')[2]}.log")
    return Server(process, http, grpc, databases)


def start_behind(site: Site) -> Server:
    """Start ``taskgate up`` as one grpc.aio process behind an Envoy."""
    return start_taskgate(site, *BEHIND)


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

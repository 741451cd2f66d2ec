"""Redis servers: one, one that Sentinel names, and several that are a cluster."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hiredis

from bench.databases.base import Database, program_of
from bench.errors import BenchError
from bench.processes import ServerProcess, free_port
from tools.servers import REDIS

_PRIMARY_NAME = "tasks"
_SLOTS = 16384
_CLUSTER_SECONDS = 30.0
_SOCKET_SECONDS = 10.0


@contextmanager
def running_redis(folder: Path) -> Iterator[Database]:
    """One server, which writes nothing to disk."""
    with _redis(folder / "redis") as (port, process):
        yield Database(f"redis://127.0.0.1:{port}/0", [process])


@contextmanager
def running_redis_sentinel(folder: Path) -> Iterator[Database]:
    """The same with one Sentinel, who says where it is."""
    with _redis(folder / "redis-primary") as (primary, process):
        port, configuration = free_port(), folder / "sentinel.conf"  # which it writes to
        lines = (f"port {port}", "bind 127.0.0.1", f"sentinel monitor {_PRIMARY_NAME} 127.0.0.1 {primary} 1")
        configuration.write_text("\n".join(lines) + "\n")
        command = [program_of(REDIS), str(configuration), "--sentinel"]
        with ServerProcess(command, folder / "sentinel.log", folder=folder) as sentinel:
            sentinel.wait_until(lambda: ask_redis(port, "PING"))
            yield Database(f"redis+sentinel://127.0.0.1:{port}/{_PRIMARY_NAME}/0", [process, sentinel])


@contextmanager
def running_redis_cluster(folder: Path, masters: int = 3) -> Iterator[Database]:
    """A cluster of ``masters``, each with its share of the slots."""
    with ExitStack() as stack:
        nodes = []
        for number in range(masters):
            bus = free_port()
            port, process = stack.enter_context(
                _redis(folder / f"redis-{number}", "--cluster-enabled", "yes", "--cluster-port", str(bus))
            )
            nodes.append((port, bus, process))
        first, bus, process = nodes[0]
        bounds = [number * _SLOTS // masters for number in range(masters + 1)]
        for number, (port, *_) in enumerate(nodes):
            ask_redis(port, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            ask_redis(port, "CLUSTER", "ADDSLOTSRANGE", str(bounds[number]), str(bounds[number + 1] - 1))
            ask_redis(port, "CLUSTER", "MEET", "127.0.0.1", str(first), str(bus))
        for port, *_ in nodes:
            process.wait_until(lambda port=port: _see_whole(port, masters), seconds=_CLUSTER_SECONDS)  # type: ignore[misc]
        hosts = ",".join(f"127.0.0.1:{port}" for port, *_ in nodes)
        yield Database(f"redis+cluster://{hosts}", [process for *_, process in nodes])


@contextmanager
def _redis(folder: Path, *options: str) -> Iterator[tuple[int, ServerProcess]]:
    program = program_of(REDIS)
    folder.mkdir()
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options]
    with ServerProcess(command, folder / "log", folder=folder) as process:
        process.wait_until(lambda: ask_redis(port, "PING"))
        yield port, process


def ask_redis(port: int, *command: str) -> Any:
    """The answer to one command, on a connection of its own. Raises BenchError."""
    replies = hiredis.Reader()
    try:
        with socket.create_connection(("127.0.0.1", port), _SOCKET_SECONDS) as connection:
            connection.sendall(hiredis.pack_command(command))  # type: ignore[arg-type] # its stub: any number of them
            while (reply := replies.gets()) is False:
                replies.feed(connection.recv(1 << 16) or _ended())
    except OSError as error:
        raise BenchError(f"Redis on port {port}: {error}") from error
    if isinstance(reply, hiredis.ReplyError):
        raise BenchError(f"Redis on port {port}: {reply}")
    return reply


def _ended() -> bytes:
    raise ConnectionError("it ends the connection")


def _see_whole(port: int, masters: int) -> None:
    """Raise BenchError unless the node says that the cluster is complete."""
    state = ask_redis(port, "CLUSTER", "INFO").decode()
    if "cluster_state:ok" not in state or f"cluster_known_nodes:{masters}" not in state:
        raise BenchError(f"the Redis Cluster does not become complete: {state}")

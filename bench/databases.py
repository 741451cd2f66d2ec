"""Databases for a benchmark: each started empty on free loopback ports, and gone at the end with all it had."""

import asyncio
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import hiredis

from bench.errors import BenchError, PeerMissing
from bench.processes import ServerProcess, free_port
from tools.postgresql_programs import Programs
from tools.servers import REDIS, Missing, find

USER = "postgres"

_SLOTS = 16384
_CLUSTER_SECONDS = 30.0
_SOCKET_SECONDS = 10.0

_CONDUCTORS_TABLE = """
CREATE TABLE task (
    created_on timestamp DEFAULT CURRENT_TIMESTAMP, modified_on timestamp DEFAULT CURRENT_TIMESTAMP,
    task_id varchar(255) NOT NULL PRIMARY KEY, json_data text NOT NULL
)
"""
"""As Conductor's own migrations leave it (its PostgreSQL module; contract section 3.1)."""


@dataclass(frozen=True, slots=True)
class Database:
    """What answers under ``url``, which taskgate's ``--store`` takes, and the processes that do."""

    url: str
    processes: Sequence[ServerProcess]


@contextmanager
def running_postgresql() -> Iterator[Database]:
    """A server as installed. Not in the folder of the others, which the user it runs as may not enter."""
    with tempfile.TemporaryDirectory(prefix="bench-postgresql-") as name:
        folder, port = Path(name), free_port()
        programs, data = Programs(folder), folder / "data"
        data.mkdir(mode=0o700)
        programs.give(data)
        programs.run(
            *("initdb", f"--pgdata={data}", f"--username={USER}", "--auth=trust", "--encoding=UTF8", "--locale=C"),
            *("--no-sync", "--no-instructions"),
        )
        settings = ("--listen_addresses=127.0.0.1", f"--port={port}", "--unix_socket_directories=")
        url = f"postgresql://{USER}@127.0.0.1:{port}/{USER}"
        command = programs.command("postgres", "-D", str(data), *settings)
        with ServerProcess(command, folder / "log", folder=folder) as process:
            process.wait_until(lambda: execute(url, "SELECT 1"))
            yield Database(url, [process])


def add_conductors_database(server: Database, rows: Mapping[str, str]) -> Database:
    """One more database of a PostgreSQL ``server``, with ``rows`` by ID in a table as Conductor makes it."""
    execute(server.url, "CREATE DATABASE conductor")
    url = server.url.removesuffix(f"/{USER}") + "/conductor"
    execute(url, _CONDUCTORS_TABLE)
    execute(url, "INSERT INTO task (task_id, json_data) VALUES ($1, $2)", list(rows.items()))
    execute(url, "VACUUM ANALYZE task")
    return Database(url, server.processes)


def execute(url: str, statement: str, rows: Sequence[tuple[str, str]] = ()) -> None:
    """One statement, once or for each of ``rows``. Raises BenchError."""

    async def run() -> None:
        connection = await asyncpg.connect(url, timeout=_SOCKET_SECONDS)
        try:
            await (connection.executemany(statement, rows) if rows else connection.execute(statement))
        finally:
            await connection.close()

    try:
        asyncio.run(run())
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise BenchError(f"PostgreSQL: {error}") from error


@contextmanager
def running_redis(folder: Path) -> Iterator[Database]:
    """One server, which writes nothing to disk."""
    with _redis(folder / "redis") as (port, process):
        yield Database(f"redis://127.0.0.1:{port}/0", [process])


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
    try:
        program = find(REDIS)
    except Missing as reason:
        raise PeerMissing(str(reason)) from reason
    folder.mkdir()
    port = free_port()
    command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options]
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

"""Run databases with default settings, for the benchmark and a real Conductor: on free loopback ports, removed after.

``tests/support`` has the databases that tests freeze, replicate and give certificates.
"""

import asyncio
import os
import socket
import sqlite3
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pymysql
import redis
from cassandra import DriverException
from cassandra.cluster import Cluster, NoHostAvailable
from cassandra.concurrent import execute_concurrent_with_args

from tools import cassandra_programs, mariadb_server, mysql_server
from tools.postgresql_programs import Programs
from tools.processes import Failed, ServerProcess, free_port
from tools.servers import PGBOUNCER, REDIS, find


@dataclass(frozen=True, slots=True)
class Database:
    """URLs for taskgate's ``--store``, and the processes that serve them.

    ``url`` is an empty database for an import; ``conductors`` holds rows in Conductor's own layout. Either is "" if the
    database does not have it.
    """

    url: str
    processes: Sequence[ServerProcess] = ()
    conductors: str = ""


Running = Callable[[Path, Mapping[str, str]], AbstractContextManager[Database]]
"""Starts a database in a folder, with Conductor's rows by ID. Raises Missing if it is not available here, or Failed.

Tables are as Conductor's own migrations leave them, as far as finding a task depends on them.
"""


@contextmanager
def running_sqlite(folder: Path, rows: Mapping[str, str]) -> Iterator[Database]:
    """Make two files; no process runs."""
    conductors = folder / "conductor.db"
    with closing(sqlite3.connect(conductors)) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data TEXT NOT NULL)")
        database.executemany("INSERT INTO task VALUES (?, ?)", rows.items())
    yield Database(f"sqlite:///{folder / 'tasks.db'}", (), f"sqlite:///{conductors}")


@contextmanager
def running_postgresql(_: Path, rows: Mapping[str, str]) -> Iterator[Database]:
    """Start a server with default settings, in a folder of its own: its user may not enter that of the others."""
    with tempfile.TemporaryDirectory(prefix="bench-postgresql-") as name:
        folder, port = Path(name), free_port()
        programs, data = Programs(folder), folder / "data"
        data.mkdir(mode=0o700)
        programs.give(data)
        try:
            programs.run("initdb", f"--pgdata={data}", "--username=postgres", "--auth=trust", "--no-sync")
        except (OSError, subprocess.CalledProcessError) as error:
            raise Failed(f"PostgreSQL's initdb fails: {error}") from error
        settings = ("--listen_addresses=127.0.0.1", f"--port={port}", "--unix_socket_directories=")
        command = programs.command("postgres", "-D", str(data), *settings)
        url, conductors = (f"postgresql://postgres@127.0.0.1:{port}/{name}" for name in ("postgres", "conductor"))
        with ServerProcess(command, folder / "log", folder=folder) as process:
            process.wait_until(lambda: _postgresql(url, "CREATE DATABASE conductor"))
            _postgresql(conductors, "CREATE TABLE task (task_id varchar(255) PRIMARY KEY, json_data text NOT NULL)")
            _postgresql(conductors, "INSERT INTO task VALUES ($1, $2)", rows)
            _postgresql(conductors, "VACUUM ANALYZE task")
            yield Database(url, [process], conductors)


@contextmanager
def running_pgbouncer(own: Path, rows: Mapping[str, str], *, connections: int) -> Iterator[Database]:
    """Start PgBouncer in transaction mode, each statement on another of the ``connections``, with a server of its own.

    It uses a folder of its own too: it does not run as root.
    """
    program, port = find(PGBOUNCER), free_port()
    with running_postgresql(own, rows) as server, tempfile.TemporaryDirectory(prefix="bench-pgbouncer-") as name:
        folder, users, configuration = Path(name), Path(name, "users"), Path(name, "ini")
        folder.chmod(0o755)
        users.write_text('"postgres" ""\n')
        host, _, server_port = server.url.rpartition("@")[2].partition("/")[0].rpartition(":")
        lines = (
            *("[databases]", f"* = host={host} port={server_port}", "[pgbouncer]"),
            *("listen_addr = 127.0.0.1", f"listen_port = {port}", "unix_socket_dir =", "logfile ="),
            *("auth_type = trust", f"auth_file = {users}"),
            *("pool_mode = transaction", f"default_pool_size = {connections}"),
        )
        configuration.write_text("\n".join(lines) + "\n")
        as_nobody = ["--user=nobody"] if os.geteuid() == 0 else []
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        with ServerProcess([str(program), *as_nobody, str(configuration)], folder / "log", folder=folder) as process:
            process.wait_until(lambda: _postgresql(url, "SELECT 1"))
            yield Database(url, [process, *server.processes])


def _postgresql(url: str, statement: str, rows: Mapping[str, str] | None = None) -> None:
    """Run one statement, once or for each of ``rows``. Raises Failed."""

    async def run() -> None:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            await (connection.executemany(statement, rows.items()) if rows else connection.execute(statement))
        finally:
            await connection.close()

    try:
        asyncio.run(run())
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Failed(f"PostgreSQL: {error}") from error


_MYSQL_BEGIN = (
    *(f"CREATE DATABASE {name} CHARACTER SET utf8mb4;" for name in ("tasks", "conductor")),
    *("CREATE USER bench@'%' IDENTIFIED BY 'bench';", "GRANT ALL ON *.* TO bench@'%';"),
)
"""Create the two databases, and a user with all privileges."""


@contextmanager
def running_mariadb(folder: Path, rows: Mapping[str, str]) -> Iterator[Database]:
    """Start MariaDB with default settings."""
    command, data = mariadb_server.command(), folder / "data"
    data.mkdir()
    mariadb_server.make_data(command, data, *_MYSQL_BEGIN)
    with _running_either(folder, command, rows) as database:
        yield database


@contextmanager
def running_mysql(folder: Path, rows: Mapping[str, str]) -> Iterator[Database]:
    """Start MySQL itself as the tests run it: its buffers are larger than all of its data here."""
    program, data, statements = mysql_server.find_mysqld(), folder / "data", folder / "begin.sql"
    data.mkdir()
    statements.write_text("\n".join(_MYSQL_BEGIN))
    mysql_server.make_data(program, data, f"--init-file={statements}")
    with _running_either(folder, mysql_server.command(program), rows) as database:
        yield database


@contextmanager
def _running_either(folder: Path, command: list[str], rows: Mapping[str, str]) -> Iterator[Database]:
    port = free_port()
    settings = (f"--datadir={folder / 'data'}", f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve")
    with ServerProcess(
        [*command, *settings, f"--socket={folder / 'socket'}"], folder / "log", folder=folder
    ) as process:
        process.wait_until(lambda: _fill_mysql(port, rows))
        url, conductors = (f"mysql://bench:bench@127.0.0.1:{port}/{name}" for name in ("tasks", "conductor"))
        yield Database(url, [process], conductors)


def _fill_mysql(port: int, rows: Mapping[str, str]) -> None:
    """Raises Failed."""
    table = (
        "CREATE TABLE task (id int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,"
        " task_id varchar(255) NOT NULL UNIQUE, json_data mediumtext NOT NULL)"
    )
    try:
        login: dict[str, Any] = {"user": "bench", "password": "bench", "database": "conductor", "autocommit": True}
        with pymysql.connect(host="127.0.0.1", port=port, **login) as connection, connection.cursor() as cursor:
            cursor.execute(table)
            cursor.executemany("INSERT INTO task (task_id, json_data) VALUES (%s, %s)", list(rows.items()))
    except (OSError, pymysql.MySQLError) as error:
        raise Failed(f"MySQL or MariaDB: {error}") from error


@contextmanager
def running_redis(folder: Path, _: Mapping[str, str]) -> Iterator[Database]:
    """Start one server, which writes nothing to disk."""
    with _redis(folder) as (port, process):
        yield Database(f"redis://127.0.0.1:{port}/0", [process])


@contextmanager
def running_redis_sentinel(folder: Path, _: Mapping[str, str]) -> Iterator[Database]:
    """Start one server, and one Sentinel that names it."""
    with _redis(folder) as (primary, process):
        port, configuration = free_port(), folder / "sentinel.conf"  # Sentinel writes to it
        lines = (f"port {port}", "bind 127.0.0.1", f"sentinel monitor tasks 127.0.0.1 {primary} 1")
        configuration.write_text("\n".join(lines) + "\n")
        command = [str(find(REDIS)), str(configuration), "--sentinel"]
        with ServerProcess(command, folder / "sentinel.log", folder=folder) as sentinel:
            sentinel.wait_until(lambda: _ask_redis(port, "PING"))
            yield Database(f"redis+sentinel://127.0.0.1:{port}/tasks/0", [process, sentinel])


@contextmanager
def running_redis_cluster(folder: Path, _: Mapping[str, str]) -> Iterator[Database]:
    """Start a cluster of three nodes, each with its share of the slots."""
    bounds, buses = (0, 5461, 10923, 16384), [free_port() for _ in range(3)]
    with ExitStack() as stack:
        cluster = [("--cluster-enabled", "yes", "--cluster-port", str(bus)) for bus in buses]
        nodes = [stack.enter_context(_redis(folder / options[-1], *options)) for options in cluster]
        for number, (port, _process) in enumerate(nodes):
            _ask_redis(port, "CLUSTER SET-CONFIG-EPOCH", number + 1)
            _ask_redis(port, "CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            _ask_redis(port, "CLUSTER MEET", "127.0.0.1", nodes[0][0], buses[0])
        for port, process in nodes:
            process.wait_until(lambda port=port: _see_whole(port, len(nodes)))  # type: ignore[misc]
        hosts = ",".join(f"127.0.0.1:{port}" for port, _process in nodes)
        yield Database(f"redis+cluster://{hosts}", [process for _port, process in nodes])


@contextmanager
def _redis(folder: Path, *options: str) -> Iterator[tuple[int, ServerProcess]]:
    program, port = str(find(REDIS)), free_port()
    folder.mkdir(exist_ok=True)
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options]
    with ServerProcess(command, folder / "log", folder=folder) as process:
        process.wait_until(lambda: _ask_redis(port, "PING"))
        yield port, process


def _ask_redis(port: int, *command: str | int) -> Any:
    """Return the answer to one command, on a connection of its own. Raises Failed."""
    try:
        with redis.Redis(port=port, socket_timeout=10) as client:
            return client.execute_command(*command)
    except redis.RedisError as error:
        raise Failed(f"Redis on port {port}: {error}") from error


def _see_whole(port: int, nodes: int) -> None:
    """Raise Failed unless the node says that the cluster is complete."""
    state = _ask_redis(port, "CLUSTER INFO")
    if state["cluster_state"] != "ok" or int(state["cluster_known_nodes"]) != nodes:
        raise Failed(f"the Redis Cluster does not become complete: {state}")


@contextmanager
def running_cassandra(folder: Path, rows: Mapping[str, str]) -> Iterator[Database]:
    """Start a node with Conductor's keyspace alone, since only Conductor writes there."""
    port = free_port()
    command = cassandra_programs.command(folder, ("-Xms1g", "-Xmx1g"))
    cassandra_programs.configure(folder, port, free_port(), "127.0.0.1", {"cluster_name": "bench"})
    with ServerProcess(command, folder / "log", folder=folder) as process:
        process.wait_until(lambda: _listens(port), poll_seconds=0.5, seconds=120.0)
        _fill_cassandra(port, rows)
        yield Database("", [process], f"cassandra://127.0.0.1:{port}/conductor?local_dc=datacenter1")


def _listens(port: int) -> None:
    """Raise Failed unless the port accepts connections, which is the last step of a node's start."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError as error:
        raise Failed(f"Cassandra: {error}") from error


def _fill_cassandra(port: int, rows: Mapping[str, str]) -> None:
    """Write tasks as ``CassandraBaseDAO`` does, each in a workflow of its own. Raises Failed."""
    tables = (
        "CREATE KEYSPACE conductor WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "CREATE TABLE conductor.task_lookup (task_id uuid PRIMARY KEY, workflow_id uuid)",
        (
            "CREATE TABLE conductor.workflows (workflow_id uuid, shard_id int, entity text, task_id text, payload text,"
            " total_tasks int STATIC, total_partitions int STATIC,"
            " PRIMARY KEY ((workflow_id, shard_id), entity, task_id))"
        ),
    )
    task = (
        "INSERT INTO conductor.workflows (workflow_id, shard_id, entity, task_id, payload) VALUES (?, 1, 'task', ?, ?)"
    )
    lookup = "INSERT INTO conductor.task_lookup (task_id, workflow_id) VALUES (?, ?)"
    keys = {task_id: (uuid.UUID(task_id), uuid.uuid5(uuid.UUID(task_id), "workflow")) for task_id in rows}
    cluster = Cluster(["127.0.0.1"], port, protocol_version=4, compression=False, monitor_reporting_enabled=False)
    try:
        session = cluster.connect()
        session.default_timeout = 30.0
        for statement in tables:
            session.execute(statement)
        tasks = [(keys[task_id][1], task_id, row) for task_id, row in rows.items()]
        execute_concurrent_with_args(session, session.prepare(lookup), list(keys.values()))
        execute_concurrent_with_args(session, session.prepare(task), tasks)
    except (DriverException, NoHostAvailable) as error:
        raise Failed(f"Cassandra: {error}") from error
    finally:
        cluster.shutdown()

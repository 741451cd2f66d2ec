"""One node of Cassandra with tasks as Conductor writes them, and its Java warmed up."""

import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from cassandra import DriverException
from cassandra.cluster import Cluster, NoHostAvailable
from cassandra.concurrent import execute_concurrent_with_args

from bench.databases.base import Database
from bench.errors import BenchError, PeerMissing
from bench.processes import ServerProcess, free_port
from tools import cassandra_programs
from tools.servers import Missing

KEYSPACE = "conductor"

_START_SECONDS = 120.0
_STATEMENT_SECONDS = 30.0

_MEMORY = ("-Xms1g", "-Xmx1g")

_WARM_UP_READS = 30_000
"""After 10,000 a read still takes Java twice the CPU that it takes later."""

_KEYSPACE = f"CREATE KEYSPACE {KEYSPACE} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
_TABLES = (
    "CREATE TABLE task_lookup (task_id uuid PRIMARY KEY, workflow_id uuid)",
    (
        "CREATE TABLE workflows (workflow_id uuid, shard_id int, entity text, task_id text, payload text,"
        " total_tasks int STATIC, total_partitions int STATIC,"
        " PRIMARY KEY ((workflow_id, shard_id), entity, task_id))"
    ),
)
"""As Conductor makes them at its start (``CassandraBaseDAO``)."""


@contextmanager
def running_cassandra(folder: Path, rows: Mapping[str, str]) -> Iterator[Database]:
    """A node that holds ``rows`` by ID, each the task of a workflow of its own. Raises PeerMissing."""
    own, port = folder / "cassandra", free_port()
    try:
        command = cassandra_programs.command(own, _MEMORY)
    except Missing as reason:
        raise PeerMissing(str(reason)) from reason
    own.mkdir()
    cassandra_programs.configure(own, port, free_port(), "127.0.0.1", {"cluster_name": "bench"})
    with ServerProcess(command, own / "log", folder=own) as process:
        process.wait_until(lambda: _listens(port), poll_seconds=0.5, seconds=_START_SECONDS)
        _with_session(port, lambda session: _fill(session, rows))
        yield Database(f"cassandra://127.0.0.1:{port}/{KEYSPACE}?local_dc=datacenter1", [process])


def _listens(port: int) -> None:
    """Raise BenchError unless it does, which is the last thing that a node does at its start."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError as error:
        raise BenchError(f"Cassandra: {error}") from error


def _with_session(port: int, work: Callable[[Any], None]) -> None:
    """Connect and ``work``. Raises BenchError."""
    cluster = Cluster(["127.0.0.1"], port, protocol_version=4, compression=False, monitor_reporting_enabled=False)
    try:
        session = cluster.connect()
        session.default_timeout = _STATEMENT_SECONDS
        work(session)
    except (DriverException, NoHostAvailable) as error:
        raise BenchError(f"Cassandra: {error}") from error
    finally:
        cluster.shutdown()


def _fill(session: Any, rows: Mapping[str, str]) -> None:
    session.execute(_KEYSPACE)
    session.set_keyspace(KEYSPACE)
    for statement in _TABLES:
        session.execute(statement)
    _write(session, rows)
    _read(session, rows)


def _write(session: Any, rows: Mapping[str, str]) -> None:
    keys = {task_id: (uuid.UUID(task_id), _workflow_of(task_id)) for task_id in rows}
    lookup = session.prepare("INSERT INTO task_lookup (task_id, workflow_id) VALUES (?, ?)")
    task = session.prepare(
        "INSERT INTO workflows (workflow_id, shard_id, entity, task_id, payload) VALUES (?, 1, 'task', ?, ?)"
    )
    execute_concurrent_with_args(session, lookup, list(keys.values()))
    execute_concurrent_with_args(
        session, task, [(workflow, task_id, rows[task_id]) for task_id, (_, workflow) in keys.items()]
    )


def _read(session: Any, rows: Mapping[str, str]) -> None:
    """Conductor's two statements, again and again: what Java has not compiled takes ten times as long."""
    ids = list(islice(cycle(rows), _WARM_UP_READS))
    lookup = session.prepare("SELECT workflow_id FROM task_lookup WHERE task_id = ?")
    task = session.prepare(
        "SELECT payload FROM workflows WHERE workflow_id = ? AND shard_id = 1 AND entity = 'task' AND task_id = ?"
    )
    execute_concurrent_with_args(session, lookup, [(uuid.UUID(task_id),) for task_id in ids])
    execute_concurrent_with_args(session, task, [(_workflow_of(task_id), task_id) for task_id in ids])


def _workflow_of(task_id: str) -> uuid.UUID:
    return uuid.uuid5(uuid.UUID(task_id), "workflow")

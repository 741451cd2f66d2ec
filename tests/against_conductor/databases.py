"""The databases that Conductor is started on, and a look at its rows that has nothing of taskgate in it."""

import socket
import sqlite3
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from support import mysql, postgresql
from support.cassandra import CassandraNode
from tools import databases


class Database(ABC):
    """One empty database for one Conductor."""

    store_url: str
    """What taskgate's ``--store`` says for it."""

    @abstractmethod
    def settings(self) -> dict[str, str]:
        """What Conductor has to be told."""

    @abstractmethod
    def rows(self) -> dict[str, bytes]:
        """Every task that is stored now, by ID: the exact text."""

    @abstractmethod
    def row(self, task_id: str) -> bytes | None:
        """One of them."""

    @abstractmethod
    def seed(self, rows: dict[str, bytes]) -> None:
        """Put rows there as Conductor would."""


class _Sqlite(Database):
    def __init__(self, folder: Path) -> None:
        self._file = folder / "conductor.db"
        self.store_url = f"sqlite:///{self._file}"

    def settings(self) -> dict[str, str]:
        return {"spring.datasource.url": f"jdbc:sqlite:{self._file}?busy_timeout=15000&journal_mode=WAL"}

    def rows(self) -> dict[str, bytes]:
        with closing(self._connect()) as connection:
            return {key.decode(): text for key, text in connection.execute("SELECT task_id, json_data FROM task")}

    def row(self, task_id: str) -> bytes | None:
        with closing(self._connect()) as connection:
            found = connection.execute("SELECT json_data FROM task WHERE task_id = ?", (task_id,)).fetchone()
        return None if found is None else bytes(found[0])

    def seed(self, rows: dict[str, bytes]) -> None:
        with closing(self._connect()) as connection, connection:
            connection.executemany(
                "INSERT INTO task (task_id, json_data) VALUES (?, ?)",
                [(task_id, text.decode()) for task_id, text in rows.items()],
            )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, timeout=30)
        connection.text_factory = bytes
        return connection


class _Postgresql(Database):
    def __init__(self, server: postgresql.PostgresqlServer) -> None:
        self.store_url = server.url()
        self._server = server

    def settings(self) -> dict[str, str]:
        return {
            "conductor.db.type": "postgres",
            "conductor.queue.type": "postgres",
            "conductor.indexing.type": "postgres",
            "conductor.elasticsearch.version": "0",
            "spring.datasource.url": f"jdbc:postgresql://127.0.0.1:{self._server.port}/postgres",
            "spring.datasource.username": postgresql.USER,
            "spring.datasource.password": postgresql.PASSWORD,
        }

    def rows(self) -> dict[str, bytes]:
        rows = self._server.execute("SELECT task_id, json_data FROM task")
        return {row["task_id"]: row["json_data"].encode() for row in rows}

    def row(self, task_id: str) -> bytes | None:
        rows = self._server.execute("SELECT json_data FROM task WHERE task_id = $1", task_id)
        return rows[0]["json_data"].encode() if rows else None

    def seed(self, rows: dict[str, bytes]) -> None:
        texts = [text.decode() for text in rows.values()]
        self._server.execute(
            "INSERT INTO task (task_id, json_data) SELECT * FROM unnest($1::text[], $2::text[])", list(rows), texts
        )


class _Mysql(Database):
    NAME = "conductor"

    def __init__(self, server: mysql.MysqlServer) -> None:
        server.execute(f"CREATE DATABASE {self.NAME}")
        self.store_url = server.url(self.NAME)
        self._server = server

    def settings(self) -> dict[str, str]:
        return {
            "conductor.db.type": "mysql",
            "conductor.queue.type": "mysql",
            "conductor.indexing.enabled": "false",
            "spring.datasource.url": f"jdbc:mysql://127.0.0.1:{self._server.port}/{self.NAME}",
            "spring.datasource.username": mysql.USER,
            "spring.datasource.password": mysql.PASSWORD,
        }

    def rows(self) -> dict[str, bytes]:
        rows = self._server.execute("SELECT task_id, CAST(json_data AS BINARY) AS text FROM task", database=self.NAME)
        return {row["task_id"]: row["text"] for row in rows}

    def row(self, task_id: str) -> bytes | None:
        statement = "SELECT CAST(json_data AS BINARY) AS text FROM task WHERE task_id = %s"
        rows = self._server.execute(statement, task_id, database=self.NAME)
        return rows[0]["text"] if rows else None

    def seed(self, rows: dict[str, bytes]) -> None:
        with self._server.connect(self.NAME) as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO task (task_id, json_data) VALUES (%s, %s)",
                [(task_id, text.decode()) for task_id, text in rows.items()],
            )


class _Redis(Database):
    KEYS = "kept.test.TASK."
    """``conductor.redis.workflowNamespacePrefix``, the default of ``conductor.app.stack``, and what all keys have."""

    def __init__(self, port: int) -> None:
        self.store_url = f"redis://127.0.0.1:{port}/0?namespace=kept&stack=test"
        self._port = port

    def settings(self) -> dict[str, str]:
        return {
            "conductor.db.type": "redis_standalone",
            "conductor.queue.type": "redis_standalone",
            "conductor.indexing.enabled": "false",
            "conductor.redis.hosts": f"127.0.0.1:{self._port}:us-east-1c",
            "conductor.redis.workflowNamespacePrefix": "kept",
            "conductor.redis.queueNamespacePrefix": "queues",
        }

    def rows(self) -> dict[str, bytes]:
        keys: list[bytes] = self._ask("KEYS", self.KEYS + "*")
        rows = {key.decode().removeprefix(self.KEYS): self._ask("GET", key) for key in keys}
        return {task_id: text for task_id, text in rows.items() if text is not None}

    def row(self, task_id: str) -> bytes | None:
        found: bytes | None = self._ask("GET", self.KEYS + task_id)
        return found

    def seed(self, rows: dict[str, bytes]) -> None:
        for task_id, text in rows.items():
            self._ask("SET", self.KEYS + task_id, text)

    def _ask(self, *words: str | bytes) -> Any:
        """One command by Redis' own protocol, for the same reason as psql."""
        encoded = [word.encode() if isinstance(word, str) else word for word in words]
        command = b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)])
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as connection:
            connection.sendall(command)
            with connection.makefile("rb") as answer:
                return _redis_answer(answer)


class _Cassandra(Database):
    """Tasks in Cassandra, which Conductor enters without a password; its queues are in Redis, as it has none there."""

    def __init__(self, node: CassandraNode, queues: _Redis) -> None:
        self.store_url = f"cassandra://{node}/conductor?local_dc=datacenter1"
        self._node = node
        self._queues = queues

    def settings(self) -> dict[str, str]:
        return self._queues.settings() | {
            "conductor.db.type": "cassandra",
            "conductor.cassandra.hostAddress": "127.0.0.1",
            "conductor.cassandra.port": str(self._node.port),
            "conductor.cassandra.replicationFactorValue": "1",
        }

    def rows(self) -> dict[str, bytes]:
        rows = self._node.execute("SELECT entity, task_id, payload FROM conductor.workflows")
        return {row.task_id: row.payload.encode() for row in rows if row.entity == "task"}

    def row(self, task_id: str) -> bytes | None:
        return self.rows().get(task_id)

    def seed(self, rows: dict[str, bytes]) -> None:
        for task_id, text in rows.items():
            key = uuid.UUID(task_id)
            self._node.execute("INSERT INTO conductor.task_lookup (task_id, workflow_id) VALUES (%s, %s)", (key, key))
            self._node.execute(
                "INSERT INTO conductor.workflows (workflow_id, shard_id, entity, task_id, payload)"
                " VALUES (%s, 1, 'task', %s, %s)",
                (key, task_id, text.decode()),
            )


def _redis_answer(answer: Any) -> Any:
    line = answer.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:]
    if kind == b"*":
        return [_redis_answer(answer) for _ in range(int(rest))]
    if kind == b"$":
        return None if rest == b"-1" else answer.read(int(rest) + 2)[:-2]
    if kind == b"-":
        raise RuntimeError(rest.decode())
    return rest


@contextmanager
def running_database(name: str, folder: Path) -> Iterator[Database]:
    """The database of that name, running and empty. Raises Missing."""
    if name == "sqlite":
        yield _Sqlite(folder)
    elif name == "postgresql":
        with postgresql.running_postgresql() as server:
            yield _Postgresql(server)
    elif name == "mysql":
        with mysql.running_mysql(mysql.Mysql) as server:
            yield _Mysql(server)
    elif name == "redis":
        with _running_redis(folder) as database:
            yield database
    else:
        (folder / "cassandra").mkdir()
        with _running_redis(folder) as queues:
            node = CassandraNode(folder / "cassandra", passwords=False)
            try:
                yield _Cassandra(node, queues)
            finally:
                node.stop()


@contextmanager
def _running_redis(folder: Path) -> Iterator[_Redis]:
    with databases.running_redis(folder / "redis", {}) as database:
        yield _Redis(int(database.url.rpartition(":")[2].partition("/")[0]))

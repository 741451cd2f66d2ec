"""A PostgreSQL server as installed, and a second database in it as Conductor has it."""

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from bench.databases.base import Database
from bench.errors import BenchError
from bench.processes import ServerProcess, free_port
from tools.postgresql_programs import Programs

USER = "postgres"

_CONNECT_SECONDS = 10.0

_CONDUCTORS_TABLE = """
CREATE TABLE task (
    created_on timestamp DEFAULT CURRENT_TIMESTAMP, modified_on timestamp DEFAULT CURRENT_TIMESTAMP,
    task_id varchar(255) NOT NULL PRIMARY KEY, json_data text NOT NULL
)
"""
"""As Conductor's own migrations leave it (``V1__initial_schema.sql``, ``V6__update_pk.sql``)."""


@contextmanager
def running_postgresql() -> Iterator[Database]:
    """A server as installed. Not in the folder of the others, which the user it runs as may not enter."""
    with tempfile.TemporaryDirectory(prefix="bench-postgresql-") as name:
        folder, port = Path(name), free_port()
        programs, data = Programs(folder), folder / "data"
        data.mkdir(mode=0o700)
        programs.give(data)
        _run(
            programs,
            *("initdb", f"--pgdata={data}", f"--username={USER}", "--auth=trust", "--encoding=UTF8", "--locale=C"),
            *("--no-sync", "--no-instructions"),
        )
        settings = ("--listen_addresses=127.0.0.1", f"--port={port}", "--unix_socket_directories=")
        url = f"postgresql://{USER}@127.0.0.1:{port}/{USER}"
        command = programs.command("postgres", "-D", str(data), *settings)
        with ServerProcess(command, folder / "log", folder=folder) as process:
            process.wait_until(lambda: execute(url, "SELECT 1"))
            yield Database(url, [process])


def _run(programs: Programs, *command: str) -> None:
    try:
        programs.run(*command)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchError(f"PostgreSQL's {command[0]} fails: {error}") from error


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
        connection = await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
        try:
            await (connection.executemany(statement, rows) if rows else connection.execute(statement))
        finally:
            await connection.close()

    try:
        asyncio.run(run())
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise BenchError(f"PostgreSQL: {error}") from error

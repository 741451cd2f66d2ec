"""MySQL and MariaDB servers, each with an empty database for taskgate and one as Conductor has it."""

import asyncio
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import asyncmy
from asyncmy.errors import MySQLError

from bench.databases.base import Database, program_of
from bench.errors import BenchError, PeerMissing
from bench.processes import ServerProcess, free_port
from tools import mysql_server
from tools.servers import MARIADB, SERVERS, Missing

USER, PASSWORD = "bench", "bench"
TASKS, CONDUCTOR = "tasks", "conductor"
"""Names of the two databases."""

_CONNECT_SECONDS = 10.0

_CONDUCTORS_TABLE = """
CREATE TABLE task (
    id int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,
    created_on timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, modified_on timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    task_id varchar(255) NOT NULL UNIQUE, json_data mediumtext NOT NULL
)
"""
"""With the key that Conductor's own migrations begin with, and the column that they find a task by."""

_OURS = (
    *(f"CREATE DATABASE {name} CHARACTER SET utf8mb4;" for name in (TASKS, CONDUCTOR)),
    *(f"CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}';", f"GRANT ALL ON *.* TO {USER}@'%';"),
)
"""The two databases, and a user who may do everything."""

_SYSTEM_TABLES = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")


@contextmanager
def running_mariadb(folder: Path) -> Iterator[Database]:
    """MariaDB as installed; the URL is of the empty database."""
    own = folder / "mariadb"
    (own / "data").mkdir(parents=True)
    program = program_of(MARIADB)
    share = _share(Path(program))
    command = [program, "--no-defaults", f"--datadir={own / 'data'}", f"--lc-messages-dir={share}"]
    if os.geteuid() == 0:  # which it refuses unless it is told by name
        command.append("--user=root")
    _fill(command, share)
    with _running(own, command) as database:
        yield database


@contextmanager
def running_mysql(folder: Path) -> Iterator[Database]:
    """MySQL itself, as the tests run it: its buffers are larger than all that it holds here."""
    own = folder / "mysql"
    (own / "data").mkdir(parents=True)
    statements = own / "begin.sql"
    statements.write_text("\n".join(_OURS))
    try:
        program = mysql_server.find_mysqld()
        mysql_server.make_data(program, own / "data", f"--init-file={statements}")
    except Missing as reason:
        raise PeerMissing(str(reason)) from reason
    with _running(own, [*mysql_server.command(program), f"--datadir={own / 'data'}"]) as database:
        yield database


@contextmanager
def _running(own: Path, command: list[str]) -> Iterator[Database]:
    port = free_port()
    settings = (f"--port={port}", "--bind-address=127.0.0.1", f"--socket={own / 'socket'}", "--skip-name-resolve")
    with ServerProcess([*command, *settings], own / "log", folder=own) as process:
        process.wait_until(lambda: execute(port, TASKS, "SELECT 1"))
        yield Database(f"mysql://{USER}:{PASSWORD}@127.0.0.1:{port}/{TASKS}", [process])


def fill_conductors_database(server: Database, rows: Mapping[str, str]) -> Database:
    """The other database, with ``rows`` by ID in a table as Conductor makes it."""
    place, _, _ = server.url.rpartition("/")
    port = int(place.rpartition(":")[2])
    execute(port, CONDUCTOR, _CONDUCTORS_TABLE)
    execute(port, CONDUCTOR, "INSERT INTO task (task_id, json_data) VALUES (%s, %s)", rows)
    return Database(f"{place}/{CONDUCTOR}", server.processes)


def execute(port: int, database: str, statement: str, rows: Mapping[str, str] | None = None) -> None:
    """One statement, once or for each of ``rows``. Raises BenchError."""

    async def run() -> None:
        connection = await asyncmy.connect(
            host="127.0.0.1", port=port, user=USER, password=PASSWORD, db=database, connect_timeout=_CONNECT_SECONDS
        )
        async with connection, connection.cursor() as cursor:
            await (cursor.execute(statement) if rows is None else cursor.executemany(statement, list(rows.items())))
            await connection.commit()

    try:
        asyncio.run(run())
    except (OSError, MySQLError) as error:
        raise BenchError(f"MySQL or MariaDB: {error}") from error


def _fill(command: list[str], share: Path) -> None:
    """Make the system tables, and what is ours."""
    tables = ((share / name).read_text() for name in _SYSTEM_TABLES)
    statements = ["CREATE DATABASE mysql;", "USE mysql;", *tables, "FLUSH PRIVILEGES;", *_OURS]
    made = subprocess.run(
        [*command, "--bootstrap"], input="\n".join(statements), capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise BenchError(f"MariaDB cannot make its own tables: {made.stderr[-500:]}")


def _share(program: Path) -> Path:
    """The folder of a server's SQL files and message files."""
    unpacked = program.is_relative_to(SERVERS)
    places = (SERVERS / "root/usr",) if unpacked else (program.resolve().parent.parent, Path("/usr"))
    folders = [place / "share" / name for place in places for name in ("mysql", "mariadb")]
    for folder in folders:
        if (folder / _SYSTEM_TABLES[0]).exists():
            return folder
    raise BenchError(f"{program} has no {_SYSTEM_TABLES[0]} in any of {', '.join(map(str, folders))}")

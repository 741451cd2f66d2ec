"""The servers of the part ``stores``: every database filled, taskgate on each, and the peer."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.commands import import_tasks
from bench.databases.base import Database
from bench.databases.cassandra import running_cassandra
from bench.databases.mysql import fill_conductors_database, running_mariadb, running_mysql
from bench.databases.pgbouncer import running_pgbouncer
from bench.databases.postgresql import add_conductors_database, running_postgresql
from bench.databases.redis import running_redis, running_redis_cluster, running_redis_sentinel
from bench.errors import BenchError, PeerMissing
from bench.peers.fastapi_asyncpg import STORE_VARIABLE
from bench.servers import Server, Site, start_taskgate, start_uvicorn
from bench.stores import (
    CASSANDRA_CONDUCTOR,
    CONDUCTORS,
    MARIADB,
    MARIADB_CONDUCTOR,
    MYSQL,
    MYSQL_CONDUCTOR,
    PEER,
    PGBOUNCER,
    POSTGRESQL,
    POSTGRESQL_CONDUCTOR,
    REDIS,
    REDIS_CLUSTER,
    REDIS_SENTINEL,
    RESETTING_PEER,
    SQLITE,
    SQLITE_CONDUCTOR,
    TASKS,
)
from bench.tasks import conductor_rows, write_tasks

_CONDUCTORS_FILE = """
PRAGMA journal_mode = WAL;
CREATE TABLE task (
    task_id TEXT PRIMARY KEY, json_data TEXT NOT NULL,
    created_on DATETIME DEFAULT CURRENT_TIMESTAMP, modified_on DATETIME DEFAULT CURRENT_TIMESTAMP
);
"""
"""As Conductor's own migrations leave it (``migration_sqlite/V1__initial_schema.sql``)."""


@contextmanager
def running_stores(
    site: Site, say: Callable[[str], None], missing: Callable[[str, str], None], failed: Callable[[str], None]
) -> Iterator[dict[str, Server]]:
    """Every store filled, and a server on each; all are stopped in the end. They may not answer yet.

    ``missing`` is called with each subject that is not to be had here and the reason, ``failed`` with a sentence about
    those that cannot be filled.
    """
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for subjects, start in _STARTERS.items():
            say(f"filling {subjects[0]} with {TASKS:,} tasks")
            try:
                servers |= start(stack, site)
            except PeerMissing as reason:
                for subject in subjects:
                    missing(subject, str(reason))
            except BenchError as error:
                failed(f"{subjects[0]}: {error}")
        yield servers


def _start_sqlite(stack: ExitStack, site: Site) -> dict[str, Server]:
    file, conductors_file = site.folder / "store.db", site.folder / "store-conductor.db"
    _fill(file)
    with closing(sqlite3.connect(conductors_file)) as database:
        database.executescript(_CONDUCTORS_FILE)
        with database:
            database.executemany(
                "INSERT INTO task (task_id, json_data) VALUES (?, ?)", list(conductor_rows(TASKS).items())
            )
    return {
        SQLITE: _taskgate(stack, site, SQLITE, Database(f"sqlite:///{file}", ())),
        SQLITE_CONDUCTOR: _taskgate(stack, site, SQLITE_CONDUCTOR, Database(f"sqlite:///{conductors_file}", ())),
    }


def _start_postgresql(stack: ExitStack, site: Site) -> dict[str, Server]:
    database = stack.enter_context(running_postgresql())
    _fill(site.folder / "store-postgresql", database.url)
    conductors = add_conductors_database(database, conductor_rows(TASKS))
    peer = start_uvicorn(
        "bench.peers.fastapi_asyncpg:app", site.folder / "fastapi-asyncpg.log", {STORE_VARIABLE: database.url}
    )
    stack.enter_context(peer.process)
    peer = replace(peer, databases=database.processes)
    return {
        POSTGRESQL: _taskgate(stack, site, POSTGRESQL, database),
        POSTGRESQL_CONDUCTOR: _taskgate(stack, site, POSTGRESQL_CONDUCTOR, conductors),
        PEER: peer,
        RESETTING_PEER: peer,
    }


def _start_pgbouncer(stack: ExitStack, site: Site) -> dict[str, Server]:
    """On a PostgreSQL of its own, so that neither is missing for want of the other."""
    server = stack.enter_context(running_postgresql())
    _fill(site.folder / "store-pgbouncer", server.url)
    return {PGBOUNCER: _taskgate(stack, site, PGBOUNCER, stack.enter_context(running_pgbouncer(server)))}


def _start_mysql(
    subject: str,
    conductor: str,
    running: Callable[[Path], AbstractContextManager[Database]],
    stack: ExitStack,
    site: Site,
) -> dict[str, Server]:
    database = stack.enter_context(running(site.folder))
    _fill(site.folder / f"store-{_file_name(subject)}", database.url)
    conductors = fill_conductors_database(database, conductor_rows(TASKS))
    return {
        subject: _taskgate(stack, site, subject, database),
        conductor: _taskgate(stack, site, conductor, conductors),
    }


def _start_cassandra(stack: ExitStack, site: Site) -> dict[str, Server]:
    """Which only Conductor fills."""
    database = stack.enter_context(running_cassandra(site.folder, conductor_rows(TASKS)))
    return {CASSANDRA_CONDUCTOR: _taskgate(stack, site, CASSANDRA_CONDUCTOR, database)}


def _start_filled(
    subject: str, running: Callable[[Path], AbstractContextManager[Database]], stack: ExitStack, site: Site
) -> dict[str, Server]:
    database = stack.enter_context(running(site.folder))
    _fill(site.folder / f"store-{_file_name(subject)}", database.url)
    return {subject: _taskgate(stack, site, subject, database)}


_STARTERS: Mapping[tuple[str, ...], Callable[[ExitStack, Site], dict[str, Server]]] = {
    (SQLITE, SQLITE_CONDUCTOR): _start_sqlite,
    (POSTGRESQL, POSTGRESQL_CONDUCTOR, PEER, RESETTING_PEER): _start_postgresql,
    (PGBOUNCER,): _start_pgbouncer,
    (MYSQL, MYSQL_CONDUCTOR): partial(_start_mysql, MYSQL, MYSQL_CONDUCTOR, running_mysql),
    (MARIADB, MARIADB_CONDUCTOR): partial(_start_mysql, MARIADB, MARIADB_CONDUCTOR, running_mariadb),
    (REDIS,): partial(_start_filled, REDIS, running_redis),
    (REDIS_SENTINEL,): partial(_start_filled, REDIS_SENTINEL, running_redis_sentinel),
    (REDIS_CLUSTER,): partial(_start_filled, REDIS_CLUSTER, running_redis_cluster),
    (CASSANDRA_CONDUCTOR,): _start_cassandra,
}
"""By the subjects that each starts, which are there or missing together."""


def _fill(place: Path, store: str = "") -> None:
    import_tasks(place, TASKS, partial(write_tasks, count=TASKS), store=store)


def _taskgate(stack: ExitStack, site: Site, subject: str, database: Database) -> Server:
    layout = "conductor" if subject in CONDUCTORS else "taskgate"
    server = start_taskgate(site, store=database.url, layout=layout, name=_file_name(subject))
    stack.enter_context(server.process)
    return replace(server, databases=database.processes)


def _file_name(subject: str) -> str:
    return subject.lower().replace(",", "").replace(" ", "-")

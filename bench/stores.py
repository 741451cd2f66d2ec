"""taskgate on each of its stores, and a peer on the same PostgreSQL: the rows of that part, and the servers they need.

Every store holds the same tasks of 2 KB. They are asked for in turn, so that no two calls under way are for one task:
calls that are share a read of a database on the network. Rows where all ask for one task show what that is worth.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.cases import Case, conductor_answer, get_task_json_as, rest
from bench.commands import import_tasks
from bench.databases import (
    Database,
    add_conductors_database,
    running_postgresql,
    running_redis,
    running_redis_cluster,
)
from bench.errors import BenchError, PeerMissing
from bench.peers.fastapi_asyncpg import STORE_VARIABLE
from bench.servers import Server, Site, start_taskgate, start_uvicorn
from bench.targets import GrpcCall, HttpGet
from bench.tasks import Document, conductor_rows, task_ids, write_tasks

TASKS = 1000
"""Tasks of 2 KB in each store."""

SQLITE, POSTGRESQL, REDIS, REDIS_CLUSTER = "SQLite", "PostgreSQL", "Redis", "Redis Cluster of 3"
SQLITE_CONDUCTOR, POSTGRESQL_CONDUCTOR = (f"{store}, layout conductor" for store in (SQLITE, POSTGRESQL))
PEER, RESETTING_PEER = "FastAPI + asyncpg", "FastAPI + asyncpg, sessions reset"

MANY, ONE, GRPC_ONE = f"REST, {TASKS:,} IDs", "REST, one ID", "gRPC GetTaskJson, one ID"
"""How tasks are asked for. h2load posts one message only, so gRPC is asked for one task."""

_CONDUCTORS_FILE = """
PRAGMA journal_mode = WAL;
CREATE TABLE task (
    task_id TEXT PRIMARY KEY, json_data TEXT NOT NULL,
    created_on DATETIME DEFAULT CURRENT_TIMESTAMP, modified_on DATETIME DEFAULT CURRENT_TIMESTAMP
);
"""
"""As Conductor's own migrations leave it (its SQLite module; contract section 3.1)."""


def all_ids(server: Server, document: Document, *, conductor: bool = False, prefix: str = "") -> HttpGet:
    """Every task in turn; all answers are of one size."""
    target = one_id(server, document, conductor=conductor, prefix=prefix)
    others = tuple(f"{prefix}/api/tasks/{task_id}" for task_id in task_ids(TASKS) if task_id != document.task_id)
    return replace(target, others=others)


def one_id(server: Server, document: Document, *, conductor: bool = False, prefix: str = "") -> HttpGet:
    """The documented task again and again; ``conductor`` for a server that makes it of a row of Conductor's."""
    target = rest(server.http, document, prefix)
    return replace(target, answer=conductor_answer(target, document)) if conductor else target


def one_id_over_grpc(server: Server, document: Document, *, conductor: bool = False) -> GrpcCall:
    """The same over gRPC."""
    body = one_id(server, document, conductor=conductor).answer
    return get_task_json_as(server.grpc, document.task_id, body)


def _cases() -> dict[tuple[str, str], Case]:
    plain, conductors = (SQLITE, POSTGRESQL, REDIS, REDIS_CLUSTER), (SQLITE_CONDUCTOR, POSTGRESQL_CONDUCTOR)
    made = [
        *(_case(subject, MANY, all_ids) for subject in plain),
        *(_case(subject, MANY, partial(all_ids, conductor=True)) for subject in conductors),
        _case(PEER, MANY, partial(all_ids, prefix="/bare")),
        replace(_case(RESETTING_PEER, MANY, all_ids), everywhere=False),
        *(replace(_case(subject, ONE, one_id), everywhere=False) for subject in plain),
        replace(_case(PEER, ONE, partial(one_id, prefix="/bare")), everywhere=False),
        *(replace(_case(subject, GRPC_ONE, one_id_over_grpc), protocol="gRPC") for subject in plain),
        *(
            replace(_case(subject, GRPC_ONE, partial(one_id_over_grpc, conductor=True)), protocol="gRPC")
            for subject in conductors
        ),
    ]
    return {(case.server, case.key.removeprefix(f"{case.server}: ")): case for case in made}


def _case(subject: str, asked: str, target: Callable[[Server, Document], HttpGet | GrpcCall]) -> Case:
    title = f"{subject}: {asked}"
    return Case(title, title, subject, target)


STORE_CASES = _cases()
"""Rows by what is asked (its server's name) and how, as the table has them."""


@contextmanager
def running_stores(
    site: Site, say: Callable[[str], None], missing: Callable[[str, str], None], failed: Callable[[str], None]
) -> Iterator[dict[str, Server]]:
    """Every store filled, and a server on each; all are stopped in the end. They may not answer yet.

    ``missing`` is called with a store that is not to be had here and the reason, ``failed`` with a sentence about one
    that cannot be filled.
    """
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name, start in _STARTERS.items():
            say(f"filling {name} with {TASKS:,} tasks")
            try:
                servers |= start(stack, site)
            except PeerMissing as reason:
                missing(name, str(reason))
            except BenchError as error:
                failed(f"{name}: {error}")
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
        SQLITE: _taskgate(stack, site, Database(f"sqlite:///{file}", ())),
        SQLITE_CONDUCTOR: _taskgate(stack, site, Database(f"sqlite:///{conductors_file}", ()), layout="conductor"),
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
        POSTGRESQL: _taskgate(stack, site, database),
        POSTGRESQL_CONDUCTOR: _taskgate(stack, site, conductors, layout="conductor"),
        PEER: peer,
        RESETTING_PEER: peer,
    }


def _start_redis(stack: ExitStack, site: Site) -> dict[str, Server]:
    database = stack.enter_context(running_redis(site.folder))
    _fill(site.folder / "store-redis", database.url)
    return {REDIS: _taskgate(stack, site, database)}


def _start_redis_cluster(stack: ExitStack, site: Site) -> dict[str, Server]:
    database = stack.enter_context(running_redis_cluster(site.folder))
    _fill(site.folder / "store-redis-cluster", database.url)
    return {REDIS_CLUSTER: _taskgate(stack, site, database)}


_STARTERS: Mapping[str, Callable[[ExitStack, Site], dict[str, Server]]] = {
    SQLITE: _start_sqlite,
    POSTGRESQL: _start_postgresql,
    REDIS: _start_redis,
    REDIS_CLUSTER: _start_redis_cluster,
}


def _fill(place: Path, store: str = "") -> None:
    import_tasks(place, TASKS, partial(write_tasks, count=TASKS), store=store)


def _taskgate(stack: ExitStack, site: Site, database: Database, layout: str = "taskgate") -> Server:
    name = f"{database.url.partition(':')[0]}-{layout}"
    server = start_taskgate(site, store=database.url, layout=layout, name=name)
    stack.enter_context(server.process)
    return replace(server, databases=database.processes)

"""taskgate on each of its stores, and a peer on the same PostgreSQL: the rows of that part.

Every store holds the same tasks of 2 KB. They are asked for in turn, so that no two calls under way are for one task:
calls that are share a read of a database on the network. Rows where all ask for one task show what that is worth.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bench.cases import Case, conductor_answer, get_task_json_as, rest
from bench.servers import Server
from bench.targets import GrpcCall, HttpGet
from bench.tasks import Document, task_ids

TASKS = 1000
"""Tasks of 2 KB in each store."""

SQLITE, POSTGRESQL, PGBOUNCER = "SQLite", "PostgreSQL", "PostgreSQL through pgbouncer"
MYSQL, MARIADB = "MySQL", "MariaDB"
REDIS, REDIS_SENTINEL, REDIS_CLUSTER = "Redis", "Redis behind Sentinel", "Redis Cluster of 3"
STORES = (SQLITE, POSTGRESQL, PGBOUNCER, MYSQL, MARIADB, REDIS, REDIS_SENTINEL, REDIS_CLUSTER)
"""Those that hold documents as they were imported."""

CONDUCTORS = tuple(f"{store}, layout conductor" for store in (SQLITE, POSTGRESQL, MYSQL, MARIADB, "Cassandra"))
SQLITE_CONDUCTOR, POSTGRESQL_CONDUCTOR, MYSQL_CONDUCTOR, MARIADB_CONDUCTOR, CASSANDRA_CONDUCTOR = CONDUCTORS
"""Those that hold the same tasks as Conductor keeps them."""

PEER, RESETTING_PEER = "FastAPI + asyncpg", "FastAPI + asyncpg, sessions reset"

SUBJECTS = (*STORES, *CONDUCTORS, PEER, RESETTING_PEER)
"""All that is asked, in the order of the tables."""

MANY, ONE, GRPC_ONE = f"REST, {TASKS:,} IDs", "REST, one ID", "gRPC GetTaskJson, one ID"
"""How tasks are asked for. h2load posts one message only, so gRPC is asked for one task."""

_SHOW_SHARING = (SQLITE, POSTGRESQL, REDIS, REDIS_CLUSTER)
"""Those that are also asked for one task over REST; the others share reads in the same way."""


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
    made = [
        *(_case(subject, MANY, all_ids) for subject in STORES),
        *(_case(subject, MANY, partial(all_ids, conductor=True)) for subject in CONDUCTORS),
        _case(PEER, MANY, partial(all_ids, prefix="/bare")),
        replace(_case(RESETTING_PEER, MANY, all_ids), everywhere=False),
        *(replace(_case(subject, ONE, one_id), everywhere=False) for subject in _SHOW_SHARING),
        replace(_case(PEER, ONE, partial(one_id, prefix="/bare")), everywhere=False),
        *(replace(_case(subject, GRPC_ONE, one_id_over_grpc), protocol="gRPC") for subject in STORES),
        *(
            replace(_case(subject, GRPC_ONE, partial(one_id_over_grpc, conductor=True)), protocol="gRPC")
            for subject in CONDUCTORS
        ),
    ]
    return {(case.server, case.key.removeprefix(f"{case.server}: ")): case for case in made}


def _case(subject: str, asked: str, target: Callable[[Server, Document], HttpGet | GrpcCall]) -> Case:
    title = f"{subject}: {asked}"
    return Case(title, title, subject, target)


STORE_CASES = _cases()
"""Rows by what is asked (its server's name) and how, as the table has them."""

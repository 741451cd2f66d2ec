"""Measure taskgate on each of its stores, and a peer on the same PostgreSQL.

Every store holds the same tasks of 2 KB. They are requested in turn, so that no two calls in flight are for one task:
such calls share a read of a database on the network. One row, where all ask for one task, shows the gain from sharing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial

from bench.cases import Case, rest
from bench.importing import import_tasks
from bench.loads import Load, run
from bench.measuring import MAIN_CONNECTIONS, Settings, measure
from bench.peers import fastapi_app
from bench.report import Report
from bench.servers import Server, Site, start_taskgate
from bench.targets import Target, ask
from bench.tasks import SMALL, Document, conductor_rows, task_ids, write_tasks
from taskgate.stores.network.url_parts import DEFAULT_POOL_SIZE
from tools import databases
from tools.processes import Failed
from tools.servers import WRK, Missing, find

TASKS = 1000
"""Tasks of 2 KB in each store."""

SQLITE, POSTGRESQL, PEER = "SQLite", "PostgreSQL", "FastAPI + asyncpg"

DATABASES: Mapping[str, databases.Running] = {
    SQLITE: databases.running_sqlite,
    POSTGRESQL: databases.running_postgresql,
    "PostgreSQL through pgbouncer": partial(databases.running_pgbouncer, connections=DEFAULT_POOL_SIZE),
    "MySQL": databases.running_mysql,
    "MariaDB": databases.running_mariadb,
    "Redis": databases.running_redis,
    "Redis behind Sentinel": databases.running_redis_sentinel,
    "Redis Cluster of 3": databases.running_redis_cluster,
    "Cassandra": databases.running_cassandra,
}

CONDUCTORS = tuple(f"{store}, layout conductor" for store in (SQLITE, POSTGRESQL, "MySQL", "MariaDB", "Cassandra"))
"""Stores that hold the same tasks in Conductor's layout."""

_ROUNDS, _SECONDS = 3, 2.0
_CONNECTIONS = (MAIN_CONNECTIONS, 1)
_WARM_UP = Load(MAIN_CONNECTIONS, 20.0)

_NOTES = (
    "taskgate embedded, one worker, or the peer on the same PostgreSQL; database µs is its database's CPU.",
    f"{TASKS:,} tasks of 2 KB, asked for in turn. Database, server and load generator share the cores.",
)


def measure_stores(site: Site, settings: Settings, report: Report) -> None:
    """Measure all available stores, side by side. Raises Missing."""
    find(WRK)
    with _servers(site, report) as servers:
        if CONDUCTORS[-1] in servers:
            _warm_up(servers[CONDUCTORS[-1]], report)
        for count in [count for count in _CONNECTIONS if count in settings.connections] or settings.connections:
            cell = settings.cell(SMALL, count, _ROUNDS, _SECONDS if count > 1 else _SECONDS / 2)
            report.add(f"Stores: {cell}", measure(CASES, cell, servers, report.say), _NOTES)


@contextmanager
def _servers(site: Site, report: Report) -> Iterator[dict[str, Server]]:
    """Fill every store and start a server on each, by the store's name; stop all in the end."""
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name, running in DATABASES.items():
            report.say(f"filling {name} with {TASKS:,} tasks")
            try:
                started = _start(stack, site, name, running)
            except Missing as reason:
                report.leave_out(name, str(reason))
            except Failed as error:
                report.fail(f"{name}: {error}")
            else:
                servers |= started
        yield servers


def _start(stack: ExitStack, site: Site, name: str, running: databases.Running) -> dict[str, Server]:
    own = replace(site, folder=site.folder / name.lower().replace(" ", "-"))
    own.folder.mkdir()
    database = stack.enter_context(running(own.folder, conductor_rows(TASKS)))
    taskgate = partial(start_taskgate, own, databases=database.processes)
    started: dict[str, Server] = {}

    def keep(subject: str, server: Server) -> None:
        started[subject] = server
        stack.enter_context(server.process)

    if database.url:
        import_tasks(own.folder / "tasks", partial(write_tasks, count=TASKS), store=database.url)
        keep(name, taskgate(store=database.url))
    if database.conductors:
        keep(f"{name}, layout conductor", taskgate("--layout", "conductor", store=database.conductors))
    if name == POSTGRESQL:
        keep(PEER, fastapi_app.start(own, database.url, database.processes))
    return started


def _warm_up(cassandra: Server, report: Report) -> None:
    """Warm up Java: code that is not compiled yet takes ten times as long, after 10,000 reads still twice the CPU."""
    report.say("warming up Cassandra")
    with suppress(Failed):  # its row reports the failure
        cassandra.process.wait_until(lambda: ask(rest(cassandra)))
        run(_all(cassandra, SMALL), _WARM_UP)


def _all(server: Server, document: Document, prefix: str = "") -> Target:
    """Request every task in turn; all answers are of one size."""
    others = (task_id for task_id in task_ids(TASKS) if task_id != document.task_id)
    target = rest(server, document, prefix)
    return replace(target, others=tuple(f"{prefix}/api/tasks/{task_id}" for task_id in others))


def _all_of_conductors(server: Server, document: Document) -> Target:
    """Request every task in turn, with the empty members that Conductor adds. Raises Failed for another answer."""
    target = _all(server, document)
    answer = ask(target)
    task = json.loads(answer)
    if task.pop("executionMetadata", None) is None or task["workflowTask"].pop("metadata", None) is None:
        raise Failed(f"{target} is not answered as Conductor does: {answer[:200]!r}")
    if task != json.loads(document.body):
        raise Failed(f"{target} is answered with another task: {answer[:200]!r}")
    return replace(target, answer=answer)


CASES: Sequence[Case] = (
    *(Case(name, name, name, _all) for name in DATABASES if name != "Cassandra"),
    *(Case(name, name, name, _all_of_conductors) for name in CONDUCTORS),
    Case(PEER, PEER, PEER, partial(_all, prefix="/asyncpg"), {POSTGRESQL: None}),
    Case("one", f"{POSTGRESQL}, one task again and again", POSTGRESQL, rest, {POSTGRESQL: None}),
)

"""One run from beginning to end: what is wanted, in an order that lets no part disturb another."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench.beside import measure_beside
from bench.cases import CASES, Case
from bench.commands import Import, import_tasks, seconds_to_first_answer
from bench.conductor import ConductorSettings
from bench.errors import BenchError, PeerMissing
from bench.loads import Generators, find_generators
from bench.machine import describe_machine
from bench.measuring import Measured, measure, prepare
from bench.memory import GROWING_SERVERS, idle_memory, measure_growth
from bench.plan import Cell, Plan
from bench.projection import measure_projection
from bench.results import Results
from bench.rows import fill, measure_rows
from bench.servers import ENVOY_TRANSPORT, GRPCIO_TRANSPORT, Server, Site, running
from bench.store_servers import running_stores
from bench.stores import STORE_CASES
from bench.tasks import DOCUMENTS, write_tasks
from bench.workflows import WORKFLOW_CASES, running_workflows, workflow_cell

IMPORT, START, ROWS, STORES, WORKFLOWS = "import", "start", "rows", "stores", "workflows"
PROJECTION, BESIDE, GROWTH = "projection", "beside", "growth"
PARTS = (IMPORT, START, ROWS, STORES, WORKFLOWS, PROJECTION, BESIDE, GROWTH)
"""What can be asked for beside the cases."""

KEYS = (*(case.key for case in CASES), *PARTS)

IMPORT_SHARE = 3
"""The first of two imports has a third of the tasks: enough to fill its caches, after which memory must stay flat."""

STORED_TASKS = 1000
"""Tasks of 2 KB in the file that all servers read, beside the larger ones."""

Say = Callable[[str], None]


def run(plan: Plan, wanted: Sequence[str], *, log_level: str, conductor: ConductorSettings, say: Say) -> Results:
    """Measure what is ``wanted``, of ``KEYS``. Raises BenchError if something fails that no row can show."""
    generators = find_generators()
    results = Results(describe_machine(), plan, STORED_TASKS, log_level, warning=generators.warning)
    if generators.warning:
        say(generators.warning)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        site = Site(Path(name, "tasks.db"), Path(name), log_level, conductor)
        if IMPORT in wanted:
            results.imports = [
                _import(site, count, say) for count in (plan.import_tasks // IMPORT_SHARE, plan.import_tasks)
            ]
        if PROJECTION in wanted:
            say("projecting rows of real workflows")
            results.projection = measure_projection()
        if set(wanted) - {IMPORT, ROWS, STORES, WORKFLOWS, PROJECTION}:
            say(f"filling the store with {STORED_TASKS:,} tasks")
            write = partial(write_tasks, count=STORED_TASKS, others=DOCUMENTS[1:])
            import_tasks(site.database, STORED_TASKS + len(DOCUMENTS) - 1, write)
        if START in wanted:
            _start(site, results, say)
        if ROWS in wanted:
            _rows(site, results, generators, say)
        if STORES in wanted:
            _stores(site, results, generators, say)
        if WORKFLOWS in wanted:
            _workflows(site, results, generators, say)
        _with_servers(site, wanted, results, generators, say)
    return results


def _import(site: Site, count: int, say: Say) -> Import:
    say(f"importing {count:,} tasks")
    return import_tasks(site.folder / f"import-{count}.db", count, partial(write_tasks, count=count))


def _start(site: Site, results: Results, say: Say) -> None:
    for transport in (ENVOY_TRANSPORT, GRPCIO_TRANSPORT):
        say(f"starting taskgate up --transport {transport}, {results.plan.starts} times")
        try:
            results.start_seconds[transport] = seconds_to_first_answer(site, transport, results.plan.starts)
        except PeerMissing as reason:
            _missing(results, say, f"taskgate-{transport}", str(reason))


def _rows(site: Site, results: Results, generators: Generators, say: Say) -> None:
    sites = {}
    plan = results.plan
    for count in plan.row_counts:
        say(f"filling a store with {count:,} rows of 200 bytes")
        sites[count] = fill(site, count)
    try:
        results.rows = measure_rows(sites, generators.http, plan.rounds_of_rows, plan.part_seconds / 2, say)
    except PeerMissing as reason:
        _missing(results, say, "taskgate-envoy", str(reason))
    except BenchError as error:
        _failed(results, say, str(error))


def _stores(site: Site, results: Results, generators: Generators, say: Say) -> None:
    cases = list(STORE_CASES.values())
    with running_stores(site, say, partial(_missing, results, say), partial(_failed, results, say)) as servers:
        for cell in results.plan.store_cells:
            results.stores += _cell(cases, cell, servers, generators, say)


def _workflows(site: Site, results: Results, generators: Generators, say: Say) -> None:
    with running_workflows(site, generators, say, partial(_missing, results, say)) as servers:
        for cell in map(workflow_cell, results.plan.workflow_cells):
            results.workflows += _cell(WORKFLOW_CASES, cell, servers, generators, say)


def _with_servers(site: Site, wanted: Sequence[str], results: Results, generators: Generators, say: Say) -> None:
    """The cells, then the parts that want the same servers."""
    plan = results.plan
    cases = [case for case in CASES if case.key in wanted]
    names = dict.fromkeys(case.server for case in cases)
    if GROWTH in wanted or BESIDE in wanted:
        names |= dict.fromkeys(GROWING_SERVERS)
    if not names:
        return
    say(f"starting {', '.join(names)}; the first build of the Go peer, and any start of Conductor, take minutes")
    with running(names, site, partial(_missing, results, say)) as servers:
        _cells(cases, servers, results, generators, say)
        if GROWTH in wanted:
            runs, seconds = plan.runs_of_growth, plan.part_seconds
            results.growth = measure_growth(servers, generators.http, runs, seconds, say)
        if BESIDE in wanted:
            results.beside = measure_beside(servers, generators, plan.rounds_beside, plan.part_seconds, say)


def _cells(
    cases: Sequence[Case], servers: dict[str, Server], results: Results, generators: Generators, say: Say
) -> None:
    for cell in results.plan.cells:
        if not results.idle:  # the first cell: nobody has had any load yet
            results.idle = idle_memory(servers)
        results.measured += _cell(cases, cell, servers, generators, say)


def _cell(
    cases: Sequence[Case], cell: Cell, servers: dict[str, Server], generators: Generators, say: Say
) -> list[Measured]:
    subjects, failed = prepare(cases, cell, servers, generators)
    for row in failed:
        say(f"{cell.title}: {row.case.title}: FAILED: {'; '.join(row.problems)}")
    done = [*measure(subjects, cell, say), *failed]
    return sorted(done, key=lambda row: cases.index(row.case))


def _missing(results: Results, say: Say, server: str, reason: str) -> None:
    results.missing[server] = reason
    say(f"!! NOT MEASURED: {server}: {reason}")


def _failed(results: Results, say: Say, problem: str) -> None:
    results.problems.append(problem)
    say(f"FAILED: {problem}")

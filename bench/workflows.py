"""Measure tasks of real workflows: Conductor and taskgate side by side on Conductor's own SQLite database.

A real Conductor wrote the rows, as often as its workflows ran each kind of task. They are requested in turn: a few of
them repeatedly, or so many that every call is for a row that taskgate has not converted before.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path

from bench.cases import Case
from bench.importing import import_tasks
from bench.loads import Load, run
from bench.measuring import MAIN_CONNECTIONS, Settings, measure
from bench.peers import conductor
from bench.report import Report
from bench.servers import PROXIED, Server, Site, Starter, start_taskgate
from bench.targets import Target, ask
from bench.tasks import Document
from bench.workflow_rows import WorkflowRow, workflow_rows
from tools.processes import Failed
from tools.servers import WRK, Missing, find

COPIES = 210
"""Copies of every row, each with an ID of its own: more bytes than taskgate keeps converted."""

CONDUCTOR = "Conductor"
EMBEDDED = "taskgate embedded, on Conductor's database"
PROXIED_READS = "taskgate proxied, on Conductor's database"
IMPORTED = "taskgate embedded, the same tasks imported"

_TASKS = Document("tasks of real workflows", "", 0)
"""Their name in a cell; they have several sizes."""

_AIM = 0.9
"""Calls for tasks made from rows ÷ calls for imported ones, both requested repeatedly."""

_ROUNDS, _SECONDS = 5, 2.0
_CONNECTIONS = (MAIN_CONNECTIONS, 1)

_WARM_UP = Load(16, 40.0)
"""Java code runs many times slower before it is compiled; the rate is stable after half a minute."""

_MOVES = "queueWaitTime"
"""Depends on the clock where a task waits for its callback."""

_NAMESPACE = uuid.UUID("0c5f0f5a-6f0f-5c86-9d53-f7b6a3c8f5a2")


def measure_workflows(site: Site, settings: Settings, report: Report) -> None:
    """Compare with Conductor. Raises Missing without it."""
    find(WRK)
    each = len(workflow_rows())
    notes = (
        f"The {each} tasks of recorded workflows, {COPIES * each:,} with their copies, in Conductor's SQLite file.",
        f"Again: {each} in turn. Once: all in turn, more than taskgate keeps converted.",
        "Conductor is warm, and stopped while others are asked.",
    )
    own = replace(site, folder=site.folder / "workflows")
    own.folder.mkdir()
    with _servers(own, settings, report) as servers:
        for count in [count for count in _CONNECTIONS if count in settings.connections] or settings.connections:
            cell = settings.cell(_TASKS, count, _ROUNDS, _SECONDS if count > 1 else _SECONDS / 2)
            report.add(
                f"{_TASKS.name.capitalize()}, {count} in flight", measure(CASES, cell, servers, report.say), notes
            )


@contextmanager
def _servers(site: Site, settings: Settings, report: Report) -> Iterator[dict[str, Server]]:
    """Run Conductor with the rows in its database, and taskgate on the same file and on an import; stop all after."""
    with ExitStack() as stack:
        report.say("starting Conductor, and warming it up; that takes two minutes")
        servers = {CONDUCTOR: conductor.start(site)}
        peer = stack.enter_context(servers[CONDUCTOR].process)
        conductor.seed(servers[CONDUCTOR], site, ((row.task_id, row.stored) for row in copied_rows()))
        run(_in_turn(servers[CONDUCTOR], once=True), replace(_WARM_UP, seconds=5.0) if settings.quick else _WARM_UP)
        peer.freeze()
        imported = site.folder / "imported.db"
        import_tasks(imported, _write_documents)
        on_conductors = partial(start_taskgate, store=f"sqlite:///{conductor.database_of(site)}")
        starters: Mapping[str, Starter] = {
            EMBEDDED: lambda site: on_conductors(site, "--layout", "conductor"),
            PROXIED_READS: lambda site: on_conductors(site, "--layout", "conductor", *PROXIED),
            IMPORTED: lambda site: start_taskgate(replace(site, database=imported)),
        }
        for name, start in starters.items():
            try:
                servers[name] = start(site)
            except Missing as reason:
                report.leave_out(name, str(reason))
            else:
                stack.enter_context(servers[name].process)
        yield servers


def copied_rows() -> Iterator[WorkflowRow]:
    """Return every row ``COPIES`` times, one round of copies after the other, each in the order of the rows."""
    for number in range(COPIES):
        for row in workflow_rows():
            yield row.renamed(str(uuid.uuid5(_NAMESPACE, f"{number} {row.task_id}")))


def _write_documents(path: Path) -> None:
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{row.answer}\n" for row in copied_rows())


def _target(server: Server, _: Document, *, once: bool) -> Target:
    """Request every task once, or those of one round of copies. Raises Failed if an answer is not Conductor's."""
    rows = list(islice(copied_rows(), len(workflow_rows())))
    answers = [ask(Target(server.http, f"/api/tasks/{row.task_id}", b"")) for row in rows]
    for row, answer in zip(rows, answers, strict=True):
        if _still(answer) != _still(row.answer):
            raise Failed(f"{server.http}: task {row.task_id} is answered otherwise than recorded: {answer[:200]!r}")
    return replace(_in_turn(server, once=once), answer=answers[0])


def _in_turn(server: Server, *, once: bool) -> Target:
    task_ids = _task_ids() if once else _task_ids()[: len(workflow_rows())]
    path, *others = (f"/api/tasks/{task_id}" for task_id in task_ids)
    return Target(server.http, path, b"", others=tuple(others))


@cache
def _task_ids() -> tuple[str, ...]:
    return tuple(row.task_id for row in copied_rows())


def _still(answer: bytes | str) -> object:
    """Return the members that do not depend on the clock."""
    return {name: value for name, value in json.loads(answer).items() if name != _MOVES}


def _cases(how: str, aim: float | None, *, once: bool) -> Iterator[Case]:
    over: Mapping[str, Mapping[str, float | None]] = {
        CONDUCTOR: {},
        EMBEDDED: {CONDUCTOR: None, IMPORTED: aim},
        PROXIED_READS: {CONDUCTOR: None},
        IMPORTED: {CONDUCTOR: None},
    }
    for name, baselines in over.items():
        keys = {f"{baseline}, {how}": wanted for baseline, wanted in baselines.items()}
        yield Case(f"{name}, {how}", f"{name}, {how}", name, partial(_target, once=once), keys)


CASES = (*_cases("again", _AIM, once=False), *_cases("once", None, once=True))

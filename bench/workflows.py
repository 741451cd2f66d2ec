"""Tasks of real workflows: Conductor and taskgate side by side on Conductor's own SQLite database.

The rows are those that a real Conductor wrote, as often as its workflows ran each kind of task. They are asked for in
turn: few of them again and again, or so many that every call is for a row that taskgate has not converted before.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import chain, islice, repeat
from pathlib import Path

from bench.cases import Case
from bench.commands import import_tasks
from bench.conductor import conductor_database, seed_conductor, start_conductor_process
from bench.errors import BenchError, PeerMissing
from bench.loads import Generator, Generators, Load
from bench.plan import Cell
from bench.servers import GRPCIO_TRANSPORT, Server, Site, free_address, start_taskgate
from bench.targets import HttpGet, ask
from bench.tasks import Document
from bench.workflow_rows import WorkflowRow, workflow_rows

COPIES = 210
"""Of every row, each with an ID of its own: more bytes than taskgate keeps converted."""

CONDUCTOR = "Conductor"
INSIDE = "taskgate inside Envoy, on Conductor's database"
BEHIND = "taskgate behind Envoy, on Conductor's database"
IMPORTED = "taskgate inside Envoy, the same tasks imported"
SUBJECTS = (CONDUCTOR, INSIDE, BEHIND, IMPORTED)

AGAIN, FIRST = "asked again and again", "each asked for once"

TASKS = Document("tasks of real workflows", "", 0)
"""Stands for them in a cell; they have no one size."""

_WARM_UP_CALLS, _WARM_UP_SECONDS = 16, 40.0
"""What Java has not compiled yet runs many times slower; after half a minute its rate grows no more."""

_MOVES = "queueWaitTime"
"""Depends on the clock where a task waits for its callback."""

_NAMESPACE = uuid.UUID("0c5f0f5a-6f0f-5c86-9d53-f7b6a3c8f5a2")


def copied_rows() -> Iterator[WorkflowRow]:
    """Every row ``COPIES`` times; the copies of one round come one after the other, in the order of the rows."""
    for number in range(COPIES):
        for row in workflow_rows():
            yield row.renamed(str(uuid.uuid5(_NAMESPACE, f"{number} {row.task_id}")))


@contextmanager
def running_workflows(
    site: Site, generators: Generators, say: Callable[[str], None], missing: Callable[[str, str], None]
) -> Iterator[dict[str, Server]]:
    """Conductor with the rows in its database, and taskgate on the same file and on an import; all end afterwards.

    ``missing`` is called with the name and reason of what is not to be had here. Without Conductor nothing is started.
    """
    site = replace(site, folder=site.folder / "workflows")
    site.folder.mkdir()
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        say("starting Conductor; that takes a minute or more")
        try:
            servers[CONDUCTOR] = _start_conductor(stack, site, generators.http_other)
        except PeerMissing as reason:
            missing(CONDUCTOR, str(reason))
            yield {}
            return
        store = f"sqlite:///{conductor_database(site.folder)}"
        documents = site.folder / "workflows.db"
        import_tasks(documents, COPIES * len(workflow_rows()), _write_documents)
        starters: Mapping[str, Callable[[], Server]] = {
            INSIDE: partial(start_taskgate, site, store=store, layout="conductor", name="workflows"),
            BEHIND: partial(start_taskgate, site, GRPCIO_TRANSPORT, store=store, layout="conductor", name="workflows"),
            IMPORTED: partial(start_taskgate, replace(site, database=documents)),
        }
        for subject, start in starters.items():
            try:
                servers[subject] = start()
            except PeerMissing as reason:
                missing(subject, str(reason))
            else:
                stack.enter_context(servers[subject].process)
        yield servers


def workflow_cell(cell: Cell) -> Cell:
    """``cell`` with tasks of real workflows."""
    return replace(cell, document=TASKS)


def _start_conductor(stack: ExitStack, site: Site, generator: Generator) -> Server:
    http = free_address()
    process = stack.enter_context(start_conductor_process(site.conductor, http, site.folder))
    seed_conductor(process, http, site.folder, ((row.task_id, row.stored) for row in copied_rows()))
    generator.run(_in_turn(http, first=True), Load(_WARM_UP_CALLS, _WARM_UP_SECONDS))
    process.sleep()
    return Server(process, http=http)


def _write_documents(path: Path) -> None:
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{row.answer}\n" for row in copied_rows())


@cache
def _task_ids() -> tuple[str, ...]:
    return tuple(row.task_id for row in copied_rows())


def _target(server: Server, document: Document, *, first: bool) -> HttpGet:
    """Every task in turn, or those of one round of copies. Raises BenchError where an answer is not Conductor's."""
    del document
    rows = list(islice(copied_rows(), len(workflow_rows())))
    answers = [ask(HttpGet(server.http, f"/api/tasks/{row.task_id}", b"")) for row in rows]
    for row, answer in zip(rows, answers, strict=True):
        if _still(answer) != _still(row.answer):
            raise BenchError(f"{server.http}: task {row.task_id} is answered otherwise than recorded: {answer[:200]!r}")
    return _in_turn(server.http, first=first, answer=answers[0])


def _in_turn(authority: str, *, first: bool, answer: bytes = b"") -> HttpGet:
    task_ids = _task_ids() if first else _task_ids()[: len(workflow_rows())]
    path, *others = (f"/api/tasks/{task_id}" for task_id in task_ids)
    return HttpGet(authority, path, answer, tuple(others), sizes_differ=True)


def _still(answer: bytes | str) -> object:
    """The members that do not move with the clock."""
    return {name: value for name, value in json.loads(answer).items() if name != _MOVES}


def _cases() -> tuple[Case, ...]:
    asked = chain(zip(SUBJECTS, repeat((AGAIN, False))), zip(SUBJECTS, repeat((FIRST, True))))
    return tuple(
        Case(f"{subject}: {how}", f"{subject}: {how}", subject, partial(_target, first=first))
        for subject, (how, first) in asked
    )


WORKFLOW_CASES = _cases()

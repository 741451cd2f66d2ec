"""``make conformance``: taskgate and a real Conductor on the same database give the same answers, task by task.

Not a part of ``make test``, which is why the file's name is one that pytest does not collect by itself: it needs
Conductor's jar (458 MB) and minutes. What a run finds on SQLite is kept in ``tests/data`` (``CONFORMANCE_RECORD=1``
writes it), where ``tests/unit/documents/test_recorded_conductor.py`` looks at it every time.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import ndiff
from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from against_conductor.conductor import Conductor, running_conductor
from against_conductor.databases import Database, running_database
from against_conductor.http_target import running_target
from against_conductor.runs import record_run, record_seeded, run_scenarios
from support.conductor_stub import conductor_get_task
from support.documents import UNKNOWN_ID
from support.recorded import RUN, SEEDED, Recorded, projection_unlike, queue_waits, unequal, write_recorded
from support.running import Running
from taskgate.v1.task_pb2 import Task
from tools.conductor_jar import CONDUCTOR_VERSION

RECORD_VARIABLE = "CONFORMANCE_RECORD"
RECORDING = Path(__file__).parent.parent / "data" / f"conductor-{CONDUCTOR_VERSION}.ndjson"

DATABASES = {
    "sqlite": (),
    "postgresql": (),
    "mysql": ("mysqld",),
    "redis": ("redis-server",),
    "cassandra": ("cassandra", "redis-server"),
}
"""What each needs besides Conductor itself."""

FIRST_OF_OURS = 1000
"""Field numbers from here on are those that ``protos/taskgate/v1`` adds."""

_NO_SUCH_NULL = "REST leaves the null out, and ours says what a missing key means; no server writes that null"
OTHERWISE_OVER_GRPC = {
    "infinite numbers": "numbers in Conductor's messages, and texts in ours, as they are over REST",
    "workflowTask.type null": _NO_SUCH_NULL,
    "definition with timeoutPolicy null": _NO_SUCH_NULL,
    "definition with backoffScaleFactor null": _NO_SUCH_NULL,
}
"""Seeded rows for which the two gRPC answers differ, and how."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A running Conductor on a database, and all that it has answered."""

    conductor: Conductor
    database: Database
    recorded: list[Recorded]


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.needs("conductor", *parts)) for name, parts in DATABASES.items()],
)
def compared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compared]:
    """Each database in turn: Conductor started, everything run, seeded and recorded."""
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    with (
        running_database(name, folder) as database,
        running_conductor(database, folder) as conductor,
        running_target() as target,
    ):
        run_scenarios(conductor, target)
        recorded = record_run(conductor, database) + record_seeded(conductor, database)
        if name == "sqlite" and os.environ.get(RECORD_VARIABLE):
            RECORDING.parent.mkdir(exist_ok=True)
            write_recorded(RECORDING, recorded)
        yield Compared(conductor, database, recorded)


@pytest.fixture(scope="module")
def beside(compared: Compared) -> Iterator[Running]:
    """A taskgate on Conductor's own database, while Conductor runs."""
    with Running(
        *("up", "--store", compared.database.store_url, "--layout", "conductor", "--task-id-format", "any"),
        *("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--log-format", "json"),
    ) as running:
        yield running


def report(request: pytest.FixtureRequest, text: str, **markup: bool) -> None:
    """A line of results, passed tests or not."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        request.config.get_terminal_writer().line(f"\n  {text}", **markup)


def test_every_kind_of_task_was_there(compared: Compared, request: pytest.FixtureRequest) -> None:
    """The workflows have left what they were written for; otherwise an agreement would mean little."""
    rows = [json.loads(task.stored) for task in compared.recorded if task.origin == RUN]
    kinds = Counter(row["taskType"] for row in rows)
    statuses = Counter(row["status"] for row in rows)
    report(
        request, f"{len(rows)} tasks run: {dict(kinds)}; {dict(statuses)}; {len(compared.recorded) - len(rows)} seeded"
    )
    expected = {
        "HTTP",
        "INLINE",
        "JSON_JQ_TRANSFORM",
        "SWITCH",
        "DECISION",
        "FORK",
        "JOIN",
        "EXCLUSIVE_JOIN",
        "DO_WHILE",
    }
    expected |= {"SUB_WORKFLOW", "START_WORKFLOW", "WAIT", "HUMAN", "SET_VARIABLE", "TERMINATE", "NOOP", "echo"}
    assert expected <= set(kinds)
    assert len(statuses) == 9  # all there are
    assert any("externalInputPayloadStoragePath" in row for row in rows)
    assert any("externalOutputPayloadStoragePath" in row for row in rows)
    assert any(len(row.get("reasonForIncompletion", "")) > 500 for row in rows)


def test_projections_are_the_answers(compared: Compared) -> None:
    """For every row, byte for byte."""
    found = {task.name: unlike for task in compared.recorded if (unlike := projection_unlike(task))}
    assert not found, json.dumps(found, indent=1)


def test_rest_answers_are_equal(compared: Compared, beside: Running, request: pytest.FixtureRequest) -> None:
    """``GET /api/tasks/{id}`` of both, on the same database: the same bytes, but what the clock moves between them."""
    address = beside.wait_for(r"REST +http://(\S+)/api/tasks/")[1]
    taskgate = Conductor(http=address, grpc="")
    found: dict[str, list[str]] = {}
    for task in compared.recorded:
        before = time.time_ns() // 1_000_000
        status, body = taskgate.call("GET", f"/api/tasks/{task.task_id}")
        if task.status != 200 or status != 200:
            if status != task.taskgate_status:
                found[task.name] = [f"Conductor answers {task.status}, taskgate {status}: {body[:300]!r}"]
            continue
        theirs = compared.conductor.must("GET", f"/api/tasks/{task.task_id}")
        stored = compared.database.row(task.task_id)
        assert stored is not None
        # Conductor was asked after taskgate; both lie between what it can be before the one and after the other.
        later = time.time_ns() // 1_000_000
        if unlike := unequal(
            theirs, body, lambda stored=stored, before=before, later=later: queue_waits(stored, before, later)
        ):
            found[task.name] = unlike
    report(request, f"REST: {len(compared.recorded)} tasks, {len(found)} unlike in any byte")
    assert not found, json.dumps(found, indent=1)


@pytest.mark.parametrize("task_id", [UNKNOWN_ID, "no-uuid-at-all"])
def test_unknown_tasks_are_told_in_the_same_words(compared: Compared, beside: Running, task_id: str) -> None:
    theirs, ours = _errors(compared, beside, "GET", f"/api/tasks/{task_id}")
    if theirs[0] == HTTPStatus.BAD_REQUEST:
        # On Cassandra alone, where task IDs are of type uuid, Conductor tells a malformed ID from an unknown one.
        # taskgate does so by --task-id-format, on every database; here it is told that any text may be an ID.
        assert compared.database.store_url.startswith("cassandra://")
        assert task_id != UNKNOWN_ID
        assert ours[0] == HTTPStatus.NOT_FOUND
    else:
        assert ours == theirs


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", f"/api/tasks/{UNKNOWN_ID}"), ("PUT", f"/api/tasks/{UNKNOWN_ID}"), ("GET", "/api/tasks/")],
)
def test_other_errors_differ_in_words_only(compared: Compared, beside: Running, method: str, path: str) -> None:
    """What Conductor says there is its web framework's wording, which ours does not copy."""
    (status, theirs), (found, ours) = _errors(compared, beside, method, path)
    assert found == status
    assert ours | {"message": ""} == theirs | {"message": ""}
    assert ours["message"]


def _errors(compared: Compared, beside: Running, method: str, path: str) -> list[tuple[int, dict[str, Any]]]:
    """Conductor's answer and ours, status and body but for ``instance``: each names its own host."""
    address = beside.wait_for(r"REST +http://(\S+)/api/tasks/")[1]
    answers = [conductor.call(method, path) for conductor in (compared.conductor, Conductor(http=address, grpc=""))]
    return [(status, json.loads(body) | {"instance": ""}) for status, body in answers]


def test_grpc_answers_where_conductors_fails(
    compared: Compared, beside: Running, request: pytest.FixtureRequest
) -> None:
    """One stub, made from Conductor's protos, asks both for every task; where both answer, they say the same.

    Ours answers for every task that a workflow left, Conductor's for none with an integer in its data.
    """
    ours = beside.wait_for(r"gRPC .*?; ([^ ,]+)")[1]
    failures: dict[str, Counter[str]] = {RUN: Counter(), SEEDED: Counter()}
    refused: list[str] = []
    found: dict[str, list[str]] = {}
    tasks = [task for task in compared.recorded if task.status == 200]
    with grpc.insecure_channel(compared.conductor.grpc) as theirs, grpc.insecure_channel(ours) as mine:
        for task in tasks:
            answer, expected = _ask(mine, task.task_id), _ask(theirs, task.task_id)
            if isinstance(expected, str):
                failures[task.origin][expected] += 1
            if isinstance(answer, str):
                refused.append(f"{task.name} ({_in_short(expected)})")
                if task.origin == RUN or not answer.startswith("DATA_LOSS"):
                    found[task.name] = [answer, _in_short(expected)]
            elif isinstance(expected, Task):
                unlike = [line for line in ndiff(_lines(expected), _lines(answer)) if line[0] in "+-"]
                if unlike and task.task not in OTHERWISE_OVER_GRPC:
                    found[task.name] = unlike
    for origin, counted in failures.items():
        asked = sum(task.origin == origin for task in tasks)
        report(request, f"gRPC, {origin}: of {asked} tasks Conductor fails on {counted.total()}: {dict(counted)}")
    report(request, f"gRPC: refused by taskgate, with what Conductor says: {refused}")
    assert any("cannot map to Value type" in failure for failure in failures[RUN])
    assert not found, json.dumps(found, indent=1)


def _ask(channel: grpc.Channel, task_id: str) -> Task | str:
    """The task with all that was sent, the fields that the stub does not know included; or what went wrong."""
    try:
        answer = conductor_get_task(channel, task_id).SerializeToString()
    except grpc.RpcError as error:
        details, mark, _ = (error.details() or "").partition("Value type: ")
        return f"{error.code().name}: {details}{mark}"  # without the value that it is about
    return Task.FromString(answer)


def _in_short(answer: Task | str) -> str:
    return answer[:60] if isinstance(answer, str) else "an answer"


def _lines(task: Task) -> list[str]:
    """The fields that Conductor's protos have."""
    kept = Task()
    kept.CopyFrom(task)
    _clear_ours(kept)
    return str(kept).splitlines()


def _clear_ours(message: Message) -> None:
    """Remove what Conductor's messages cannot say: fields from ``FIRST_OF_OURS`` on, and that a default is set.

    A default is an empty text or the first value of an enum; ours say whether it is set.
    """
    for field, value in message.ListFields():
        if field.number >= FIRST_OF_OURS or value == "" or (field.enum_type is not None and value == 0):
            message.ClearField(field.name)
        elif field.message_type is None or field.message_type.full_name.startswith("google."):
            continue
        elif not field.is_repeated:
            _clear_ours(value)
        elif not field.message_type.GetOptions().map_entry:
            for item in value:
                _clear_ours(item)
        elif field.message_type.fields_by_name["value"].message_type is not None:
            for item in value.values():
                _clear_ours(item)

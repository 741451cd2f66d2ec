"""Tasks directly from the SQLite file that Conductor writes: ``--layout conductor``, through every client."""

import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from support.clients import CLIENTS, Client, GrpcClient, open_client
from support.conductor_stub import conductor_get_task
from support.documents import DOCUMENTED, DOCUMENTED_COMPACT, DOCUMENTED_ID, UNKNOWN_ID, compact, put_row
from support.running import System, eventually, running_system
from taskgate.documents.document import MAX_NESTING
from taskgate.v1.task_pb2 import Task

# Conductor's own table (SQLite's ``V1__initial_schema.sql``), in write-ahead mode, as it is while Conductor runs.
CONDUCTORS_FILE = """
PRAGMA journal_mode = WAL;
CREATE TABLE task (
    task_id TEXT PRIMARY KEY,
    json_data TEXT NOT NULL,
    created_on DATETIME DEFAULT CURRENT_TIMESTAMP,
    modified_on DATETIME DEFAULT CURRENT_TIMESTAMP
);
"""


def row(task_id: str, **changes: Any) -> str:
    """The documented task as Conductor stores it."""
    stored = {"callbackAfterMs": 0, "idempotent": False, "notifications": {}, "asyncComplete": False}
    return compact(json.loads(DOCUMENTED) | stored | {"taskId": task_id} | changes).decode()


def answer(**changes: Any) -> bytes:
    """Conductor's answer for it: the documented task, and the additions of current versions."""
    task = json.loads(DOCUMENTED)
    task["workflowTask"]["metadata"] = {}
    task |= changes
    first = task.pop("firstStartTime")
    loop, definition, wait = (task.pop(name) for name in ("loopOverTask", "taskDefinition", "queueWaitTime"))
    task |= {"firstStartTime": first}
    task |= {"executionMetadata": {"additionalContext": {}, "additionalContextMap": {}, "empty": True}}
    return compact(task | {"taskDefinition": definition, "loopOverTask": loop, "queueWaitTime": wait})


@pytest.fixture(scope="module")
def conductor(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """``taskgate up --layout conductor`` beside a writer that keeps the file open, as Conductor does."""
    database = tmp_path_factory.mktemp("conductor") / "c123.db"
    with closing(sqlite3.connect(database)) as writer:
        writer.executescript(CONDUCTORS_FILE)
        put_row(database, DOCUMENTED_ID, row(DOCUMENTED_ID))
        with running_system(database, "--layout", "conductor", mode=mode, workers=1) as system:
            yield system


@pytest.fixture(params=CLIENTS)
def conductor_client(request: pytest.FixtureRequest, conductor: System) -> Iterator[Client]:
    opened = open_client(request.param, conductor.http, conductor.grpc)
    yield opened
    opened.close()


@pytest.fixture(params=["grpc", "grpc-envoy"])
def conductor_grpc_client(request: pytest.FixtureRequest, conductor: System) -> Iterator[GrpcClient]:
    opened = open_client(request.param, conductor.http, conductor.grpc)
    assert isinstance(opened, GrpcClient)
    yield opened
    opened.close()


def test_row_is_answered_as_conductor_answers_it(conductor_client: Client) -> None:
    """``TaskModel.toTask()``: fields dropped, fields added, nothing else changed."""
    outcome = conductor_client.get_task_json(DOCUMENTED_ID)
    assert (outcome.status, outcome.document) == (200, answer())
    assert outcome.document != DOCUMENTED_COMPACT


def test_row_is_a_typed_task(conductor_grpc_client: GrpcClient) -> None:
    outcome, task = conductor_grpc_client.get_task(DOCUMENTED_ID)
    assert outcome.status == 200
    assert (task.task_id, task.status, task.seq) == (DOCUMENTED_ID, Task.Status.COMPLETED, 1)
    assert task.output_data["response"].struct_value.fields["statusCode"].number_value == 200
    assert conductor_get_task(conductor_grpc_client.channel, DOCUMENTED_ID).workflow_task.name == "http"


def test_unknown_id_is_not_found(conductor_client: Client) -> None:
    outcome = conductor_client.get_task_json(UNKNOWN_ID)
    assert (outcome.status, outcome.message) == (404, f"Task not found for taskId: {UNKNOWN_ID}")


def test_what_conductor_writes_meanwhile_is_answered(conductor: System, conductor_client: Client) -> None:
    """The next call after a commit sees it."""
    task_id = str(uuid.uuid4())
    for status in ("SCHEDULED", "IN_PROGRESS", "COMPLETED"):
        put_row(conductor.database, task_id, row(task_id, status=status))
        outcome = conductor_client.get_task_json(task_id)
        assert outcome.document == answer(taskId=task_id, status=status)


def test_queue_wait_time_of_a_task_with_a_callback_counts_on(conductor: System, conductor_client: Client) -> None:
    """``Task.getQueueWaitTime()`` depends on the clock: no such answer is cached."""
    task_id = str(uuid.uuid4())
    put_row(conductor.database, task_id, row(task_id, callbackAfterSeconds=1))

    def wait_time() -> int:
        wait = json.loads(conductor_client.get_task_json(task_id).document)["queueWaitTime"]
        assert isinstance(wait, int)
        return wait

    first = wait_time()
    assert first > 0
    later = eventually(lambda: wait if (wait := wait_time()) > first else None, "a longer wait")
    if isinstance(conductor_client, GrpcClient):
        _, task = conductor_client.get_task(task_id)
        assert task.queue_wait_time >= later
        eventually(lambda: conductor_client.get_task(task_id)[1].queue_wait_time > task.queue_wait_time, "a longer one")
    assert wait_time() >= later


def test_row_that_is_null_is_not_found(conductor: System, conductor_client: Client, subtests: pytest.Subtests) -> None:
    """404, as Conductor says, whatever follows the null, on the event loop and in the process for large rows."""
    for stored in ("null", " \r\n\tnull", "null and more", "null" + " " * 2**18):
        task_id = str(uuid.uuid4())
        put_row(conductor.database, task_id, stored)
        with subtests.test(stored[:20]):
            outcome = conductor_client.get_task_json(task_id)
            assert (outcome.status, outcome.message) == (404, f"Task not found for taskId: {task_id}")
            if isinstance(conductor_client, GrpcClient):
                typed, _ = conductor_client.get_task(task_id)
                assert (typed.code, typed.reason) == ("NOT_FOUND", "ERROR_REASON_TASK_NOT_FOUND")


def test_row_that_conductor_could_not_read_is_an_error(
    conductor: System, conductor_client: Client, subtests: pytest.Subtests
) -> None:
    """500, as Conductor says; the message names the task and nothing of the row."""
    wrong_fields = ('{"status":"NOT_INVENTED_YET"}', '{"status":"COMPLETED","retryCount":"many"}')
    for stored in ("", "nullable", "\ufeffnull", "no JSON", "[]", "{}", *wrong_fields):
        task_id = str(uuid.uuid4())
        put_row(conductor.database, task_id, stored)
        with subtests.test(stored):
            outcome = conductor_client.get_task_json(task_id)
            assert (outcome.status, outcome.message) == (500, f"The stored document of task {task_id} cannot be read")
            assert outcome.code in {None, "DATA_LOSS"}
            if isinstance(conductor_client, GrpcClient):
                typed, _ = conductor_client.get_task(task_id)
                assert (typed.code, typed.reason) == ("DATA_LOSS", "ERROR_REASON_DOCUMENT_UNREADABLE")


def test_large_row_is_answered(conductor: System, conductor_client: Client) -> None:
    """Two megabytes, projected outside the event loop; floats in Java's form."""
    task_id = str(uuid.uuid4())
    values = ["x" * 1000, 0.00001, 2**70, None]
    put_row(conductor.database, task_id, row(task_id, outputData={"values": values * 2000}))
    outcome = conductor_client.get_task_json(task_id)
    expected = answer(taskId=task_id, outputData={"values": values * 2000}).replace(b"1e-05", b"1.0E-5")
    assert (outcome.status, outcome.document == expected) == (200, True)
    if isinstance(conductor_client, GrpcClient):
        typed, task = conductor_client.get_task(task_id)
        assert (typed.status, len(task.output_data["values"].list_value.values)) == (200, 8000)


def test_answer_that_is_smaller_than_its_row_is_whole(
    conductor: System, conductor_client: Client, subtests: pytest.Subtests
) -> None:
    """For a row over 64 KiB, whose spaces are not in the answer."""
    for size in (1_000, 40_000, 70_000):
        task_id = str(uuid.uuid4())
        changes = {"status": "FAILED", "outputData": {"a": "x" * size}}
        put_row(conductor.database, task_id, " " * 80_000 + row(task_id, **changes))
        with subtests.test(f"{size} bytes"):
            outcome = conductor_client.get_task_json(task_id)
            assert (outcome.status, outcome.document) == (200, answer(taskId=task_id, **changes))
            if isinstance(conductor_client, GrpcClient):
                typed, task = conductor_client.get_task(task_id)
                assert (typed.status, task.output_data["a"].string_value) == (200, "x" * size)


def test_row_as_deep_as_allowed_is_answered(
    conductor: System, conductor_client: Client, subtests: pytest.Subtests
) -> None:
    """In the threads of every server, however it is read and written."""
    for way, value in (("read at once", "1"), ("read leniently", '"\\uD800"')):
        task_id = str(uuid.uuid4())
        deep = "[" * (MAX_NESTING - 2) + value + "]" * (MAX_NESTING - 2)
        put_row(conductor.database, task_id, f'{{"status":"COMPLETED","inputData":{{"a":{deep}}}}}')
        with subtests.test(way):
            outcome = conductor_client.get_task_json(task_id)
            assert (outcome.status, f'"inputData":{{"a":{deep}}}'.encode() in outcome.document) == (200, True)


def test_projection_that_grows_too_large_is_refused(conductor: System, conductor_client: Client) -> None:
    """An emoji has four bytes in the row and twelve in the answer."""
    task_id = str(uuid.uuid4())
    put_row(conductor.database, task_id, row(task_id, outputData={"a": "😀" * (3 * 1024 * 1024)}))
    outcome = conductor_client.get_task_json(task_id)
    assert outcome.status == 500
    assert f"Task {task_id} is a document of 377" in outcome.message


def test_conductors_file_is_left_as_it_is(conductor: System, conductor_client: Client) -> None:
    """No table, no column, no mark of ours."""
    conductor_client.get_task_json(DOCUMENTED_ID)
    with closing(sqlite3.connect(conductor.database)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        columns = [column[1] for column in connection.execute("PRAGMA table_info(task)")]
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
    assert (tables, columns) == ([("task",)], ["task_id", "json_data", "created_on", "modified_on"])
    assert mark == 0

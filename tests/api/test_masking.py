"""``--mask``: named keys are hidden from callers without a role, by every front door."""

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from support.clients import CLIENTS, Client, GrpcClient, open_client
from support.documents import DOCUMENTED, DOCUMENTED_COMPACT, DOCUMENTED_ID, put_row, task
from support.running import System, running_system
from taskgate.documents.task_message import task_from_document

MASK = ("--mask", "password, *token*", "--mask", "_secrets")

HIDDEN = "hunter2"
ODD = (
    '{ "taskId": "ID", "password": 1, "status":"COMPLETED",\r\n "inputData" : {"pass\\u0077ord" : "hunter2" ,'
    '"big":123456789012345678901234567890, "x":1.00,"deep":[[{"API_Token":{"hunter2":["hunter2"]}}]],'
    '"x":"é\\ud83d\\ude00"},'
    ' "inputData":{"a":"\\"password\\":1", "_secrets":["hunter2"]}, "outputData":{"password":null}, "reason":null}\n'
)
"""Duplicate keys, escapes, whitespace and numbers that a parser would not keep."""
ODD_MASKED = (
    '{ "taskId": "ID", "password": 1, "status":"COMPLETED",\r\n "inputData" : {"pass\\u0077ord" : "***" ,'
    '"big":123456789012345678901234567890, "x":1.00,"deep":[[{"API_Token":"***"}]],"x":"é\\ud83d\\ude00"},'
    ' "inputData":{"a":"\\"password\\":1", "_secrets":"***"}, "outputData":{"password":"***"}, "reason":null}\n'
)


@pytest.fixture(params=CLIENTS)
def masked(
    request: pytest.FixtureRequest, mode: str, started: Callable[..., System]
) -> Iterator[tuple[System, Client]]:
    """Each front door of ``taskgate up --mask``."""
    system = started(mode, *MASK, workers=1)
    opened = open_client(request.param, system.http, system.grpc)
    yield system, opened
    opened.close()


def assert_answers(client: Client, task_id: str, expected: bytes) -> None:
    """The document, and over gRPC the typed task made of it."""
    for _ in range(2):  # converted, and from the cache
        outcome = client.get_task_json(task_id)
        assert (outcome.status, outcome.document == expected) == (200, True), outcome.document[:2000]
        if isinstance(client, GrpcClient):
            typed, message = client.get_task(task_id)
            assert typed.status == 200
            assert message == task_from_document(expected)
            assert HIDDEN not in str(message)


def test_named_keys_are_hidden_and_every_other_byte_is_as_stored(masked: tuple[System, Client]) -> None:
    system, client = masked
    task_id = str(uuid.uuid4())
    put_row(system.database, task_id, ODD.replace("ID", task_id).encode())
    assert_answers(client, task_id, ODD_MASKED.replace("ID", task_id).encode())
    assert_answers(client, DOCUMENTED_ID, DOCUMENTED_COMPACT)


def test_large_task_is_masked(masked: tuple[System, Client]) -> None:
    """A megabyte, in the process for conversions."""
    system, client = masked
    task_id = str(uuid.uuid4())
    rows = [{"kept": "x" * 100, "token": [HIDDEN], "n": 1}] * 8_000
    document = task(task_id, outputData={"rows": rows})
    put_row(system.database, task_id, document)
    assert_answers(client, task_id, document.replace(b'["hunter2"]', b'"***"'))


@pytest.mark.parametrize("name", CLIENTS)
def test_conductors_rows_are_masked(conductor: System, name: str) -> None:
    """The documents made of them, in both forms."""
    client = open_client(name, conductor.http, conductor.grpc)
    task_id = str(uuid.uuid4())
    put_row(conductor.database, task_id, task(task_id).decode())
    plain = client.get_task_json(task_id).document
    put_row(conductor.database, task_id, task(task_id, outputData={"my_token": {"a": HIDDEN}, "b": 1}).decode())
    answer = client.get_task_json(task_id).document
    assert b'"outputData":{"my_token":"***","b":1}' in answer
    assert answer.partition(b'"outputData":')[0] == plain.partition(b'"outputData":')[0]
    assert_answers(client, task_id, answer)
    client.close()


@pytest.fixture(scope="module")
def conductor(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """``taskgate up --layout conductor --mask``."""
    database = tmp_path_factory.mktemp("masked") / "c123.db"
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data TEXT NOT NULL)")
        writer.commit()
        put_row(database, DOCUMENTED_ID, DOCUMENTED.decode())
        arguments = ("--layout", "conductor", *MASK)
        with running_system(database, *arguments, mode=mode, workers=1) as system:
            yield system

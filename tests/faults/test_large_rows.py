"""Rows of megabytes of small records in Conductor's layout: their cost must not fall on others."""

import json
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest

from support.clients import GrpcClient, RestClient
from support.documents import DOCUMENTED, DOCUMENTED_ID, compact, put_row, task
from support.load import callers, in_threads
from support.running import System, command_line, eventually, running_system
from taskgate.documents.conductor import project_task_model
from taskgate.documents.task_message import task_from_document
from taskgate.service.large_conversions import REFUSED_SECONDS
from taskgate.v1.task_pb2 import Task

READERS = 16


def records(count: int) -> list[object]:
    """80 bytes each as JSON, and seven objects each in memory."""
    return [{"id": n, "name": f"user {n}", "tags": ["a", "b"], "pos": [n, n + 1]} for n in range(count)]


@pytest.mark.long
def test_small_reads_succeed_beside_many_readers_of_large_rows(tmp_path: Path) -> None:
    """No process counts as hung, every answer is right or says that it came too late, and small reads still succeed."""
    rows = {f"65fc73fe-0586-11f1-8b8d-00000000000{n}": records(count) for n, count in ((1, 37_000), (2, 145_000))}
    stored = {task_id: task(task_id, outputData={"users": users}) for task_id, users in rows.items()}
    documents = {task_id: project_task_model(row, 0).document for task_id, row in stored.items()}
    small = compact(json.loads(DOCUMENTED))
    database = tmp_path / "c123.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(
            "PRAGMA journal_mode = WAL; CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data TEXT)"
        )
    for task_id, row in {**stored, DOCUMENTED_ID: small}.items():
        put_row(database, task_id, row.decode())
    with running_system(database, "--layout", "conductor", workers=1) as system, ExitStack() as clients:
        before = {envoy.pid for envoy in system.envoys()}
        waits: list[float] = []

        def read_small(number: int, stop: threading.Event) -> None:
            client = RestClient("rest", system.http)
            while not stop.is_set():
                began = time.monotonic()
                assert client.get_task_json(DOCUMENTED_ID).document == project_task_model(small, 0).document
                waits.append(time.monotonic() - began)
            client.close()

        with in_threads(2, read_small), callers(system, READERS, documents) as outcomes:
            eventually(lambda: outcomes["ok"] >= 2 * READERS and len(waits) > 100, "enough of both")
        assert all(kind == "ok" or kind.startswith(("503 ", "504 ")) for kind in outcomes), outcomes
        assert max(waits) < 2  # a tenth of it on an idle machine
        client = GrpcClient("grpc", system.grpc)
        clients.callback(client.close)
        task_id = next(iter(documents))
        assert client.get_task(task_id)[1] == task_from_document(documents[task_id])
        assert {envoy.pid for envoy in system.envoys()} == before
        assert system.events("worker gone; replacing it") == []


def converters(system: System) -> list[psutil.Process]:
    """The processes that convert large tasks, in the order of their start."""
    found = [p for p in system.family() if "taskgate.service.conversion_process" in " ".join(command_line(p))]
    return sorted(found, key=lambda process: process.create_time())


@pytest.mark.long
@pytest.mark.parametrize("mode", ["embedded", "proxied"])
def test_killed_conversion_fails_no_call_and_twice_a_retryable_one(tmp_path: Path, mode: str) -> None:
    """As the kernel kills when memory runs out: one kill is not noticed; two cause a refusal, and no loop."""
    with running_system(tmp_path / "tasks.db", mode=mode, workers=1) as system, ExitStack() as clients:
        client = GrpcClient("grpc", system.grpc)
        clients.callback(client.close)

        def new_task(number: int) -> Task:
            """A task to ask for; a task that was asked for before might not be converted again."""
            document = task(DOCUMENTED_ID, outputData={"number": number, "users": records(8_000)})
            put_row(tmp_path / "tasks.db", DOCUMENTED_ID, document.decode())
            return task_from_document(document)

        expected = new_task(0)
        assert client.get_task(DOCUMENTED_ID)[1] == expected  # the process has started
        for kills in (1, 2):
            expected = new_task(kills)
            with ThreadPoolExecutor(1) as caller:
                for number in range(kills):
                    converter = eventually(lambda: converters(system), "a process")[-1]
                    converter.suspend()  # it must not finish first
                    if number == 0:
                        call = caller.submit(client.get_task, DOCUMENTED_ID)
                        time.sleep(0.3)  # on purpose: the value is on its way to the process
                    converter.kill()
                    eventually(lambda gone=converter: gone not in converters(system), "gone")
                outcome, answer = call.result(60)
            if kills == 1:
                assert answer == expected
            else:
                assert (outcome.code, outcome.reason) == ("RESOURCE_EXHAUSTED", "ERROR_REASON_OVERLOADED")
                assert "try again later" in outcome.message
        time.sleep(REFUSED_SECONDS)  # on purpose: until then calls are refused without a try
        assert client.get_task(DOCUMENTED_ID)[1] == expected
        assert system.events("worker gone; replacing it") == []

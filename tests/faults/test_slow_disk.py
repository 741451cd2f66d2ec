"""A disk that is slow or stalls delays only callers that ask for data outside the memory."""

import sqlite3
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from support.clients import GrpcClient, Outcome, RestClient
from support.documents import task
from support.load import in_threads
from support.running import System, eventually
from support.slow_disk import SlowDisk
from taskgate.documents.conductor import project_task_model

TASKS = 4000
HOT = [f"65fc73fe-0586-11f1-8b8d-{number:012}" for number in range(0, TASKS, TASKS // 10)]
COLD = [f"65fc73fe-0586-11f1-8b8d-{number:012}" for number in range(150, TASKS, 700)]


def row(task_id: str) -> bytes:
    return task(task_id, outputData={"text": "x" * 3000})


def expected(task_id: str) -> bytes:
    return project_task_model(row(task_id), 0).document


def make(file: Path) -> Path:
    """A database that is read without any other file; each task has its own page."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data TEXT)")
        ids = (f"65fc73fe-0586-11f1-8b8d-{number:012}" for number in range(TASKS))
        connection.executemany("INSERT INTO task VALUES (?, ?)", ((task_id, row(task_id)) for task_id in ids))
    return file


@pytest.mark.needs("a slow disk")
@pytest.mark.parametrize("mode", ["embedded", "proxied"])
def test_slow_disk_delays_only_calls_that_read_from_it(tmp_path: Path, mode: str) -> None:
    """Two reads a second, then none for four seconds: tasks read before are served as ever, and no process is replaced.

    Callers that ask for others, by any client and however often, get the answer or the end of the deadline.
    """
    with (
        SlowDisk(tmp_path / "disk", make(tmp_path / "made.db")) as disk,
        System(disk.file, "--layout", "conductor", mode=mode, workers=1, prefix=disk.inside) as system,
    ):
        system.wait_ready()
        with closing(RestClient("rest", system.http)) as client:
            for task_id in HOT * 2:
                assert client.get_task_json(task_id).document == expected(task_id)
        before = {member.pid for member in system.family()}
        waits: list[float] = []
        problems: list[Outcome] = []

        def probe(number: int, stop: threading.Event) -> None:
            with closing(
                (RestClient, GrpcClient)[number % 2]("probe", (system.http, system.grpc)[number % 2])
            ) as client:
                while not stop.wait(0.05):
                    task_id = HOT[len(waits) % len(HOT)]
                    began = time.monotonic()
                    outcome = client.get_task_json(task_id)
                    waits.append(time.monotonic() - began)
                    if outcome.document != expected(task_id):
                        problems.append(outcome)

        def ask(task_id: str) -> Outcome:
            with closing(RestClient("cold", system.http)) as client:
                return client.get_task_json(task_id)

        with in_threads(2, probe), ThreadPoolExecutor(len(COLD) * 4) as callers:
            disk.slow_down(0.5)
            slow = list(callers.map(ask, COLD[:2] * 4))
            disk.stand_still()
            waiting = [callers.submit(ask, task_id) for task_id in COLD[2:] * 4]
            time.sleep(4)  # on purpose: the disk is stalled
            assert not any(call.done() for call in waiting)
            disk.recover()
            slow += [call.result() for call in waiting]
            served = len(waits)
            eventually(lambda: len(waits) > served + 20, "probes after it")
        assert not problems, problems[0]
        assert {outcome.status for outcome in slow} <= {200, 504}
        assert {outcome.document for outcome in slow if outcome.status == 200} <= {
            expected(task_id) for task_id in COLD
        }
        assert {member.pid for member in system.family()} == before
        assert system.events("worker gone; replacing it") == []
        print(  # noqa: T201 - for make faults
            f"{mode}: {len(waits)} probes beside {len(slow)} calls that waited for the disk: none failed,"
            f" p50 {statistics.median(waits) * 1000:.1f}, longest {max(waits) * 1000:.0f} ms"
        )
        assert max(waits) < 2  # each page takes half a second, and a lookup several pages

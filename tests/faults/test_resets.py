"""Callers that ask for large tasks and cancel at once do not stop small reads."""

import statistics
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from support.clients import GrpcClient, Outcome, RestClient
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID, put_row, task
from support.load import in_threads
from support.resets import reset
from support.running import running_system

LARGE_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7f1"
RESETS, SECONDS = 3_000, 2.1


@pytest.mark.long_in("proxied")
@pytest.mark.parametrize("mode", ["embedded", "proxied"])
def test_cancelled_reads_of_a_large_task_hold_up_no_small_one(tmp_path: Path, mode: str) -> None:
    """1,400 resets a second of a read of 10 MB: each probe beside them is answered, and the next reader gets it all."""
    database = tmp_path / "tasks.db"
    with running_system(database, "--demo", mode=mode, workers=1) as system:
        large = task(LARGE_ID, outputData={"text": "x" * 10_000_000})
        put_row(database, LARGE_ID, large.decode())
        before = {member.pid for member in system.family()}
        waits: list[float] = []
        problems: list[Outcome] = []

        def probe(number: int, stop: threading.Event) -> None:
            with closing(
                (RestClient, GrpcClient)[number % 2]("probe", (system.http, system.grpc)[number % 2])
            ) as client:
                while not stop.wait(0.04):
                    began = time.monotonic()
                    outcome = client.get_task_json(DOCUMENTED_ID)
                    waits.append(time.monotonic() - began)
                    if outcome.document != DOCUMENTED_COMPACT:
                        problems.append(outcome)

        with in_threads(2, probe):
            reset(system.http, f"/api/tasks/{LARGE_ID}", RESETS, SECONDS)
        with closing(RestClient("rest", system.http)) as client:
            outcome = client.get_task_json(LARGE_ID)
        assert (outcome.status, outcome.message, outcome.document == large) == (200, "", True)
        assert not problems, problems[0]
        assert {member.pid for member in system.family()} == before
        p99 = statistics.quantiles(waits, n=100)[98]
        print(  # noqa: T201 - for make faults
            f"{mode}: {len(waits)} probes beside {RESETS} resets: none failed,"
            f" p50 {statistics.median(waits) * 1000:.1f}, p99 {p99 * 1000:.0f} ms"
        )
        assert statistics.median(waits) < 0.5  # a hundredth of it on an idle machine

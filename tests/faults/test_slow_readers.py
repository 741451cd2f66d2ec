"""Readers of large answers that stall, trickle, or come all at once: other callers must not notice.

Every test prints its figures (``make faults`` shows them). Bounds are for a busy machine; the aim on a quiet one is a
99th percentile of small calls below 100 ms. ``SLOW_READERS=all`` runs every combination, with longer attacks.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import grpc
import psutil
import pytest

from support.documents import DOCUMENTED_ID, put_row, task
from support.raw_grpc import RawGrpc, request_for
from support.running import System, running_system
from taskgate.documents.task_message import task_from_document
from taskgate.service.endpoints import _HTTP_BODY_TYPE, _field_header

pytestmark = pytest.mark.long

ALL = os.environ.get("SLOW_READERS") == "all"

SECONDS = 40 if ALL else 12
"""How long attackers stay: readers that are too slow lose their room after 10."""

PEAK = 1200 << 20

AFTERWARDS = 300_000_000
"""Bytes of the processes that answer calls, without the supervisor, which has 75 million of its own."""

SETTLED = 30
"""Seconds in which memory goes back to ``AFTERWARDS``; the aim on a quiet machine is 10."""

MODES = ["embedded", "proxied"]
METHODS = ["REST", "GetTaskJson", "GetTask"]

MEGABYTES = 10
DISTINCT = 32


class Load:
    """A process of ``support.large_load``."""

    def __init__(self, kind: str, **arguments: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.large_load", kind, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,  # the folder of the package "support"
        )

    def wait_ready(self) -> Self:
        """Wait until all its calls have begun."""
        assert self._process.stdout is not None
        assert json.loads(self._process.stdout.readline()) == {"ready": True}
        return self

    def result(self) -> dict[str, Any]:
        """Its report once it has ended by itself."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._process.wait(60)
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> dict[str, Any]:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.result()

    def __enter__(self) -> Self:
        return self.wait_ready()

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Memory:
    """Resident bytes of all processes of a system, supervisor and conversion processes included, added up."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.peak = 0
        self.peak_parts: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def now(self) -> int:
        """The current number."""
        parts: Counter[str] = Counter()
        for process in self._system.family():
            try:
                parts[process.name()] += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        total = parts.total()
        if total > self.peak:
            self.peak, self.peak_parts = total, {name: size >> 20 for name, size in parts.items()}
        return total

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.now()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def text(number: int) -> bytes:
    """A task of 10 MB, most of it one text that no other has."""
    noise = random.Random(number).randbytes(1 << 16).hex()
    return task(task_id(number), outputData={"text": noise * (MEGABYTES * 1_000_000 // len(noise))})


def task_id(number: int) -> str:
    return f"65fc73fe-0586-11f1-8b8d-{number:012d}"


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str], Callable[..., Any]]]:
    """A database of large tasks and a small one, their IDs, and each method's answer for one: size and Adler-32."""
    database = tmp_path_factory.mktemp("large") / "tasks.db"
    with running_system(database, "--demo", workers=1):
        pass
    known: dict[tuple[str, str], tuple[int, int]] = {}
    for number in range(DISTINCT):
        document = text(number)
        put_row(database, task_id(number), document.decode())
        known["REST", task_id(number)] = _mark(document)
        body = _HTTP_BODY_TYPE + _field_header(2, document) + document
        known["GetTaskJson", task_id(number)] = _mark(b"\0" + len(body).to_bytes(4) + body)
        message = task_from_document(document).SerializeToString()
        typed = _field_header(1, message) + message
        known["GetTask", task_id(number)] = _mark(b"\0" + len(typed).to_bytes(4) + typed)
    yield database, [task_id(number) for number in range(DISTINCT)], lambda *key: known[key]
    database.unlink()


def _mark(data: bytes) -> tuple[int, int]:
    return len(data), zlib.adler32(data)


@contextmanager
def others_served(system: System, what: str) -> Iterator[Memory]:
    """Small calls and health checks are answered while the block runs, in bounded memory that shrinks afterwards."""
    idle = Memory(system).now()
    with Load("probe", address=system.http, seconds=600, rate=50, task_ids=[DOCUMENTED_ID]) as probes:
        with Memory(system) as memory:
            yield memory
        ended = time.monotonic()
        afterwards = Memory(system)
        supervisor = psutil.Process(system.process.pid).memory_info().rss
        while (left := afterwards.now() - supervisor) > AFTERWARDS and time.monotonic() < ended + SETTLED:
            time.sleep(0.1)
        settled = time.monotonic() - ended
        found = probes.end()
    show(
        f"{what}\n  {found['calls']} probes, ms: p50 {found['p50']}, p90 {found['p90']}, p99 {found['p99']},"
        f" max {found['max']}: {found['outcomes']}\n  MiB: {idle >> 20} idle, {memory.peak >> 20} at most"
        f" {memory.peak_parts}, {left >> 20} after {settled:.1f} s"
    )
    assert set(found["outcomes"]) == {"task ok", "healthz ok"}, found
    assert memory.peak < PEAK
    assert left <= AFTERWARDS
    assert system.events("worker gone; replacing it") == []


def show(text: str) -> None:
    sys.stdout.write(f"{text}\n")


@pytest.mark.parametrize("distinct", [True, False] if ALL else [True], ids=lambda value: "distinct" if value else "one")
@pytest.mark.parametrize("mode", MODES)
def test_slow_readers_over_http1(documents: Any, mode: str, distinct: bool) -> None:
    """300 clients that read 10 MB at 4 KiB a second."""
    database, ids, _ = documents
    with running_system(database, mode=mode, workers=1) as system:
        with others_served(system, f"{mode}: 300 slow readers of {'distinct tasks' if distinct else 'one task'}"):
            arguments = {"count": 300, "seconds": SECONDS, "task_ids": ids if distinct else ids[:1]}
            with Load("slow_http1", address=system.http, **arguments) as load:
                outcomes = load.result()
        show(f"  {outcomes}")
        assert all(how == "cut off" or refused(how) for how in outcomes["outcomes"]), outcomes


@pytest.mark.parametrize(
    ("method", "trickle"),
    [(method, trickle) for method in METHODS for trickle in (0, 10)]
    if ALL
    else list(zip(METHODS, (0, 3, 0), strict=True)),
)
@pytest.mark.parametrize("mode", MODES)
def test_streams_without_a_window(documents: Any, mode: str, method: str, trickle: float) -> None:
    """1,000 streams on 25 connections that accept no bytes, or now and then one."""
    database, ids, _ = documents
    with running_system(database, mode=mode, workers=1) as system:
        what = f"{mode}: 1,000 streams without a window, {method}, a byte every {trickle} s"
        with others_served(system, what):
            arguments = {"count": 1000, "seconds": SECONDS, "task_ids": ids, "method": method, "trickle": trickle}
            with Load("zero_window", address=system.http, **arguments) as load:
                outcomes = load.result()
        show(f"  {outcomes}")
        # Cut off: Envoy treats many window updates without data between them as an attack.
        assert all(how in ("reset", "cut off") or refused(how) for how in outcomes["outcomes"]), outcomes


@pytest.mark.parametrize("trickle", [0, 20_000], ids=["nothing", "20 KB a second"])
def test_unary_answer_on_a_servers_own_port_is_not_kept_for_ever(tmp_path: Path, trickle: int) -> None:
    """Readers without a window, or with one that grows too slowly, hold half of the budget for 18 s of 0.5 MB each.

    Then their calls end while their connections stay, and others of the same address get memory and room.
    """
    database = tmp_path / "tasks.db"
    task_ids = [task_id(number) for number in range(160)]
    with running_system(database, "--demo", mode="proxied", workers=1) as system, ExitStack() as connections:
        for number, known in enumerate(task_ids):
            text = random.Random(number).randbytes(250_000).hex()
            put_row(database, known, task(known, outputData={"text": text}).decode())
        idle = Memory(system).now()
        asked = []
        for start in range(0, len(task_ids), 40):
            connection = connections.enter_context(RawGrpc(system.grpc, window=0))
            connection.h2.increment_flow_control_window(1 << 30)  # for the connection: only the streams are slow
            for known in task_ids[start : start + 40]:
                stream = connection.open()
                connection.data(stream, request_for(known), end=True)
                asked.append((connection, stream))
        until, peak = time.monotonic() + 60, 0
        while any(not connection.answers[stream].ended for connection, stream in asked) and time.monotonic() < until:
            for connection in {connection for connection, _ in asked}:
                connection.receive(0.1)
            for connection, stream in asked:
                if trickle and not connection.answers[stream].ended:
                    connection.h2.increment_flow_control_window(trickle // 10, stream)
            peak = max(peak, Memory(system).now())
            time.sleep(0.1)
        outcomes = Counter(connection.answers[stream].grpc_status for connection, stream in asked)
        show(f"{outcomes}, MiB: {idle >> 20} idle, {peak >> 20} at most")
        assert set(outcomes) <= {grpc.StatusCode.CANCELLED.value[0], grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]}
        assert outcomes[grpc.StatusCode.CANCELLED.value[0]] > len(task_ids) / 2
        assert not any(connection.lost or connection.goaway for connection, _ in asked)
        with RawGrpc(system.grpc) as other:
            assert other.call(request_for(task_ids[0])).grpc_status == 0
        until = time.monotonic() + SETTLED
        while (left := Memory(system).now()) > (idle + peak) / 2 and time.monotonic() < until:
            time.sleep(0.1)
        show(f"  {left >> 20} MiB afterwards")
        assert left <= (idle + peak) / 2


@pytest.mark.parametrize(
    ("method", "distinct"),
    [(method, distinct) for method in METHODS for distinct in (True, False)]
    if ALL
    else [("REST", True), ("GetTaskJson", True), ("GetTask", False)],
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.alone  # the readers take all processors
def test_bursts_of_readers_get_all_or_a_retryable_refusal(
    documents: Any, mode: str, method: str, distinct: bool
) -> None:
    """Five times 256 readers of 10 MB, without a pause: each gets all of it, or a retryable refusal."""
    database, ids, expected = documents
    outcomes: Counter[str] = Counter()
    took = []
    with (
        running_system(database, mode=mode, workers=1) as system,
        others_served(system, f"{mode}: bursts, {method} of {'distinct tasks' if distinct else 'one task'}"),
    ):
        for _ in range(5):
            arguments = {"count": 256, "seconds": 120, "task_ids": ids if distinct else ids[:1], "method": method}
            with Load("burst", address=system.http, **arguments) as load:
                result = load.result()
            took.append(result["seconds"])
            for task, how, *mark in result["taken"]:
                if how in ("0", "200"):
                    assert same(mark, expected(method, task), method)
                    outcomes["whole"] += 1
                else:
                    outcomes[how[:300]] += 1
    show(f"  {outcomes}, seconds {took}")
    assert outcomes["whole"] > 256
    assert all(how == "whole" or refused(how) for how in outcomes), outcomes


def same(taken: Sequence[int], expected: Sequence[int], method: str) -> bool:
    """Whether it is as expected; typed tasks, whose maps have no order, are compared by size and sum of the bytes."""
    bits = 0xFFFF if method == "GetTask" else 0xFFFFFFFF  # the lower half of an Adler-32 is the sum
    return taken[0] == expected[0] and taken[1] & bits == expected[1] & bits


def refused(how: str) -> bool:
    """Whether it is a retryable refusal that names the reason: no room, or no conversion in time."""
    rest = how.startswith("503 ") and "Overloaded: " in how and '"retryable":true' in how
    late = how.startswith("504 ") and '"retryable":true' in how
    return rest or late or how.startswith(("8 Overloaded: ", "4 The call did not finish"))

"""Hours of mixed calls: every answer is an expected one, and no process of the system grows.

``SOAK_SECONDS`` is for all modes together; ``make soak`` sets an hour. The first half is for warming up: caches fill,
and SIGHUP replaces all servers in it. In the second half, memory, descriptors and threads of each process are sampled
every second. They must be flat: a growth of more than the bound, as the slope of Theil and Sen has it, fails the test
if the whole 95 % interval of the slope is above the bound. So short runs find large leaks and long runs small ones.
"""

import http.client
import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from support.clients import GrpcClient
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID, UNKNOWN_ID, task
from support.load import in_threads
from support.running import System, command_line, eventually, taskgate
from support.trend import slope
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest

TOTAL = int(os.environ.get("SOAK_SECONDS", "180"))
SECONDS = {"embedded": TOTAL * 2 // 3, "proxied": TOTAL // 3}
MODES = os.environ.get("SOAK_MODES", "embedded,proxied").split(",")

LARGE_ID = "65fc73fe-0586-11f1-8b8d-000000000001"
LARGE = task(LARGE_ID, outputData={"rows": [{"id": n, "name": f"user {n}", "tags": ["a", "b"]} for n in range(40_000)]})
"""2 MB, of small values: a caller that leaves interrupts a send, a typed answer takes a process of its own."""

TOKEN_LIFETIME = 60
PAUSE = 0.1
"""The average pause between two calls of a caller, in seconds: together about 60 calls a second."""

BOUNDS = {"rss": 6 * 1024 * 1024, "descriptors": 3.0, "threads": 1.0}
"""What a process may grow by in the second half.

6 MiB: two large answers, which the allocator keeps or returns whenever it likes. In an hour, the half for one mode is
20 minutes, with 70,000 calls: 90 bytes a call are found. Descriptors come and go by one for each connection that is
made anew; threads are made at first use.
"""

AFTER_SIGHUP = 20.0
"""Seconds in which a new connection may be refused: where a process has just ended (docs/operating.md, "Signals")."""

pytestmark = [pytest.mark.long, pytest.mark.alone, pytest.mark.timeout(TOTAL + 600)]


class Callers:
    """The callers of one system, and what came of their calls."""

    def __init__(self, system: System, key: dict[str, str]) -> None:
        self.system, self.key = system, key
        self.outcomes: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self.restarted_at = float("-inf")
        self.token = self._new_token()

    def _new_token(self) -> str:
        status, body = self._request("POST", "/api/token", json.dumps(self.key))
        assert status == 200, body
        return str(json.loads(body)["token"])

    def _request(self, method: str, path: str, body: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.system.http, timeout=30)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def note(self, kind: str, *, expected: bool, found: object) -> None:
        """Count an outcome; keep an unexpected one with what it was."""
        self.outcomes[kind if expected else f"UNEXPECTED {kind}"] += 1
        if not expected:
            self.unexpected.append(f"{kind}: {found!r}"[:600])

    def lost(self, kind: str, error: OSError, *, new: bool) -> None:
        """Count a call without an answer: expected on a new connection, and only beside a restart."""
        soon = time.monotonic() - self.restarted_at < AFTER_SIGHUP
        self.note(f"{kind}: not connected", expected=new and soon, found=error)

    def run(self, stop: threading.Event, call: Callable[[], None]) -> None:
        """Repeat ``call`` with pauses until ``stop``."""
        while not stop.wait(random.uniform(0, 2 * PAUSE)):
            call()

    # Each of these is the work of one thread.

    def rest(self, _: int, stop: threading.Event) -> None:
        """REST on a kept connection: documents, and every refusal of a single call."""
        connection = http.client.HTTPConnection(self.system.http, timeout=30)

        def call() -> None:
            kind, path, headers, status = random.choice(
                [
                    *[("document", DOCUMENTED_ID, {"x-authorization": self.token}, 200)] * 6,
                    ("bearer", DOCUMENTED_ID, {"authorization": f"Bearer {self.token}"}, 200),
                    ("unknown task", UNKNOWN_ID, {"x-authorization": self.token}, 404),
                    ("bad ID", "not-a-uuid", {"x-authorization": self.token}, 400),
                    ("no token", DOCUMENTED_ID, {}, 401),
                    ("bad token", DOCUMENTED_ID, {"x-authorization": f"{self.token[:-8]}AAAAAAAA"}, 401),
                    ("large", LARGE_ID, {"x-authorization": self.token}, 200),
                ]
            )
            new = connection.sock is None
            try:
                connection.request("GET", f"/api/tasks/{path}", headers=headers)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.lost(f"REST {kind}", error if isinstance(error, OSError) else OSError(repr(error)), new=new)
                return
            wanted = {DOCUMENTED_ID: DOCUMENTED_COMPACT, LARGE_ID: LARGE}.get(path)
            right = answer.status == status and (status != 200 or body == wanted)
            self.note(f"REST {kind}", expected=right, found=(answer.status, body[:300]))

        self.run(stop, call)
        connection.close()

    def half_read(self, _: int, stop: threading.Event) -> None:
        """REST callers that leave within a large answer, after some of it, and without having read at all."""

        def call() -> None:
            host, _, port = self.system.http.rpartition(":")
            head = f"GET /api/tasks/{LARGE_ID} HTTP/1.1\r\nhost: a\r\nx-authorization: {self.token}\r\n\r\n"
            try:
                with socket.create_connection((host, int(port)), timeout=30) as made:
                    made.sendall(head.encode())
                    begun = made.recv(random.choice([1, 65536])) if random.random() < 0.8 else b"HTTP/1.1 200"
            except OSError as error:
                self.lost("REST left", error, new=True)
                return
            self.note("REST left", expected=b"HTTP/1.1 200".startswith(begun[:12]), found=begun[:300])
            stop.wait(1)

        self.run(stop, call)

    def grpc(self, number: int, stop: threading.Event) -> None:
        """Through Envoy by gRPC: answers, refusals, cancelled calls, deadlines that pass."""
        client = GrpcClient("grpc-envoy", self.system.http)
        json_method: Any = client.channel.unary_unary("/taskgate.v1.TaskService/GetTaskJson")

        def unary(kind: str, task_id: str, token: str, code: str) -> None:
            path = f"/taskgate.v1.TaskService/{random.choice(['GetTask', 'GetTaskJson'])}"
            request = GetTaskJsonRequest(task_id=task_id).SerializeToString()
            outcome, answer = client.call(path, request, {"x_authorization": token})
            right = outcome.code == code and (code != "OK" or len(answer or b"") > 100)
            self.note(f"gRPC {kind}", expected=right, found=(outcome.code, outcome.message))

        def broken_off(kind: str, *, seconds: float, cancel: bool) -> None:
            request = GetTaskJsonRequest(task_id=random.choice([LARGE_ID, DOCUMENTED_ID])).SerializeToString()
            calling = json_method.future(request, timeout=seconds, metadata=(("x-authorization", self.token),))
            if cancel:
                time.sleep(random.uniform(0, 0.02))
                calling.cancel()
            with suppress(grpc.RpcError, grpc.FutureCancelledError):
                calling.result()
            expected = {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
            self.note(f"gRPC {kind}", expected=calling.code() in expected, found=(calling.code(), calling.details()))

        def call() -> None:
            random.choice(
                [
                    *[lambda: unary("document", DOCUMENTED_ID, self.token, "OK")] * 6,
                    lambda: unary("large", LARGE_ID, self.token, "OK"),
                    lambda: unary("unknown task", UNKNOWN_ID, self.token, "NOT_FOUND"),
                    lambda: unary("bad ID", "not-a-uuid", self.token, "INVALID_ARGUMENT"),
                    lambda: unary("bad token", DOCUMENTED_ID, "a.b.c", "UNAUTHENTICATED"),
                    lambda: broken_off("cancelled", seconds=30, cancel=True),
                    lambda: broken_off("short deadline", seconds=0.003, cancel=False),
                ]
            )()

        self.run(stop, call)
        client.close()

    def renew(self, _: int, stop: threading.Event) -> None:
        """A new token in good time, as SDKs have one, and a wrong secret now and then."""
        while not stop.wait(TOKEN_LIFETIME / 4):
            try:
                self.token = self._new_token()
                status, body = self._request("POST", "/api/token", json.dumps(self.key | {"keySecret": "wrong"}))
            except OSError as error:
                self.lost("token", error, new=True)
                continue
            self.note("token", expected=status == 401, found=(status, body))


class Samples:
    """Memory, descriptors and threads of every process of a system, once a second."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.of: dict[int, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        self.names: dict[int, str] = {}

    def take(self, _: int, stop: threading.Event) -> None:
        """The work of one thread."""
        while not stop.wait(1):
            for member in self._system.family():
                with suppress(psutil.NoSuchProcess):
                    self._add(member)

    def _add(self, member: psutil.Process) -> None:
        now = time.monotonic()
        with member.oneshot():
            found = {
                "rss": member.memory_info().rss,
                "descriptors": member.num_fds(),
                "threads": member.num_threads(),
            }
            self.names.setdefault(member.pid, f"{member.name()} {' '.join(command_line(member)[1:4])}"[:60])
        for what, value in found.items():
            self.of[member.pid][what].append((now, float(value)))

    def second_half(self, began: float) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
        """Process, figure and points since ``began`` of all processes that ran for most of that time."""
        for pid, figures in self.of.items():
            for what, points in figures.items():
                kept = [point for point in points if point[0] >= began]
                if len(kept) >= 4 and kept[-1][0] - kept[0][0] > (time.monotonic() - began) / 2:
                    yield f"{pid} {self.names[pid]}", what, kept


@contextmanager
def _system(folder: Path, mode: str) -> Iterator[tuple[System, dict[str, str]]]:
    store, keys = f"sqlite:///{folder}/tasks.db", f"sqlite:///{folder}/keys.db"
    done = taskgate("import", "-", "--store", store, stdin=DOCUMENTED_COMPACT + b"\n" + LARGE + b"\n")
    assert done.returncode == 0, done.stderr
    made = taskgate("keys", "create", "soak", "--json", "--auth-store", keys)
    assert made.returncode == 0, made.stderr
    arguments = ("--auth", "keys", "--auth-store", keys, "--token-lifetime", str(TOKEN_LIFETIME))
    with System(folder / "tasks.db", *arguments, mode=mode) as system:
        yield system.wait_ready(), json.loads(made.stdout)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_grows_and_no_answer_is_unexpected(tmp_path: Path, mode: str) -> None:
    """Mixed calls of authenticated callers, with errors, cancellations, half-read answers and one SIGHUP."""
    with _system(tmp_path, mode) as (system, key), ExitStack() as load:
        callers, samples = Callers(system, key), Samples(system)
        began = time.monotonic()
        for work, count in ((callers.rest, 3), (callers.grpc, 3), (callers.half_read, 1), (callers.renew, 1)):
            load.enter_context(in_threads(count, work))
        load.enter_context(in_threads(1, samples.take))
        time.sleep(SECONDS[mode] / 6)
        parent = psutil.Process(system.process.pid)
        servers = system.envoys if mode == "embedded" else system.workers
        before = len(servers()), parent.num_fds()
        callers.restarted_at = time.monotonic()
        old = set(servers())
        system.process.send_signal(signal.SIGHUP)
        eventually(lambda: not old & set(system.family()), "all servers replaced", 90)
        time.sleep(max(0.0, began + SECONDS[mode] / 2 - time.monotonic()))
        half = time.monotonic()
        time.sleep(SECONDS[mode] / 2)
        after = len(servers()), parent.num_fds()
        load.close()
        print(f"{mode}, {SECONDS[mode]} s: {sum(callers.outcomes.values())} calls, {dict(callers.outcomes)}")  # noqa: T201 - `make soak` shows it
        grown = list(_grown(samples, half))
    assert not callers.unexpected, callers.unexpected[:10]
    assert after[0] == before[0]
    assert after[1] <= before[1] + BOUNDS["descriptors"], "replacing the processes left descriptors in the parent"
    assert not grown


def _grown(samples: Samples, half: float) -> Iterator[str]:
    """Yield what has grown beyond its bound; print all slopes."""
    seconds = time.monotonic() - half
    for process, what, points in samples.second_half(half):
        found = slope(points)
        per_minute = [round(60 * value / (1024 if what == "rss" else 1), 2) for value in found]
        unit = "KiB" if what == "rss" else what
        line = (
            f"{process}: {what} {points[0][1]:.0f} to {points[-1][1]:.0f}; {per_minute[0]} {unit}/min {per_minute[1:]}"
        )
        print(line)  # noqa: T201 - as above
        if found.low * seconds > BOUNDS[what]:
            yield line

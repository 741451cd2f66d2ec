"""Shared parts of the databases' fault tests: callers over REST and gRPC, allowed outcomes, and restarts under load."""

import http.client
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.clients import GRPC_TO_HTTP, GrpcClient, Outcome, open_client
from support.documents import task
from support.load import in_threads, rested
from support.public_words import assert_public
from support.running import System, eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

DOCUMENTS = {task_id: task(task_id) for task_id in (str(uuid.UUID(int=number)) for number in range(50))}


def health(system: System) -> int:
    client = GrpcClient("grpc", system.grpc)
    try:
        stub = health_pb2_grpc.HealthStub(client.channel)
        status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True).status
    finally:
        client.close()
    return status


def healthz(system: System) -> int:
    connection = http.client.HTTPConnection(system.http, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    finally:
        connection.close()


def kind_of(outcome: Outcome, document: bytes) -> str:
    """One word for a correct answer or refusal, else its whole text."""
    if outcome.status == GRPC_TO_HTTP["OK"]:
        return "ok" if outcome.document == document else f"wrong: {outcome.document[:200]!r}"
    said = outcome.message.startswith("The store is unavailable: ") or "healthy" in outcome.message
    assert_public(outcome.message)
    over_rest = outcome.code is None and outcome.status == 503 and outcome.retryable
    over_grpc = outcome.code == "UNAVAILABLE" and outcome.reason == "ERROR_REASON_STORE_UNAVAILABLE"
    return "unavailable" if said and (over_rest or over_grpc) else repr(outcome)


@contextmanager
def callers(system: System, count: int) -> Iterator[Counter[str]]:
    """Callers over REST and gRPC that ask for random tasks continuously; their outcomes, by kind."""
    outcomes: Counter[str] = Counter()

    def call(number: int, stop: threading.Event) -> None:
        order = random.Random(number)
        client = open_client(("rest", "grpc")[number % 2], system.http, system.grpc)
        while not rested(stop):
            task_id, document = order.choice(list(DOCUMENTS.items()))
            outcomes[kind_of(client.get_task_json(task_id), document)] += 1
        client.close()

    with in_threads(count, call):
        yield outcomes


def check_restart_under_load(system: System, fault: Callable[[], None], times: int = 3) -> None:
    """No wrong answers; errors only UNAVAILABLE and 503, retryable; recovery in the same processes."""
    before = {process.pid for process in system.family()}
    with callers(system, 8) as outcomes:
        for _ in range(times):
            served = outcomes["ok"]
            eventually(lambda served=served: outcomes["ok"] > served + 200, "calls under way")
            fault()
    assert set(outcomes) == {"ok", "unavailable"}, outcomes
    eventually(lambda: health(system) == SERVING, "SERVING again")
    eventually(lambda: healthz(system) == 200, "healthy again")
    with callers(system, 4) as outcomes:
        eventually(lambda: outcomes["ok"] > 200, "calls again")
    assert set(outcomes) == {"ok"}, outcomes
    assert before <= {process.pid for process in system.family()}


def assert_retryable_or_right(outcomes: Counter[str]) -> None:
    """Allow only right answers and retryable failures."""
    wrong = [what for what in outcomes if what != "ok" and not (what.startswith("503 ") and '"retryable":true' in what)]
    assert not wrong, outcomes

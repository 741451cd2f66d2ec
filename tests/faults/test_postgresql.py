"""PostgreSQL is restarted, killed, paused and locked under load, while the system runs."""

import http.client
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.documents import task
from support.doors import GRPC_TO_HTTP, GrpcDoor, Outcome, open_door
from support.pgbouncer import running_pgbouncer
from support.postgresql import PASSWORD, PostgresqlServer, running_postgresql
from support.running import System, eventually, running_system, taskgate
from taskgate.stores import open_writer
from taskgate.stores.base import StoredTask

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

DOCUMENTS = {task_id: task(task_id) for task_id in (str(uuid.UUID(int=number)) for number in range(50))}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with running_postgresql() as running:
        with open_writer(running.url()) as writer:
            writer.write([StoredTask(task_id, 1, document) for task_id, document in DOCUMENTS.items()])
        yield running


@pytest.fixture(scope="module", params=["envoy", "grpcio"])
def system(request: pytest.FixtureRequest, server: PostgresqlServer) -> Iterator[System]:
    with running_system(server.url(), transport=request.param, workers=1) as running:
        eventually(lambda: health(running) == SERVING, "SERVING")
        yield running


def health(system: System) -> int:
    door = GrpcDoor("grpc", system.grpc)
    try:
        stub = health_pb2_grpc.HealthStub(door.channel)
        status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True).status
    finally:
        door.close()
    return status


def healthz(system: System) -> int:
    connection = http.client.HTTPConnection(system.http, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    finally:
        connection.close()


def kind_of(outcome: Outcome, document: bytes) -> str:
    """One word for an answer or a refusal as it must be, else all of it."""
    if outcome.status == GRPC_TO_HTTP["OK"]:
        return "ok" if outcome.document == document else f"wrong: {outcome.document[:200]!r}"
    said = "postgresql://127.0.0.1" in outcome.message or "healthy" in outcome.message
    over_rest = outcome.code is None and outcome.status == 503 and outcome.retryable
    over_grpc = outcome.code == "UNAVAILABLE" and outcome.reason == "ERROR_REASON_STORE_UNAVAILABLE"
    secret = PASSWORD in outcome.message or "asyncpg" in outcome.message
    return "unavailable" if said and (over_rest or over_grpc) and not secret else repr(outcome)


@contextmanager
def callers(system: System, count: int) -> Iterator[Counter[str]]:
    """Callers over REST and gRPC who ask for tasks at random without pause; what they got, by kind."""
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def call(number: int) -> None:
        order = random.Random(number)
        door = open_door(("rest", "grpc")[number % 2], system.http, system.grpc)
        while not stop.is_set():
            task_id, document = order.choice(list(DOCUMENTS.items()))
            outcomes[kind_of(door.get_task_json(task_id), document)] += 1
        door.close()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def killed_backends(server: PostgresqlServer) -> None:
    """As after a crash of one session: the server ends all of them, and recovers."""
    server.stop(signal.SIGQUIT)
    server.start()


def restarted(server: PostgresqlServer) -> None:
    server.stop()
    time.sleep(0.5)
    server.start()


def end_sessions(server: PostgresqlServer) -> int:
    """End those that are not just being made, which would be another fault; how many that were."""
    ended = server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'taskgate' AND backend_start < clock_timestamp() - interval '0.1 s'"
    )
    return len(ended)


@pytest.mark.parametrize("fault", [restarted, killed_backends], ids=lambda fault: fault.__name__)
def test_restart_under_load(
    server: PostgresqlServer, system: System, fault: Callable[[PostgresqlServer], None]
) -> None:
    """Wrong answers none; errors only UNAVAILABLE and 503, retryable; recovery in the same processes."""
    before = {process.pid for process in system.family()}
    with callers(system, 16) as outcomes:
        for _ in range(3):
            served = outcomes["ok"]
            eventually(lambda served=served: outcomes["ok"] > served + 200, "calls under way")
            fault(server)
    assert set(outcomes) == {"ok", "unavailable"}, outcomes
    eventually(lambda: health(system) == SERVING, "SERVING again")
    eventually(lambda: healthz(system) == 200, "healthy again")
    with callers(system, 4) as outcomes:
        eventually(lambda: outcomes["ok"] > 200, "calls again")
    assert set(outcomes) == {"ok"}, outcomes
    assert before <= {process.pid for process in system.family()}


def test_ended_sessions_fail_no_call(server: PostgresqlServer, system: System) -> None:
    """Sessions that an administrator, or a balancer, ends one after another: each is replaced unnoticed."""
    with callers(system, 16) as outcomes:
        for _ in range(10):
            time.sleep(0.2)
            served = outcomes["ok"]
            eventually(lambda served=served: outcomes["ok"] > served + 50, "calls under way")
            assert end_sessions(server)
    assert set(outcomes) == {"ok"}, outcomes


def test_readiness_follows_the_server(server: PostgresqlServer, system: System) -> None:
    """``grpc.health.v1`` and ``/healthz`` tell balancers within seconds, both ways, whatever the trouble."""
    for trouble in (server.paused, lambda: server.transaction("LOCK TABLE task", "postgres")):
        with trouble():
            eventually(lambda: health(system) == NOT_SERVING, "NOT_SERVING")
            eventually(lambda: healthz(system) == 503, "unhealthy")
        eventually(lambda: health(system) == SERVING, "SERVING again")
        eventually(lambda: healthz(system) == 200, "healthy again")


def test_paused_server_makes_nobody_wait_but_one(server: PostgresqlServer, system: System) -> None:
    """Once the outage is known, most calls are refused at once, and none takes three seconds."""
    door = open_door("grpc", system.http, system.grpc)
    with server.paused():
        eventually(lambda: health(system) == NOT_SERVING, "NOT_SERVING")
        with callers(system, 16) as outcomes:
            started = time.perf_counter()
            assert kind_of(door.get_task_json(next(iter(DOCUMENTS))), b"") == "unavailable"
            assert time.perf_counter() - started < 3
            eventually(lambda: outcomes["unavailable"] > 100, "refused calls", 3)  # from 16 that could wait 2 s each
        assert set(outcomes) == {"unavailable"}, outcomes
    door.close()
    eventually(lambda: health(system) == SERVING, "SERVING again")


def test_nothing_secret_is_shown(system: System) -> None:
    """The password is in no log line and in no command line of any process."""
    assert system.events("store answers")
    assert not [line for line in system.log if PASSWORD in line or "correct%20horse" in line]
    commands = [" ".join(process.cmdline()) for process in system.family()]
    assert not [command for command in commands if "horse" in command]


def test_import_says_nothing_secret(server: PostgresqlServer) -> None:
    """``taskgate import`` names the store without user and password."""
    stdin = next(iter(DOCUMENTS.values()))
    done = taskgate("import", "-", stdin=stdin, env={"TASKGATE_STORE": server.url()})
    assert done.returncode == 0, done.stderr
    assert f"postgresql://127.0.0.1:{server.port}/postgres: 0 added" in done.stderr
    assert "horse" not in done.stdout + done.stderr


@pytest.mark.parametrize("transport", ["envoy", "grpcio"])
def test_pgbouncer_in_front(server: PostgresqlServer, transport: str) -> None:
    """Reads go on over many connections of a pooler's, also when the server's end, and when the pooler restarts."""
    # Its own default is to try a server that was away only after 15 s.
    with running_pgbouncer(server, server_login_retry="1") as port:
        url = server.url(hosts=f"127.0.0.1:{port}")
        with running_system(url, transport=transport, workers=1) as system:
            eventually(lambda: health(system) == SERVING, "SERVING")
            with callers(system, 16) as outcomes:
                eventually(lambda: outcomes["ok"] > 1000, "calls under way")
            assert set(outcomes) == {"ok"}, outcomes
            with callers(system, 16) as outcomes:
                eventually(lambda: outcomes["ok"] > 200, "calls under way")
                restarted(server)
                served = outcomes["ok"]
                eventually(lambda: outcomes["ok"] > served + 200, "calls again", 30)
            assert set(outcomes) <= {"ok", "unavailable"}, outcomes

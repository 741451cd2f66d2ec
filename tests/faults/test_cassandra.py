"""A Cassandra node is restarted and hangs under load, while the system runs."""

import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from support.cassandra import ANSWERS, PASSWORD, ROWS, CassandraNode, ConductorsKeyspace
from support.clients import GrpcClient, RestClient
from support.documents import DOCUMENTED, DOCUMENTED_ID
from support.load import callers
from support.outages import assert_retryable_or_right, healthz
from support.running import System, eventually, running_system, taskgate

pytestmark = pytest.mark.needs("cassandra")


@pytest.fixture(scope="module")
def keyspace(cassandra_node: CassandraNode) -> Iterator[ConductorsKeyspace]:
    keyspace = ConductorsKeyspace(cassandra_node, "conductor")
    for task_id, stored in ROWS.items():
        keyspace.put(task_id, stored)
    yield keyspace
    keyspace.drop()


@pytest.fixture(scope="module", params=["embedded", "proxied"])
def system(request: pytest.FixtureRequest, keyspace: ConductorsKeyspace) -> Iterator[System]:
    url = keyspace.node.url(keyspace.name)
    with running_system(url, "--layout", "conductor", mode=request.param, workers=1) as system:
        eventually(lambda: healthz(system) == 200, "healthy")
        yield system


def test_every_client_reads_it(system: System) -> None:
    """REST and gRPC answer as Conductor would; an ID in capitals is not found, as in Conductor."""
    rest, direct = RestClient("rest", system.http), GrpcClient("grpc", system.grpc)
    for task_id, document in ANSWERS.items():
        assert rest.get_task_json(task_id).document == document
    assert direct.get_task_json(next(iter(ANSWERS))).document == ANSWERS[next(iter(ANSWERS))]
    assert rest.get_task_json(DOCUMENTED_ID.upper()).status == 404
    assert rest.get_task_json("no-uuid").status == 400
    rest.close()
    direct.close()


def test_restart_under_load(keyspace: ConductorsKeyspace, system: System) -> None:
    """No wrong answers; errors only 503, retryable; recovery in the same processes."""
    node = keyspace.node
    before = {process.pid for process in system.family()}
    with callers(system, 2, ANSWERS) as outcomes:  # few, since the node starts on the same machine
        eventually(lambda: outcomes["ok"] > 200, "calls under way")
        node.stop()
        eventually(lambda: healthz(system) == 503, "unhealthy")
        node.start()
        eventually(lambda: healthz(system) == 200, "healthy again", 20)
        served = outcomes["ok"]
        eventually(lambda: outcomes["ok"] > served + 200, "calls again")
    assert_retryable_or_right(outcomes)
    with callers(system, 8, ANSWERS) as afterwards:
        eventually(lambda: afterwards["ok"] > 200, "calls again")
    assert set(afterwards) == {"ok"}
    assert before <= {process.pid for process in system.family()}


def test_only_one_call_waits_for_a_node_that_hangs(keyspace: ConductorsKeyspace, system: System) -> None:
    """Readiness follows, most calls are refused at once, none takes three seconds, and all recovers afterwards."""
    client = RestClient("rest", system.http)
    with keyspace.node.frozen():
        eventually(lambda: healthz(system) == 503, "unhealthy")
        with callers(system, 8, ANSWERS) as outcomes:
            started = time.perf_counter()
            assert client.get_task_json(next(iter(ANSWERS))).status == 503
            assert time.perf_counter() - started < 3
            eventually(lambda: outcomes.total() > 100, "calls are refused")
        assert_retryable_or_right(outcomes)
        assert "ok" not in outcomes
    eventually(lambda: healthz(system) == 200, "healthy again")
    assert client.get_task_json(next(iter(ANSWERS))).document == ANSWERS[next(iter(ANSWERS))]
    client.close()


def test_nothing_secret_is_shown(system: System) -> None:
    """The password is in no log line and in no command line; no words of the driver are shown."""
    assert system.events("store answers")
    shown = [*system.log, *system.out, *(" ".join(process.cmdline()) for process in system.family())]
    assert not [line for line in shown if PASSWORD in line or quote(PASSWORD) in line]
    assert not [line for line in shown if "NoHostAvailable" in line or "marked down" in line]


def test_sigterm_ends_within_ten_seconds_with_the_cassandra_driver(keyspace: ConductorsKeyspace) -> None:
    """The driver's threads do not delay the end."""
    url = keyspace.node.url(keyspace.name)
    with running_system(url, "--layout", "conductor", workers=1) as system:
        eventually(lambda: healthz(system) == 200, "healthy")
        started = time.perf_counter()
        assert system.stop() == 0
        assert time.perf_counter() - started < 10
        system.assert_gone()


@pytest.mark.parametrize(
    ("command", "reason"),
    [(("import", "-"), "import into another store"), (("up", "--demo"), "taskgate reads what Conductor writes")],
    ids=["import", "demo"],
)
def test_import_is_refused(command: tuple[str, ...], reason: str) -> None:
    """One sentence, and nothing is written."""
    done = taskgate(*command, stdin=DOCUMENTED, env={"TASKGATE_STORE": "cassandra://u:secret@localhost/conductor"})
    assert done.returncode != 0
    assert reason in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr

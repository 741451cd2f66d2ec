"""A Cassandra node is restarted and hangs under load, while the system runs."""

import json
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from cassandra import DriverException
from cassandra.cluster import NoHostAvailable

from support.cassandra import PASSWORD, CassandraNode, ConductorsKeyspace
from support.documents import DOCUMENTED, DOCUMENTED_ID, compact
from support.doors import GrpcDoor, RestDoor
from support.load import callers
from support.outages import healthz
from support.running import System, eventually, running_system, taskgate
from taskgate.documents.conductor import project_task_model

pytestmark = pytest.mark.needs("cassandra")

ROWS = {
    task_id: compact(json.loads(DOCUMENTED) | {"taskId": task_id}).decode()
    for task_id in (str(uuid.UUID(int=number)) for number in range(1, 51))
}
ANSWERS = {task_id: project_task_model(stored.encode(), 0).document for task_id, stored in ROWS.items()}


@pytest.fixture(scope="module")
def keyspace(cassandra_node: CassandraNode) -> Iterator[ConductorsKeyspace]:
    keyspace = ConductorsKeyspace(cassandra_node, "conductor")
    for task_id, stored in ROWS.items():
        keyspace.put(task_id, stored)
    yield keyspace
    keyspace.drop()


@pytest.fixture(scope="module", params=["envoy", "grpcio"])
def system(request: pytest.FixtureRequest, keyspace: ConductorsKeyspace) -> Iterator[System]:
    url = keyspace.node.url(keyspace.name)
    with running_system(url, "--layout", "conductor", transport=request.param, workers=1) as system:
        eventually(lambda: healthz(system) == 200, "healthy")
        yield system


def assert_retryable_or_right(outcomes: Counter[str]) -> None:
    """No wrong answer, and no failure that a caller would not try again."""
    wrong = [what for what in outcomes if what != "ok" and not (what.startswith("503 ") and '"retryable":true' in what)]
    assert not wrong, outcomes


def test_every_door_reads_it(system: System) -> None:
    """REST and gRPC give what Conductor would; an ID in capitals is not found, as Conductor says."""
    rest, direct = RestDoor("rest", system.http), GrpcDoor("grpc", system.grpc)
    for task_id, document in ANSWERS.items():
        assert rest.get_task_json(task_id).document == document
    assert direct.get_task_json(next(iter(ANSWERS))).document == ANSWERS[next(iter(ANSWERS))]
    assert rest.get_task_json(DOCUMENTED_ID.upper()).status == 404
    assert rest.get_task_json("no-uuid").status == 400
    rest.close()
    direct.close()


def test_restart_under_load(keyspace: ConductorsKeyspace, system: System) -> None:
    """Wrong answers none; errors only 503, retryable; recovery in the same processes."""
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


def test_node_that_hangs_makes_nobody_wait_but_one(keyspace: ConductorsKeyspace, system: System) -> None:
    """Readiness follows, most calls are refused at once, none takes three seconds, and all is well afterwards."""
    door = RestDoor("rest", system.http)
    with keyspace.node.frozen():
        eventually(lambda: healthz(system) == 503, "unhealthy")
        with callers(system, 8, ANSWERS) as outcomes:
            started = time.perf_counter()
            assert door.get_task_json(next(iter(ANSWERS))).status == 503
            assert time.perf_counter() - started < 3
            eventually(lambda: outcomes.total() > 100, "calls are refused")
        assert_retryable_or_right(outcomes)
        assert "ok" not in outcomes
    eventually(lambda: healthz(system) == 200, "healthy again")
    assert door.get_task_json(next(iter(ANSWERS))).document == ANSWERS[next(iter(ANSWERS))]
    door.close()


def test_nothing_secret_is_shown(system: System) -> None:
    """The password is in no log line and in no command line; of the driver's own words there are none."""
    assert system.events("store answers")
    shown = [*system.log, *system.out, *(" ".join(process.cmdline()) for process in system.family())]
    assert not [line for line in shown if PASSWORD in line or quote(PASSWORD) in line]
    assert not [line for line in shown if "NoHostAvailable" in line or "marked down" in line]


@pytest.mark.timeout(300)
def test_any_node_of_a_cluster_may_die(tmp_path: Path) -> None:
    """Two nodes, a copy each: no call fails while one is killed, comes back and hangs, and the other is killed.

    When both are away, either brings the calls back, though the URL names only one, and a node of another cluster that
    has got the address of one of them does not.
    """
    nodes: list[CassandraNode] = []
    try:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            nodes.append(CassandraNode(tmp_path / name, passwords=False, first=nodes[0] if nodes else None))
        first, second = nodes
        keyspace = ConductorsKeyspace(first, "conductor", copies=2)
        eventually(lambda: written(keyspace), "both nodes have every row", 30)
        eventually(lambda: sees_the_other(second), "the node of the URL can name the other", 30)
        url = f"cassandra://{second}/conductor?consistency=LOCAL_ONE"  # the first node is found
        with running_system(url, "--layout", "conductor", workers=1) as system:
            eventually(lambda: healthz(system) == 200, "healthy")
            with none_fails(system) as outcomes:
                assert_serves(first)
                second.stop(signal.SIGKILL)
                assert_goes_on(outcomes)
                second.start()
                assert_goes_on(outcomes)
                with second.frozen():
                    assert_goes_on(outcomes)
                eventually(lambda: sees_the_other(second), "the second node answers again", 30)
                assert_serves(second)
                first.stop(signal.SIGKILL)
                assert_goes_on(outcomes)
            second.stop(signal.SIGKILL)
            with callers(system, 2, ANSWERS) as outcomes:
                eventually(lambda: healthz(system) == 503, "unhealthy")
                first.start()
                eventually(lambda: healthz(system) == 200, "healthy again", 20)
                assert_goes_on(outcomes)
                first.stop(signal.SIGKILL)
                (tmp_path / "stranger").mkdir()
                nodes.append(CassandraNode(tmp_path / "stranger", passwords=False, in_place_of=first))
                ConductorsKeyspace(nodes[-1], "conductor")
                time.sleep(5)
            assert_retryable_or_right(outcomes)
            assert healthz(system) == 503
    finally:
        for node in nodes:
            node.stop(signal.SIGKILL)


def written(keyspace: ConductorsKeyspace) -> bool:
    """Write the rows, which fails as long as the nodes do not see each other."""
    try:
        for task_id, stored in ROWS.items():
            keyspace.put(task_id, stored)
    except (NoHostAvailable, DriverException):
        return False
    return True


def sees_the_other(node: CassandraNode) -> bool:
    """Whether ``node`` answers, and tells all of the other that a driver needs to go there."""
    try:
        peers = node.execute("SELECT native_address, native_port, host_id, data_center, rack FROM system.peers_v2")
    except (NoHostAvailable, DriverException):
        return False
    return len(peers) == 1 and None not in peers[0]


@contextmanager
def none_fails(system: System) -> Iterator[Counter[str]]:
    """Callers that all get their task."""
    with callers(system, 4, ANSWERS) as outcomes:
        eventually(lambda: outcomes["ok"] > 100, "calls under way")
        yield outcomes
    assert set(outcomes) == {"ok"}, outcomes


def assert_serves(node: CassandraNode) -> None:
    """Calls under way come to ``node`` too, by the node's own word: the driver is not asked whom it goes to."""
    eventually(lambda: statements_in_half_a_second(node) > 20, "taskgate asks the node", 30)


def statements_in_half_a_second(node: CassandraNode) -> int:
    """Statements that clients sent, of which two are ours."""
    before = statements(node)
    time.sleep(0.5)
    return statements(node) - before


def statements(node: CassandraNode) -> int:
    """How many have come on the connections that there are."""
    return sum(client.request_count for client in node.execute("SELECT request_count FROM system_views.clients"))


def assert_goes_on(outcomes: Counter[str]) -> None:
    """For some seconds more, so that what takes its time is noticed."""
    time.sleep(3)
    served = outcomes["ok"]
    eventually(lambda: outcomes["ok"] > served + 100, f"calls go on after {outcomes}")


def test_sigterm_ends_within_ten_seconds_with_the_cassandra_driver(keyspace: ConductorsKeyspace) -> None:
    """The driver's threads hold nobody up."""
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

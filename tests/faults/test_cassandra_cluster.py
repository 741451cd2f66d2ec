"""Nodes of a Cassandra cluster die, hang and come back under load, while the system runs."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cassandra import DriverException
from cassandra.cluster import NoHostAvailable

from support.cassandra import ANSWERS, ROWS, CassandraNode, ConductorsKeyspace
from support.load import callers
from support.outages import assert_retryable_or_right, healthz
from support.running import System, eventually, running_system

pytestmark = pytest.mark.needs("cassandra")


@pytest.mark.timeout(300)
def test_any_node_of_a_cluster_may_die(tmp_path: Path) -> None:
    """Two nodes, a copy each: no call fails while one is killed, comes back and hangs, and the other is killed.

    After both were away, calls succeed as soon as either is back, though the URL names only one. A node of another
    cluster at the address of one of them does not bring them back.
    """
    nodes: list[CassandraNode] = []
    try:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            nodes.append(CassandraNode(tmp_path / name, passwords=False, first=nodes[0] if nodes else None))
        first, second = nodes
        keyspace = ConductorsKeyspace(first, "conductor", copies=2)
        eventually(lambda: written(keyspace), "both nodes have every row")
        eventually(lambda: sees_the_other(second), "the node of the URL can name the other")
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
                eventually(lambda: sees_the_other(second), "the second node answers again")
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
    """Write the rows, which fails until the nodes see each other."""
    try:
        for task_id, stored in ROWS.items():
            keyspace.put(task_id, stored)
    except (NoHostAvailable, DriverException):
        return False
    return True


def sees_the_other(node: CassandraNode) -> bool:
    """Whether ``node`` answers, and has all data about the other that a driver needs to connect to it."""
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
    """Calls in flight reach ``node`` too, by its own count and not by the driver's."""
    eventually(lambda: statements_in_half_a_second(node) > 20, "taskgate asks the node")


def statements_in_half_a_second(node: CassandraNode) -> int:
    """Statements from clients, of which two are ours."""
    before = statements(node)
    time.sleep(0.5)
    return statements(node) - before


def statements(node: CassandraNode) -> int:
    """The number of statements on the current connections."""
    return sum(client.request_count for client in node.execute("SELECT request_count FROM system_views.clients"))


def assert_goes_on(outcomes: Counter[str]) -> None:
    """Calls still succeed some seconds later, so that slow effects are noticed."""
    time.sleep(3)
    served = outcomes["ok"]
    eventually(lambda: outcomes["ok"] > served + 100, f"calls go on after {outcomes}")

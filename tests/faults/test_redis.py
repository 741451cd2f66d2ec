"""Redis servers die, hang and fail over, while the system runs under load."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.clients import GrpcClient, RestClient
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID, task
from support.load import answers, callers
from support.outages import assert_retryable_or_right
from support.public_words import assert_public
from support.redis_servers import PASSWORD, PRIMARY_NAME, Cluster, RedisServer, Watched
from support.running import System, eventually, running_system
from taskgate.stores import open_writer
from taskgate.stores.base import StoredTask

pytestmark = pytest.mark.needs("redis-server")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

DOCUMENTS = {task_id: task(task_id) for task_id in (str(uuid.UUID(int=number)) for number in range(300))}
"""Enough for every node to have many."""

USER_INFO = f":{quote(PASSWORD)}@"

modes = pytest.mark.parametrize("mode", ["embedded", "proxied"])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster", replicas=True)
    yield cluster
    cluster.stop()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path / "watched", down_after=1000)
    yield watched
    watched.stop()


def cluster_url(cluster: Cluster) -> str:
    """A URL with two nodes, of which the tests kill one; the others are discovered."""
    return f"redis+cluster://{USER_INFO}{','.join(map(str, cluster.nodes[:2]))}"


def sentinel_url(watched: Watched) -> str:
    return f"redis+sentinel://{USER_INFO}{','.join(map(str, watched.sentinels))}/{PRIMARY_NAME}/0"


def fill(url: str, *servers: RedisServer) -> None:
    """Write the tasks, and wait until the replicas have them."""
    with open_writer(url) as writer:
        writer.write([StoredTask(task_id, 1, document) for task_id, document in DOCUMENTS.items()])
    for server in servers:
        with server.client() as client:
            client.execute_command("WAIT", 1, 10_000)


def health(client: GrpcClient) -> int:
    stub = health_pb2_grpc.HealthStub(client.channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status
    return status


def read_all(system: System) -> bool:
    """Whether every task is answered correctly now, over REST and gRPC."""
    rest, direct = RestClient("rest", system.http), GrpcClient("grpc", system.grpc)
    try:
        for task_id, document in DOCUMENTS.items():
            answer, typed = rest.get_task_json(task_id), direct.get_task_json(task_id)
            assert {answer.status, typed.status} <= {200, 503}
            if (answer.status, typed.status) != (200, 200):
                assert {answer.status, typed.code} - {200, "OK"} <= {503, "UNAVAILABLE"}
                return False
            assert answer.document == typed.document == document
        return health(direct) == SERVING
    finally:
        rest.close()
        direct.close()


def under_load(system: System, disaster: Callable[[], None], recovered: Callable[[], object]) -> Counter[str]:
    """The outcomes of callers before, during and after ``disaster``; the system is whole again at the end."""
    with callers(system, 8, DOCUMENTS) as outcomes:
        eventually(lambda: outcomes["ok"] > 100, "calls under way")
        disaster()
        recovered()
        eventually(lambda: read_all(system), "every task is answered again", 20)
    with callers(system, 8, DOCUMENTS) as afterwards:
        eventually(lambda: afterwards["ok"] > 500, "calls go on")
    assert set(afterwards) == {"ok"}
    assert_retryable_or_right(outcomes)
    return outcomes


def assert_keeps_the_password(system: System) -> None:
    """The password is in no process list and in no line of output."""
    for process in system.family():
        assert PASSWORD not in " ".join(process.cmdline())
    for line in (*system.out, *system.log):
        assert PASSWORD not in line
        assert quote(PASSWORD) not in line


@modes
def test_killed_primary_of_a_cluster_is_replaced(cluster: Cluster, mode: str) -> None:
    """Its replica takes over; meanwhile calls fail, if at all, with retryable errors."""
    fill(cluster_url(cluster), *cluster.primaries)
    with running_system(cluster_url(cluster), mode=mode, workers=1) as system:
        eventually(lambda: read_all(system), "every task is answered")
        outcomes = under_load(system, cluster.primaries[1].kill, lambda: took_over(cluster.replicas[1]))
        assert len(outcomes) > 1, "no caller noticed"
        cluster.primaries[1].start()
        cluster.wait_ok()
        assert read_all(system)
        assert_keeps_the_password(system)


@modes
def test_killed_primary_under_sentinel_is_replaced(watched: Watched, mode: str) -> None:
    """Sentinel promotes the replica; the old primary comes back as a replica."""
    fill(sentinel_url(watched), watched.primary)
    with running_system(sentinel_url(watched), mode=mode, workers=1) as system:
        eventually(lambda: read_all(system), "every task is answered")
        under_load(system, watched.primary.kill, lambda: took_over(watched.replica))
        watched.primary.start()
        eventually(lambda: role(watched.primary) == "slave", "the old primary is a replica")
        assert read_all(system)
        assert_keeps_the_password(system)


def role(server: RedisServer) -> str:
    with server.client() as client:
        information: dict[str, str] = client.info("replication")
    return information["role"]


def took_over(replica: RedisServer) -> None:
    eventually(lambda: role(replica) == "master", "the replica takes over")


def test_failover_by_order_of_an_operator(cluster: Cluster) -> None:
    """CLUSTER FAILOVER on a replica: nothing is lost, and no call need fail."""
    fill(cluster_url(cluster), *cluster.primaries)
    with running_system(cluster_url(cluster), workers=1) as system:

        def fail_over() -> None:
            with cluster.replicas[0].client() as client:
                client.execute_command("CLUSTER FAILOVER")

        outcomes = under_load(system, fail_over, lambda: took_over(cluster.replicas[0]))
        assert set(outcomes) == {"ok"}


def test_slots_that_move_take_their_tasks_along(cluster: Cluster) -> None:
    """Every call is answered while slots move from one node to another, key by key."""
    url = cluster_url(cluster)
    fill(url, *cluster.primaries)
    source, target = cluster.primaries[:2]
    with running_system(url, workers=1) as system, callers(system, 8, DOCUMENTS) as outcomes:
        with source.client() as old, target.client() as new:
            move_slots(old, new, target, 60)
        assert read_all(system)
    assert set(outcomes) == {"ok"}


def move_slots(old: redis.Redis, new: redis.Redis, target: RedisServer, count: int) -> None:
    """As redis-cli's resharding does it, and slowly."""
    old_id, new_id = (client.execute_command("CLUSTER MYID") for client in (old, new))
    keys = {key: old.execute_command("CLUSTER KEYSLOT", key) for key in old.scan_iter("taskgate.TASK.*")}
    for slot in list(dict.fromkeys(keys.values()))[:count]:
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", old_id)
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", new_id)
        for key in (key for key in keys if keys[key] == slot):
            old.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000, "AUTH", PASSWORD)
            time.sleep(0.02)
        for client in (new, old):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", new_id)


@modes
def test_readiness_follows_redis(tmp_path: Path, mode: str) -> None:
    """Away or silent: 503, UNAVAILABLE and not ready within seconds, in words that name the store; back: served."""
    server = RedisServer(tmp_path / "redis")
    try:
        with running_system(f"redis://{USER_INFO}{server}/0", "--demo", mode=mode, workers=1) as system:
            for trouble in (server.stopped, server.frozen):
                eventually(lambda: answers(system), "served")
                with trouble():
                    assert_unavailable(system, str(server))
                eventually(lambda: answers(system), "served again", 5)
            assert_keeps_the_password(system)
    finally:
        server.kill()


def assert_unavailable(system: System, address: str) -> None:
    rest, direct = RestClient("rest", system.http), GrpcClient("grpc", system.grpc)
    try:
        began = time.monotonic()
        typed, _ = direct.get_task(DOCUMENTED_ID)
        assert time.monotonic() - began < 6  # three are promised; this allows for a busy machine
        outcome = rest.get_task_json(DOCUMENTED_ID)
        assert (outcome.status, outcome.retryable) == (503, True)
        assert (typed.code, typed.reason) == ("UNAVAILABLE", "ERROR_REASON_STORE_UNAVAILABLE")
        assert_public(typed.message)
        assert_public(outcome.message)
        where = f"The store redis://{address}/0 is unavailable: "
        told = eventually(
            lambda: [line for line in system.events("call") if line.get("error", "").startswith(where)], "in the log"
        )
        assert all(line["request_id"] for line in told)
        eventually(lambda: health(direct) == NOT_SERVING, "NOT_SERVING", 5)
        eventually(lambda: rest.get("/healthz").status == 503, "not healthy", 5)
        began = time.monotonic()
        assert {rest.get_task_json(DOCUMENTED_ID).status for _ in range(10)} == {503}
        assert time.monotonic() - began < 8  # ten seconds or more if each process detected it alone
    finally:
        rest.close()
        direct.close()


def test_restarted_redis_fails_no_call_of_a_quiet_service(tmp_path: Path) -> None:
    """A connection that ended while it was idle costs no caller an answer."""
    server = RedisServer(tmp_path / "redis")
    try:
        with running_system(f"redis://{USER_INFO}{server}/0", "--demo", workers=1) as system:
            rest = RestClient("rest", system.http)
            for _ in range(3):
                assert rest.get_task_json(DOCUMENTED_ID).document == DOCUMENTED_COMPACT
                with server.stopped():
                    pass
                assert rest.get_task_json(DOCUMENTED_ID).document == DOCUMENTED_COMPACT
            rest.close()
    finally:
        server.kill()


def test_embedded_process_loads_no_grpcio_and_no_other_client(tmp_path: Path) -> None:
    """The store loads one small library into the serving process, and keeps few connections there."""
    server = RedisServer(tmp_path / "redis")
    try:
        with running_system(f"redis://{USER_INFO}{server}/0", "--demo", workers=1) as system:
            assert answers(system)
            process: psutil.Process = system.envoy()
            libraries = {mapping.path for mapping in process.memory_maps()}
            assert any("hiredis" in library for library in libraries)
            assert not [library for library in libraries if "cygrpc" in library]
            to_redis = [c for c in process.net_connections("tcp") if c.raddr and c.raddr.port == server.port]
            assert 1 <= len(to_redis) <= 4
    finally:
        server.kill()

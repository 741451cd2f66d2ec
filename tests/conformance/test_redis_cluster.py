"""Run the suite against a Redis Cluster of three nodes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from conformance.redis_rig import RedisRig
from conformance.suite import NetworkStoreSuite, WriterSuite
from support.redis_servers import Cluster

pytestmark = pytest.mark.needs("redis-server")


class ClusterRig(RedisRig):
    """A whole cluster, emptied.

    The suite's test that a failed write leaves nothing passes, since unwritable documents are detected beforehand.
    It cannot show what a cluster lacks: a transaction that spans nodes (see ``RedisWriter``).
    """

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder, cluster.nodes)
        self.cluster = cluster
        self.name = "redis+cluster://" + ",".join(map(str, cluster.nodes[:2]))

    def client(self) -> redis.RedisCluster:
        return self.cluster.client()

    def settle(self) -> None:
        self.cluster.wait_ok()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture
def rig(tmp_path: Path, cluster: Cluster) -> ClusterRig:
    with cluster.client() as client:
        client.flushall()
    return ClusterRig(tmp_path, cluster)


class TestClusterStore(NetworkStoreSuite):
    """Every "must" of TaskStore."""


class TestClusterWriter(WriterSuite):
    """Every "must" of TaskWriter but one: see ``ClusterRig``."""

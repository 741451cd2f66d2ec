"""Run the suite against a primary that Sentinels watch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from conformance.redis_rig import RedisRig
from conformance.suite import NetworkStoreSuite, WriterSuite
from support.redis_servers import PRIMARY_NAME, Watched
from taskgate.base.errors import StoreUnavailable
from taskgate.stores.base import TaskWriter

pytestmark = pytest.mark.needs("redis-server")

_TRIES = 5


class SentinelRig(RedisRig):
    """The primary, emptied; its Sentinels wait too long to fail over during the suite's outages."""

    def __init__(self, folder: Path, watched: Watched) -> None:
        super().__init__(folder, [watched.primary])
        self.watched = watched
        self.name = f"redis+sentinel://{','.join(map(str, watched.sentinels))}/{PRIMARY_NAME}/0"

    def client(self) -> redis.Redis:
        return self.watched.primary.client()

    def open_writer(self) -> TaskWriter:
        """A writer; on a busy machine a Sentinel may answer within its second only on the second or third try."""
        for _ in range(_TRIES - 1):
            try:
                return super().open_writer()
            except StoreUnavailable as refused:
                if "none of its Sentinels answers" not in refused.message:
                    raise
        return super().open_writer()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    watched = Watched(tmp_path_factory.mktemp("watched"), down_after=60_000)
    yield watched
    watched.stop()


@pytest.fixture
def rig(tmp_path: Path, watched: Watched) -> SentinelRig:
    with watched.primary.client() as client:
        client.flushall()
    return SentinelRig(tmp_path, watched)


class TestSentinelStore(NetworkStoreSuite):
    """Every "must" of TaskStore."""


class TestSentinelWriter(WriterSuite):
    """Every "must" of TaskWriter."""

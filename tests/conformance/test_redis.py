"""One Redis server against the suite, and what only Redis can do."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from conformance.redis_rig import PREFIX, RedisRig
from conformance.suite import NetworkStoreSuite, StoreSuite, WriterSuite
from support.redis_servers import RedisServer
from taskgate.layout import Layout
from taskgate.stores.base import StoredTask

pytestmark = pytest.mark.needs("redis-server")


class StandaloneRig(RedisRig):
    """Database 3 of a server of its own."""

    def __init__(self, folder: Path, layout: Layout = Layout.TASKGATE) -> None:
        self.server = RedisServer(folder / "redis")
        super().__init__(folder, [self.server], layout)
        self.name = f"redis://{self.server}/3"

    def client(self) -> redis.Redis:
        return self.server.client(db=3)


class Conductor:
    """Writes as Conductor does, so that the suite has a writer where taskgate is none."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def write(self, tasks: Sequence[StoredTask]) -> None:
        for task in tasks:
            self._client.set(f"{PREFIX}{task.task_id}", task.document)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ConductorRig(StandaloneRig):
    """The same, as Conductor fills it."""

    def create(self) -> None:
        """Conductor makes nothing before its first task."""

    def open_writer(self) -> Any:
        return Conductor(self.client())


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[StandaloneRig]:
    rig = StandaloneRig(tmp_path)
    yield rig
    rig.server.kill()


class TestRedisStore(NetworkStoreSuite):
    """Every "must" of TaskStore."""


class TestRedisWriter(WriterSuite):
    """Every "must" of TaskWriter."""


class TestConductorsLayout(StoreSuite):
    """Every "must" of TaskStore, on what Conductor writes."""

    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[StandaloneRig]:
        rig = ConductorRig(tmp_path, Layout.CONDUCTOR)
        yield rig
        rig.server.kill()

"""Run the suite against one Redis server, and test its special features."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from conformance.redis_rig import RedisRig
from conformance.suite import ID, NetworkStoreSuite, StoreSuite, WriterSuite
from support.redis_servers import RedisServer
from taskgate.base.errors import DocumentUnreadable

pytestmark = pytest.mark.needs("redis-server")


class StandaloneRig(RedisRig):
    """Database 3 of a private server."""

    def __init__(self, folder: Path) -> None:
        self.server = RedisServer(folder / "redis")
        super().__init__(folder, [self.server])
        self.name = f"redis://{self.server}/3"

    def client(self) -> redis.Redis:
        return self.server.client(db=3)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[StandaloneRig]:
    rig = StandaloneRig(tmp_path)
    yield rig
    rig.server.kill()


class TestRedisStore(NetworkStoreSuite):
    """Every "must" of TaskStore."""

    async def test_key_of_another_type_is_unreadable_in_our_layout_too(self, rig: StandaloneRig) -> None:
        """The suite tests it in Conductor's layout, where another program may have made the key."""
        rig.put(ID, 5)
        store = rig.open_store()
        with pytest.raises(DocumentUnreadable):
            await store.get_document(ID)
        await store.close()


class TestRedisWriter(WriterSuite):
    """Every "must" of TaskWriter."""


class TestConductorsLayout:
    """Only the type of a value, and so the command, differs where Conductor writes. The rest is the same code.

    ``TestRedisStore`` reads values of other types, since the suite does that in a foreign layout.
    """

    test_document_is_returned_as_stored = StoreSuite.test_document_is_returned_as_stored
    test_large_document_is_returned_as_stored = StoreSuite.test_large_document_is_returned_as_stored
    test_unknown_id_is_none = StoreSuite.test_unknown_id_is_none
    test_ids_are_compared_exactly = StoreSuite.test_ids_are_compared_exactly

    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[StandaloneRig]:
        rig = StandaloneRig(tmp_path)
        rig.foreign()
        yield rig
        rig.server.kill()

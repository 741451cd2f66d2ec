"""The common base of the Redis rigs: keys, and direct access by redis-py."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import redis

from conformance.rig import Rig
from support.redis_servers import PASSWORD, RedisServer
from taskgate.base.layout import Layout
from taskgate.stores import open_store
from taskgate.stores.base import TaskStore

USER_INFO = f":{quote(PASSWORD)}@"
PREFIX = "test.TASK."


class RedisRig(Rig):
    """Keys that begin with ``test.``, as those of Conductor do by default, in either layout."""

    def __init__(self, folder: Path, servers: Sequence[RedisServer]) -> None:
        """``servers`` hold the keys."""
        super().__init__(folder)
        self.servers = servers
        self.layout = Layout.TASKGATE

    @property
    def url(self) -> str:
        scheme, rest = self.name.split("://")
        return f"{scheme}://{USER_INFO}{rest}?stack=test"

    @abstractmethod
    def client(self) -> redis.Redis | redis.RedisCluster:
        """A redis-py client, with which tests bypass taskgate."""

    def put(self, task_id: str, value: object) -> None:
        key = f"{PREFIX}{task_id}"
        with self.client() as client:
            if not isinstance(value, str):  # Redis has no such strings: a key of another type
                client.rpush(key, str(value))
            elif self.layout is Layout.CONDUCTOR:
                client.set(key, value)
            else:
                client.hset(key, "document", value)

    def stored(self) -> dict[str, bytes]:
        with self.client() as client:
            keys = list(client.scan_iter(f"{PREFIX}*", count=1000))
            read = client.get if self.layout is Layout.CONDUCTOR else lambda key: client.hget(key, "document")
            return {key.decode().removeprefix(PREFIX): read(key) for key in keys}

    @contextmanager
    def away(self) -> Iterator[None]:
        with self._all(RedisServer.stopped):
            yield
        self.settle()

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._all(RedisServer.frozen):
            yield
        self.settle()

    @contextmanager
    def damaged(self) -> Iterator[None]:
        with self._all(RedisServer.replaced_by_a_stranger):
            yield
        self.settle()

    @contextmanager
    def _all(self, trouble: object) -> Iterator[None]:
        with ExitStack() as stack:
            for server in self.servers:
                entered: AbstractContextManager[None] = trouble(server)  # type: ignore[operator]
                stack.enter_context(entered)
            yield

    def settle(self) -> None:
        """Wait until the restarted servers are one database again."""

    def foreign(self) -> None:
        self.layout = Layout.CONDUCTOR

    def open_store(self) -> TaskStore:
        return open_store(self.url, self.layout)

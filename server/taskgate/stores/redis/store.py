"""Read tasks from Redis: one command about one key, in either layout."""

import asyncio
from typing import Any

from hiredis import ReplyError

from taskgate.base.errors import DocumentUnreadable, StoreUnavailable
from taskgate.base.layout import Layout
from taskgate.stores.base import StoreState
from taskgate.stores.redis.faults import Unreachable, code_of, reply_reason, unavailable
from taskgate.stores.redis.location import Location
from taskgate.stores.redis.multiplexer import Timeouts
from taskgate.stores.redis.servers import servers_of
from taskgate.stores.refusals import CLOSED

_TIMEOUTS = Timeouts(connect=1.0, silence=1.0, total=2.5, fail_fast=True)

_COMMANDS = {
    Layout.CONDUCTOR: (b"*2\r\n$3\r\nGET\r\n", b""),
    Layout.TASKGATE: (b"*3\r\n$4\r\nHGET\r\n", b"$8\r\ndocument\r\n"),
}
"""The command before and after the key. Conductor keeps strings, taskgate hashes (``writer``)."""


class RedisStore:
    """Reads keys ``[namespace.][stack.][domain.]TASK.<task ID>``, as Conductor's ``BaseDynoDAO``."""

    def __init__(self, location: Location, layout: Layout = Layout.TASKGATE) -> None:
        """Open no connection yet."""
        self._name = location.name
        self._prefix = f"{location.keyspace(layout)}TASK.".encode()
        self._before, self._after = _COMMANDS[layout]
        self._servers = servers_of(location, _TIMEOUTS)
        self._closed = False

    async def get_document(self, task_id: str) -> bytes | None:
        """See ``TaskStore``."""
        self._see_that_it_is_open()
        try:
            key = self._prefix + task_id.encode()
        except UnicodeEncodeError:  # a lone surrogate
            return None
        try:
            reply = await self._servers.ask(key, self._read(key))
        except Unreachable as error:
            raise unavailable(self._name, error) from error
        if reply is None or type(reply) is bytes:
            return reply
        if isinstance(reply, ReplyError) and code_of(reply) != "WRONGTYPE":
            raise StoreUnavailable(reply_reason(reply), store=self._name) from reply
        raise DocumentUnreadable(task_id)

    def abandon(self, read: asyncio.Task[Any]) -> None:
        """See ``AbandonableStore``. A cancelled read leaves only its place in a connection's queue."""
        read.cancel()

    async def check(self) -> None:
        """See ``TaskStore``."""
        self._see_that_it_is_open()
        try:
            await self._servers.check(self._prefix, self._read)
        except Unreachable as error:
            raise unavailable(self._name, error) from error

    def state(self) -> StoreState:
        """See ``TaskStore``."""
        return self._servers.state()

    async def close(self) -> None:
        """See ``TaskStore``."""
        self._closed = True
        await self._servers.close()

    def _read(self, key: bytes) -> bytes:
        return b"%b$%d\r\n%b\r\n%b" % (self._before, len(key), key, self._after)

    def _see_that_it_is_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(CLOSED, store=self._name)

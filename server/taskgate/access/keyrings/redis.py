"""Keep the keyring in one hash of a Redis."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from hiredis import ReplyError

from taskgate.access.keyrings.base import StoredKeyring
from taskgate.base.errors import StoreUnavailable
from taskgate.stores.redis.connection import pack
from taskgate.stores.redis.faults import Unreachable, checked, reply_reason, unavailable
from taskgate.stores.redis.location import Location
from taskgate.stores.redis.multiplexer import Timeouts
from taskgate.stores.redis.servers import servers_of

_KEY = b"TASKGATE_KEYRING"

_TIMEOUTS = Timeouts(connect=2.0, silence=2.0, total=4.0, fail_fast=False)

_OF_TASKS = b"*TASK[._]*"
"""Matches names of tasks in either layout, whatever their prefix, and of Conductor's task definitions; not ours."""

_SCAN_SECONDS = 2.5
"""Seconds after which a search for tasks is given up, so that all takes five at most."""

_SCAN_KEYS = b"1000"

_TASKS = "it is a database of tasks; name another one"
_TOO_MANY = (
    f"it has too many keys to see within {_SCAN_SECONDS:g} s whether tasks are among them; name another database"
)

_REPLACE = b"""
if tonumber(redis.call('HGET', KEYS[1], 'revision') or '0') ~= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'revision', ARGV[1] + 1, 'document', ARGV[2])
return 1
"""


class RedisKeyring:
    """See ``KeyringStore``. Whether a replaced keyring survives the server is Redis' own setting (``appendonly``)."""

    def __init__(self, location: Location) -> None:
        """``location`` names the server or servers."""
        self.name = location.name
        self._servers = servers_of(location, _TIMEOUTS)

    async def read(self, known: int | None = None) -> StoredKeyring | None:
        """See ``KeyringStore``."""
        if known is not None and int(await self._ask(b"HGET", _KEY, b"revision") or 0) == known:
            return None
        revision, document = await self._ask(b"HMGET", _KEY, b"revision", b"document")
        return StoredKeyring(int(revision or 0), document or b"")

    async def replace(self, document: bytes, *, revision: int) -> bool:
        """See ``KeyringStore``. The first one is refused where tasks are."""
        if revision == 0:
            await self._see_that_no_tasks_are_there()
        return bool(await self._ask(b"EVAL", _REPLACE, b"1", _KEY, str(revision).encode(), document))

    async def close(self) -> None:
        """See ``KeyringStore``."""
        await self._servers.close()

    async def _see_that_no_tasks_are_there(self) -> None:
        try:
            found = await asyncio.gather(*map(_has_tasks, await self._servers.each()))
        except Unreachable as error:
            raise unavailable(self.name, error) from error
        if any(found):
            raise StoreUnavailable(_TASKS, store=self.name)

    async def _ask(self, *command: bytes) -> Any:
        try:
            reply = await self._servers.ask(_KEY, pack(*command))
        except Unreachable as error:
            raise unavailable(self.name, error) from error
        if isinstance(reply, ReplyError):
            raise StoreUnavailable(reply_reason(reply), store=self.name) from reply
        return reply


async def _has_tasks(ask: Callable[[bytes], Awaitable[Any]]) -> bool:
    """Whether a server has a key that is named as one of tasks. Raises Unreachable."""
    until = time.monotonic() + _SCAN_SECONDS
    cursor = b"0"
    while time.monotonic() < until:
        cursor, keys = checked(await ask(pack(b"SCAN", cursor, b"MATCH", _OF_TASKS, b"COUNT", _SCAN_KEYS)))
        if keys or cursor == b"0":
            return bool(keys)
    raise Unreachable(_TOO_MANY)

"""Keep the keyring in one hash of a Redis."""

from typing import Any

from hiredis import ReplyError

from taskgate.access.keyrings.base import StoredKeyring
from taskgate.base.errors import StoreUnavailable
from taskgate.stores.redis.connection import pack
from taskgate.stores.redis.faults import Unreachable, reply_reason, unavailable
from taskgate.stores.redis.location import Location
from taskgate.stores.redis.multiplexer import Timeouts
from taskgate.stores.redis.servers import servers_of

_KEY = b"TASKGATE_KEYRING"

_TIMEOUTS = Timeouts(connect=2.0, silence=2.0, total=4.0, fail_fast=False)

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
        """See ``KeyringStore``."""
        return bool(await self._ask(b"EVAL", _REPLACE, b"1", _KEY, str(revision).encode(), document))

    async def close(self) -> None:
        """See ``KeyringStore``."""
        await self._servers.close()

    async def _ask(self, *command: bytes) -> Any:
        try:
            reply = await self._servers.ask(_KEY, pack(*command))
        except Unreachable as error:
            raise unavailable(self.name, error) from error
        if isinstance(reply, ReplyError):
            raise StoreUnavailable(reply_reason(reply), store=self.name) from reply
        return reply

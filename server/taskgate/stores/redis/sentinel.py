"""Ask Redis Sentinels which server is the primary."""

import hiredis

from taskgate.stores.network.url_parts import Endpoint
from taskgate.stores.redis.connection import pack
from taskgate.stores.redis.dialer import Dialer
from taskgate.stores.redis.faults import Unreachable, reply_reason
from taskgate.stores.redis.location import Location
from taskgate.stores.redis.race import first_answer


class Sentinels:
    """The Sentinels of a URL. They are asked before every new connection, without a cache."""

    def __init__(self, location: Location, *, connect_timeout: float) -> None:
        self._endpoints = location.endpoints
        self._question = pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", location.primary_name)
        self._dialer = Dialer(
            location.sentinel_credentials,
            location.tls,
            connect_timeout=connect_timeout / 2,
            silence=connect_timeout / 2,
        )

    async def primary(self) -> Endpoint:
        """Return the primary's address from the Sentinel that answers first. Raises Unreachable."""
        return await first_answer(self._ask(endpoint) for endpoint in self._endpoints)

    async def _ask(self, endpoint: Endpoint) -> Endpoint:
        try:
            connection = await self._dialer.connect(endpoint)
            try:
                reply = await connection.send(self._question)
            finally:
                await connection.close()
        except Unreachable as error:
            raise Unreachable("none of its Sentinels answers") from error
        if isinstance(reply, hiredis.ReplyError):
            raise Unreachable(f"its Sentinel reports a fault: {reply_reason(reply)}") from reply
        if reply is None:
            raise Unreachable("its Sentinels know no primary of this name")
        host, port = reply
        return Endpoint(host.decode(), int(port))

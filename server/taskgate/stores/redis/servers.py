"""Select the servers to ask about a key: one server, the primary that Sentinel names, or the nodes of a cluster."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from taskgate.stores.base import StoreState
from taskgate.stores.redis.cluster import Cluster
from taskgate.stores.redis.connection import Connection
from taskgate.stores.redis.dialer import Dialer
from taskgate.stores.redis.faults import see_that_it_reads
from taskgate.stores.redis.location import Kind, Location
from taskgate.stores.redis.multiplexer import Multiplexer, Timeouts
from taskgate.stores.redis.sentinel import Sentinels


class Servers(Protocol):
    """One server or many, behind questions about keys."""

    async def ask(self, key: bytes, command: bytes) -> Any:
        """Return the answer to ``command``, which is about ``key``, as ``Connection.send`` does. Raises Unreachable."""
        ...

    async def each(self) -> Sequence[Callable[[bytes], Awaitable[Any]]]:
        """Return a function for every server with keys, which sends it a command. Raises Unreachable, as they do."""
        ...

    async def check(self, prefix: bytes, read: Callable[[bytes], bytes]) -> None:
        """Return if a key that begins with ``prefix`` can be read now; ``read`` makes the command for a key.

        Raises Unreachable.
        """
        ...

    def state(self) -> StoreState:
        """Return the state now; of several servers, the sum."""
        ...

    async def close(self) -> None:
        """Release every connection."""
        ...


def servers_of(location: Location, timeouts: Timeouts) -> Servers:
    """Return the servers that ``location`` names, without connecting to them."""
    dialer = Dialer(
        location.credentials,
        location.tls,
        connect_timeout=timeouts.connect,
        silence=timeouts.silence,
        database=location.database,
    )
    if location.kind is Kind.CLUSTER:
        return Cluster(location.endpoints, dialer, timeouts)
    if location.kind is Kind.SENTINEL:
        sentinels = Sentinels(location, connect_timeout=timeouts.connect)

        async def connect_to_primary() -> Connection:
            return await dialer.connect(await sentinels.primary(), must_be_primary=True)

        return OneServer(Multiplexer(connect_to_primary, timeouts))

    async def connect() -> Connection:
        return await dialer.connect(location.endpoints[0])

    return OneServer(Multiplexer(connect, timeouts))


class OneServer:
    """See ``Servers``. All keys are on one server, which may change."""

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer = multiplexer

    async def ask(self, key: bytes, command: bytes) -> Any:
        """See ``Servers``."""
        del key
        return await self._multiplexer.ask(command)

    async def each(self) -> Sequence[Callable[[bytes], Awaitable[Any]]]:
        """See ``Servers``."""
        return [self._multiplexer.ask]

    async def check(self, prefix: bytes, read: Callable[[bytes], bytes]) -> None:
        """See ``Servers``."""
        if not self._multiplexer.busy:
            see_that_it_reads(await self._multiplexer.ask(read(prefix), refusable=False))

    def state(self) -> StoreState:
        """See ``Servers``."""
        return self._multiplexer.state()

    async def close(self) -> None:
        """See ``Servers``."""
        await self._multiplexer.close()

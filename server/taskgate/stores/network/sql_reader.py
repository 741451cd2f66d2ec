"""Read from one table of PostgreSQL, MySQL or MariaDB over a connection pool: their shared base class."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.base import StoreState
from taskgate.stores.network.arrivals import received_bytes
from taskgate.stores.network.pool import ConnectionPool, PooledConnection

READ_TIMEOUT: Final = 2.0
"""Seconds without an answer to any read, or a part of one, after which the reads fail."""

CONNECT_TIMEOUT: Final = 1.5
"""Seconds to make a connection, for all hosts of the URL together."""

STATEMENT_TIMEOUT: Final = 1.5
"""Seconds after which the server itself cancels a statement, for example when the table is locked."""


class SqlSession(PooledConnection, Protocol):
    """A connection, and the statement to execute over it."""

    def transport(self) -> asyncio.BaseTransport | None:
        """Return the driver's transport."""
        ...


C = TypeVar("C", bound=SqlSession)


class SqlReader(ABC, Generic[C]):
    """An ``AbandonableStore`` except for the statement; the server may be stopped, paused or replaced at any time."""

    def __init__(
        self, store: str, explain: Callable[[str, Exception], StoreUnavailable | None], pool_size: int
    ) -> None:
        """``store`` is what messages call the database. The first read connects to it."""
        self._pool: ConnectionPool[C] = ConnectionPool(
            store,
            self._connect,
            lambda error: explain(store, error),
            size=pool_size,
            timeout=READ_TIMEOUT,
            received=lambda session: received_bytes(session.transport()),
        )

    async def get_document(self, task_id: str) -> bytes | None:
        """See ``TaskStore``."""
        return await self._get(task_id, refusable=True)

    def abandon(self, read: asyncio.Task[Any]) -> None:
        """See ``AbandonableStore``."""
        self._pool.abandon(read)

    async def check(self) -> None:
        """See ``TaskStore``."""
        if not self._pool.making_progress:
            await self._get("-", refusable=False)  # any ID will do: the answer does not matter

    def state(self) -> StoreState:
        """See ``TaskStore``."""
        return self._pool.state()

    async def close(self) -> None:
        """See ``TaskStore``."""
        self._pool.close()
        await asyncio.sleep(0)  # aborted connections close in the next turn of the loop

    @abstractmethod
    async def _get(self, task_id: str, *, refusable: bool) -> bytes | None:
        """Return the document; ``refusable`` as in ``ConnectionPool.run``."""

    @abstractmethod
    async def _connect(self) -> C:
        """Return a new connection; raises the driver's exceptions."""

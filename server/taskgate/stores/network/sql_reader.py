"""What reading from PostgreSQL, MySQL and MariaDB has in common: one table, over a bounded set of connections."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.network.pool import Connections, PooledConnection

READ_TIMEOUT: Final = 2.0
"""Seconds that a read may take, waiting for a connection and making one included."""

CONNECT_TIMEOUT: Final = 1.5
"""Seconds for making a connection, all hosts of the URL together."""

STATEMENT_TIMEOUT: Final = 1.5
"""Seconds after which the server itself gives a statement up, as when the table is locked."""

C = TypeVar("C", bound=PooledConnection)


class SqlReader(ABC, Generic[C]):
    """An ``AbandonableStore`` but for the statement; the server may be stopped, paused or replaced at any time."""

    def __init__(
        self, store: str, explain: Callable[[str, Exception], StoreUnavailable | None], pool_size: int
    ) -> None:
        """``store`` is what messages call the database. Nothing is connected to here."""
        self._connections: Connections[C] = Connections(
            store, self._connect, lambda error: explain(store, error), size=pool_size, timeout=READ_TIMEOUT
        )

    async def get_document(self, task_id: str) -> bytes | None:
        """See ``TaskStore``."""
        return await self._get(task_id, refusable=True)

    def abandon(self, read: asyncio.Task[Any]) -> None:
        """See ``AbandonableStore``."""
        self._connections.abandon(read)

    async def check(self) -> None:
        """See ``TaskStore``."""
        if not self._connections.moving:
            await self._get("-", refusable=False)  # as good as any ID: the answer does not matter

    async def close(self) -> None:
        """See ``TaskStore``."""
        self._connections.close()
        await asyncio.sleep(0)  # what was aborted is closed in the next turn of the loop

    @abstractmethod
    async def _get(self, task_id: str, *, refusable: bool) -> bytes | None:
        """The document; ``refusable`` as ``Connections.run`` has it."""

    @abstractmethod
    async def _connect(self) -> C:
        """A new connection; what the driver raises then is raised."""

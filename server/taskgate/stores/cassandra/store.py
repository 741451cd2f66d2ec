"""Read-only access to tasks in Conductor's own Cassandra keyspace.

Two statements, as Conductor's (``CassandraExecutionDAO.getTask``): one finds the workflow of a task's UUID, the other
the task in that workflow's partition, by its ID as text. The user needs only a grant of SELECT on the two tables.
"""

import asyncio
import re
import uuid
from dataclasses import dataclass
from typing import Any, Final

from taskgate.base.errors import DocumentUnreadable, StoreUnavailable
from taskgate.stores.base import StoreState
from taskgate.stores.cassandra.session import OUT_OF_REACH, CassandraSession, explain
from taskgate.stores.cassandra.url import CassandraUrl
from taskgate.stores.network.pool import ConnectionPool
from taskgate.stores.refusals import CLOSED

READ_TIMEOUT: Final = 2.0
"""Seconds without an answer to any read after which the reads fail."""

_MOST_READS: Final = 128
"""Limit of reads in flight in the cluster; more wait."""

_LOOKUP, _SELECT = 0, 1

_ROW: Final = "workflow_id = ? AND shard_id = 1 AND entity = 'task' AND task_id = ?"
"""Shard 1 is ``DEFAULT_SHARD_ID``: Conductor does not use others yet."""

_NO_TASK: Final = uuid.UUID(int=0)

_JAVAS_UUID = re.compile(r"([0-9A-Fa-f]+)-([0-9A-Fa-f]+)-([0-9A-Fa-f]+)-([0-9A-Fa-f]+)-([0-9A-Fa-f]+)")
_UUID_CHARACTERS = 36
_GROUP_BITS = (32, 16, 16, 16, 48)
_JAVAS_LONG = 1 << 63


class CassandraStore:
    """Read the tables ``task_lookup`` and ``workflows``; nodes may be stopped, paused or replaced at any time.

    The driver keeps one connection to each node and sends all reads over it. When no node answers, the next read opens
    a new session. The old one goes on reconnecting to all nodes it knows, and serves until a new one is up.
    """

    def __init__(self, url: CassandraUrl) -> None:
        """Connect to nothing yet."""
        self._url = url
        # S608: a keyspace is only letters, digits and underscores.
        self._statements = (
            f'SELECT workflow_id FROM "{url.keyspace}".task_lookup WHERE task_id = ?',  # noqa: S608
            f'SELECT payload FROM "{url.keyspace}".workflows WHERE {_ROW}',  # noqa: S608
        )
        self._session: CassandraSession | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._leases = ConnectionPool(
            url.name, self._lease, lambda error: explain(url.name, error), size=_MOST_READS, timeout=READ_TIMEOUT
        )

    async def get_document(self, task_id: str) -> bytes | None:
        """See ``TaskStore``."""
        key = parse_uuid(task_id)
        if key is None:
            return None
        row = await self._leases.run(lambda lease: _find(lease.session, key, task_id))
        if row is None:
            return None
        document = row[0]
        if type(document) is not str:
            raise DocumentUnreadable(task_id)
        return document.encode()

    def abandon(self, read: asyncio.Task[Any]) -> None:
        """See ``AbandonableStore``."""
        self._leases.abandon(read)

    async def check(self) -> None:
        """See ``TaskStore``."""
        if not self._leases.making_progress:
            await self._leases.run(lambda lease: _ask_both(lease.session), refusable=False)

    def state(self) -> StoreState:
        """See ``TaskStore``."""
        return self._leases.state()

    async def close(self) -> None:
        """See ``TaskStore``."""
        self._closed = True
        self._leases.close()
        if self._opening is not None:
            await asyncio.wait([self._opening])
        self._end(self._session)
        self._session = None
        if self._closing:
            await asyncio.wait(self._closing)

    async def _lease(self) -> "_Lease":
        if self._session is None or self._session.lost:
            if self._opening is None:
                self._opening = asyncio.create_task(self._open())
                self._opening.add_done_callback(asyncio.Task.exception)  # its waiters may be cancelled
            await asyncio.shield(self._opening)  # other and later reads wait for it too
            if self._closed or self._session is None:
                raise StoreUnavailable(CLOSED, store=self._url.name)
        return _Lease(self._session)

    async def _open(self) -> None:
        try:
            await self._renew()
        finally:
            self._opening = None

    async def _renew(self) -> None:
        """Open a session through the URL's nodes. If none is in reach, keep the old one, if that is back."""
        old = self._session
        try:
            self._session = await CassandraSession.open(self._url, self._statements)
        except OUT_OF_REACH:
            if old is None or not await old.is_back():
                raise
        else:
            self._end(old)

    def _end(self, session: CassandraSession | None) -> None:
        """End the session, if any, without waiting."""
        if session is None:
            return
        task = asyncio.create_task(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


@dataclass(frozen=True, slots=True)
class _Lease:
    """A permit for one read at a time on the shared session: the unit that ``ConnectionPool`` counts and limits."""

    session: CassandraSession

    def is_closed(self) -> bool:
        return self.session.lost

    def terminate(self) -> None:
        """Do nothing: the session serves other reads."""


async def _find(session: CassandraSession, key: uuid.UUID, task_id: str) -> tuple[Any, ...] | None:
    found = await session.fetch_row(_LOOKUP, (key,))
    if found is None:
        return None
    (workflow_id,) = found
    if workflow_id is None:
        raise DocumentUnreadable(task_id)
    return await session.fetch_row(_SELECT, (workflow_id, task_id))


async def _ask_both(session: CassandraSession) -> None:
    """Run both statements of a read for a nonexistent task."""
    await session.fetch_row(_LOOKUP, (_NO_TASK,))
    await session.fetch_row(_SELECT, (_NO_TASK, ""))


def parse_uuid(text: str) -> uuid.UUID | None:
    """Parse ``text`` like Java's ``UUID.fromString``, which Conductor uses; None where that throws.

    It accepts groups of any length, whose last digits count. Only the second statement compares the ID as given.
    """
    match = _JAVAS_UUID.fullmatch(text) if len(text) <= _UUID_CHARACTERS else None
    if match is None:
        return None
    value = 0
    for group, bits in zip(match.groups(), _GROUP_BITS, strict=True):
        number = int(group, 16)
        if number >= _JAVAS_LONG:
            return None
        value = value << bits | number & ((1 << bits) - 1)
    return uuid.UUID(int=value)

"""Read tasks from PostgreSQL: Conductor's table, or one with the same columns from ``taskgate import``.

The driver is asyncpg: a read takes half the CPU of psycopg 3. One statement reads one table, in read-only sessions
that limit a statement's time. The user needs only a grant of SELECT on that table.
"""

import asyncio
import hashlib
from typing import Any, Final, Self

import asyncpg

from taskgate.base.errors import DocumentUnreadable
from taskgate.base.layout import Layout
from taskgate.stores.network.sql_reader import CONNECT_TIMEOUT, STATEMENT_TIMEOUT, SqlReader
from taskgate.stores.postgresql.connect import connect, explain, table_of
from taskgate.stores.postgresql.url import PostgresqlUrl

_UNKNOWN_CHARACTER: Final = {"22021", "22P05"}
"""SQLSTATEs for text that cannot be converted: an ID to the database's encoding, or a document to UTF-8."""

_TOO_SLOW: Final = {"57014", "55P03"}
"""SQLSTATEs of a statement that took too long, or waited too long for a lock."""

_NOT_PREPARED: Final = {"26000", "42P05"}
"""SQLSTATEs for a prepared statement that is missing or already exists: a pooler between taskgate and the server, such
as pgbouncer, gives each transaction another of its connections."""


class PostgresqlStore(SqlReader["_Session"]):
    """Read the table ``task`` of one schema; the server may be stopped, paused or replaced at any time."""

    def __init__(self, url: PostgresqlUrl, layout: Layout = Layout.TASKGATE) -> None:
        """Connect to nothing yet. Both layouts have the same two columns."""
        del layout
        super().__init__(url.name, explain, url.pool_size)
        self._url = url
        self._statement = _Statement("json_data", f"FROM {table_of(url)} WHERE task_id = $1")

    async def _get(self, task_id: str, *, refusable: bool) -> bytes | None:
        if not _storable(task_id):
            return None
        try:
            row = await self._pool.run(lambda session: session.fetch_row(task_id), refusable=refusable)
        except UnicodeDecodeError as error:  # a database of encoding SQL_ASCII holds any bytes
            raise DocumentUnreadable(task_id) from error
        if row is None:
            return None
        document = row[0]
        if type(document) is str:
            return document.encode()
        if type(document) is bytes:
            return document
        raise DocumentUnreadable(task_id)

    async def _connect(self) -> "_Session":
        settings = {
            "default_transaction_read_only": "on",
            "statement_timeout": f"{STATEMENT_TIMEOUT * 1000:.0f}",
        }
        try:
            connection = await connect(self._url, settings, CONNECT_TIMEOUT)
        except asyncpg.ProtocolViolationError:
            # pgbouncer rejects such settings unless configured to ignore them. The role can have them instead.
            connection = await connect(self._url, {}, CONNECT_TIMEOUT)
        try:
            return await _Session.begin(connection, self._url.name, self._statement)
        except BaseException:
            connection.terminate()
            raise


class _Statement:
    """The one statement, and whether the server can prepare it.

    Its name is a hash of its text, so on connections that a pooler shares, the same name means the same statement.
    """

    def __init__(self, column: str, source: str) -> None:
        self.text = f"SELECT {column} {source}"
        self.existence = f"SELECT 1 {source}"
        self.name = f"taskgate_{hashlib.sha256(self.text.encode()).hexdigest()[:16]}"
        self.prepared = True


class _Session:
    """One connection, with the statement prepared if possible."""

    def __init__(self, connection: Any, store: str, statement: _Statement) -> None:
        self.is_closed = connection.is_closed
        self.terminate = connection.terminate
        self._connection = connection
        self._store = store
        self._statement = statement
        self._prepared: Any = None

    @classmethod
    async def begin(cls, connection: Any, store: str, statement: _Statement) -> Self:
        """Prepare the statement; raises the driver's errors."""
        session = cls(connection, store, statement)
        if statement.prepared:
            try:
                session._prepared = await connection.prepare(statement.text, name=statement.name)
            except asyncpg.PostgresError as error:
                if error.sqlstate not in _NOT_PREPARED:
                    raise
                statement.prepared = False
        return session

    def transport(self) -> asyncio.BaseTransport | None:
        """Return the driver's transport, if it is connected."""
        transport: asyncio.BaseTransport | None = self._connection._transport  # noqa: SLF001 - the only access to it
        return transport

    async def fetch_row(self, task_id: str) -> Any:
        """Return the row, or None; a row of None if the server cannot convert the document.

        Raises StoreUnavailable on a timeout of the server, else the driver's errors.
        """
        try:
            try:
                return await self._fetch_row(task_id)
            except asyncpg.PostgresError as error:
                if error.sqlstate not in _UNKNOWN_CHARACTER:
                    raise
                return (None,) if await self._exists(task_id) else None
        except asyncpg.PostgresError as error:
            if error.sqlstate in _TOO_SLOW and (public := explain(self._store, error)):
                raise public from error
            raise

    async def _exists(self, task_id: str) -> bool:
        """Whether a row has this ID, without reading the document."""
        try:
            return await self._connection.fetchrow(self._statement.existence, task_id) is not None
        except asyncpg.PostgresError as error:
            if error.sqlstate in _UNKNOWN_CHARACTER:
                return False
            raise

    async def _fetch_row(self, task_id: str) -> Any:
        if self._prepared is not None and self._statement.prepared:
            try:
                return await self._prepared.fetchrow(task_id)
            except asyncpg.PostgresError as error:
                if error.sqlstate not in _NOT_PREPARED:
                    raise
                self._statement.prepared = False
        return await self._connection.fetchrow(self._statement.text, task_id)


def _storable(task_id: str) -> bool:
    """Whether PostgreSQL can hold this text: no zero character, and no lone surrogate."""
    try:
        return b"\0" not in task_id.encode()
    except UnicodeEncodeError:
        return False

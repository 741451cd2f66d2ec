"""Read tasks from MySQL or MariaDB: Conductor's table, or one with the same columns from ``taskgate import``.

One statement reads one table, prepared if the server has room for it, in read-only sessions that limit a statement's
time. The user needs only a grant of SELECT on that table.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from asyncmy import errors

from taskgate.base.errors import DocumentUnreadable
from taskgate.base.layout import Layout
from taskgate.stores.mysql.connect import TOO_SLOW, connect, explain, is_mariadb, number_of, terminate
from taskgate.stores.mysql.url import MysqlUrl
from taskgate.stores.network.sql_reader import CONNECT_TIMEOUT, STATEMENT_TIMEOUT, SqlReader

_NO_ROOM_TO_PREPARE: Final = 1461
"""The error number when all programs together have ``max_prepared_stmt_count`` prepared statements."""

_Rows = Sequence[tuple[object, object]]

_COLLATION: Final = (
    "SELECT character_set_name, collation_name FROM information_schema.columns"
    " WHERE table_schema = DATABASE() AND table_name = 'task' AND column_name = 'task_id'"
)


class MysqlStore(SqlReader["_Session"]):
    """Read the table ``task`` of one database; the server may be stopped, paused or replaced at any time."""

    def __init__(self, url: MysqlUrl, layout: Layout = Layout.TASKGATE) -> None:
        """Connect to nothing yet. Both layouts have the same two columns."""
        del layout
        super().__init__(url.name, explain, url.pool_size)
        self._url = url

    async def _get(self, task_id: str, *, refusable: bool) -> bytes | None:
        try:
            key = task_id.encode()
        except UnicodeEncodeError:  # a lone surrogate, which no database could hold
            return None
        rows = await self._pool.run(lambda session: session.fetch_rows(key), refusable=refusable)
        for found, document in rows:
            if found == key:  # the column's collation may equate other IDs
                if type(document) is bytes:
                    return document
                raise DocumentUnreadable(task_id)
        return None

    async def _connect(self) -> "_Session":
        connection = await connect(self._url, CONNECT_TIMEOUT, "lock_wait_timeout = 2")  # whole seconds only
        try:
            limit = (
                f"max_statement_time = {STATEMENT_TIMEOUT}"
                if is_mariadb(connection)
                else f"max_execution_time = {STATEMENT_TIMEOUT * 1000:.0f}"
            )
            await connection.query(f"SET SESSION {limit}")
            await connection.query("SET SESSION TRANSACTION READ ONLY")
            execute = await _prepare(connection, await _statement(connection))
        except BaseException:
            terminate(connection)
            raise
        return _Session(connection, self._url.name, execute)


class _Session:
    """One connection, and the statement to execute over it."""

    def __init__(self, connection: Any, store: str, execute: Callable[[bytes], Awaitable[_Rows]]) -> None:
        self._connection = connection
        self._store = store
        self._execute = execute

    def is_closed(self) -> bool:
        """Whether the connection is known to be lost."""
        return not self._connection.connected

    def terminate(self) -> None:
        """End the connection without waiting."""
        terminate(self._connection)

    def transport(self) -> asyncio.BaseTransport | None:
        """Return the driver's transport, if it is connected."""
        transport: asyncio.BaseTransport | None = self._connection._transport  # noqa: SLF001 - the only access to it
        return transport

    async def fetch_rows(self, task_id: bytes) -> _Rows:
        """Return rows whose ID the server equates to this one. Raises StoreUnavailable on timeout, or as the driver."""
        try:
            return await self._execute(task_id)
        except errors.MySQLError as error:
            if number_of(error) in TOO_SLOW and (public := explain(self._store, error)):
                raise public from error
            raise


async def _prepare(connection: Any, statement: str) -> Callable[[bytes], Awaitable[_Rows]]:
    """Return an executor of ``statement`` with its one parameter: prepared, or as text if the server has no room."""
    try:
        prepared = await connection.prepare(statement)
    except errors.MySQLError as error:
        if number_of(error) != _NO_ROOM_TO_PREPARE:
            raise
        before, after = statement.split("?")

        async def execute_text(task_id: bytes) -> _Rows:
            async with connection.cursor() as cursor:
                await cursor.execute(f"{before}X'{task_id.hex()}'{after}")  # hexadecimal needs no escaping
                rows: _Rows = await cursor.fetchall()
            return rows

        return execute_text

    async def execute_prepared(task_id: bytes) -> _Rows:
        rows: _Rows = (await prepared.execute((task_id,))).rows
        return rows

    return execute_prepared


async def _statement(connection: Any) -> str:
    """Return the statement for the table's own collation: with any other, the index is not used."""
    async with connection.cursor() as cursor:
        await cursor.execute(_COLLATION)
        row = await cursor.fetchone() or (None, None)
    return statement_for(*(value and value.decode() for value in row))


def statement_for(character_set: str | None, collation: str | None) -> str:
    """Return the statement for a ``task_id`` column of this collation; None for a column of bytes.

    A character that the column cannot hold becomes a question mark, so at most another row is found. The alternative
    would convert the whole table.
    """
    key = "CAST(? AS BINARY)"
    if character_set and collation and re.fullmatch(r"\w+", character_set + collation):
        key = f"CONVERT(CONVERT(? USING utf8mb4) USING {character_set}) COLLATE {collation}"
    return f"SELECT task_id, json_data FROM task WHERE task_id = {key}"  # noqa: S608 - the server's own names

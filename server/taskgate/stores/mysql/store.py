"""Tasks in MySQL or MariaDB: Conductor's own table, or one with the same columns that ``taskgate import`` makes.

One table is read, by one statement, prepared where the server has room for it, in sessions that are read-only and limit
a statement's time; a grant of SELECT on that table is all that the user needs.
"""

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
"""The number for as many prepared statements as ``max_prepared_stmt_count`` allows, of all programs together."""

_Rows = Sequence[tuple[object, object]]

_COLLATION: Final = (
    "SELECT character_set_name, collation_name FROM information_schema.columns"
    " WHERE table_schema = DATABASE() AND table_name = 'task' AND column_name = 'task_id'"
)


class MysqlStore(SqlReader["_Session"]):
    """Reads the table ``task`` of one database; the server may be stopped, paused or replaced at any time."""

    def __init__(self, url: MysqlUrl, layout: Layout = Layout.TASKGATE) -> None:
        """Nothing is connected to here. Both layouts have the same two columns."""
        del layout
        super().__init__(url.name, explain, url.pool_size)
        self._url = url

    async def _get(self, task_id: str, *, refusable: bool) -> bytes | None:
        try:
            key = task_id.encode()
        except UnicodeEncodeError:  # a surrogate without its other half, which no database could hold
            return None
        rows = await self._connections.run(lambda session: session.fetch_rows(key), refusable=refusable)
        for found, document in rows:
            if found == key:  # the column's collation may take other IDs for the same
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
    """One connection, and the statement to be executed over it."""

    def __init__(self, connection: Any, store: str, execute: Callable[[bytes], Awaitable[_Rows]]) -> None:
        self._connection = connection
        self._store = store
        self._execute = execute

    def is_closed(self) -> bool:
        """Whether the connection is known to be lost."""
        return not self._connection.connected

    def terminate(self) -> None:
        """End the connection without waiting for anything."""
        terminate(self._connection)

    async def fetch_rows(self, task_id: bytes) -> _Rows:
        """Rows whose ID is this one to the server. Raises StoreUnavailable if it has no time, else as the driver."""
        try:
            return await self._execute(task_id)
        except errors.MySQLError as error:
            if number_of(error) in TOO_SLOW and (public := explain(self._store, error)):
                raise public from error
            raise


async def _prepare(connection: Any, statement: str) -> Callable[[bytes], Awaitable[_Rows]]:
    """What executes ``statement`` with its one parameter: prepared, or as text where the server prepares no more."""
    try:
        prepared = await connection.prepare(statement)
    except errors.MySQLError as error:
        if number_of(error) != _NO_ROOM_TO_PREPARE:
            raise
        before, after = statement.split("?")

        async def execute_text(task_id: bytes) -> _Rows:
            async with connection.cursor() as cursor:
                await cursor.execute(f"{before}X'{task_id.hex()}'{after}")  # hexadecimal: nothing in it to escape
                rows: _Rows = await cursor.fetchall()
            return rows

        return execute_text

    async def execute_prepared(task_id: bytes) -> _Rows:
        rows: _Rows = (await prepared.execute((task_id,))).rows
        return rows

    return execute_prepared


async def _statement(connection: Any) -> str:
    """The statement, made for the table's own collation: only a text of that kind is looked up in the index."""
    async with connection.cursor() as cursor:
        await cursor.execute(_COLLATION)
        row = await cursor.fetchone() or (None, None)
    return statement_for(*(value and value.decode() for value in row))


def statement_for(character_set: str | None, collation: str | None) -> str:
    """The statement for a ``task_id`` of this collation; None for one of bytes.

    A character that the column cannot hold becomes a question mark, and so at most another row is found: never is the
    whole table converted instead.
    """
    key = "CAST(? AS BINARY)"
    if character_set and collation and re.fullmatch(r"\w+", character_set + collation):
        key = f"CONVERT(CONVERT(? USING utf8mb4) USING {character_set}) COLLATE {collation}"
    return f"SELECT task_id, json_data FROM task WHERE task_id = {key}"  # noqa: S608 - names of the server's own

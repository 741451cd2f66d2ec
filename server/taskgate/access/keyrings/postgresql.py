"""Keep the keyring in one row of a PostgreSQL table."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg

from taskgate.access.keyrings.base import StoredKeyring
from taskgate.base.errors import StoreUnavailable
from taskgate.stores.postgresql.connect import connect, explain
from taskgate.stores.postgresql.url import PostgresqlUrl

_TIMEOUT = 4.0

_CREATED_BY_ANOTHER = (asyncpg.DuplicateObjectError, asyncpg.DuplicateTableError, asyncpg.UniqueViolationError)
"""At the same moment, in spite of IF NOT EXISTS."""

_MISSING = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)

_TASKS = "it holds tasks in this schema; name another database, or another schema"

_COLUMNS_OF_TASKS = """
SELECT count(*) = 2 FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attname IN ('task_id', 'json_data') AND NOT attisdropped
"""
"""Whether tasks are there, whatever the user may read. Another program's table ``task`` does no harm."""


class PostgresqlKeyring:
    """See ``KeyringStore``. One connection is kept between operations."""

    def __init__(self, url: PostgresqlUrl) -> None:
        """``url`` names the database; the table ``taskgate_keyring`` is in its schema."""
        self.name = url.name
        self._url = url
        self._schema = '"' + url.schema.replace('"', '""') + '"'
        self._table = f"{self._schema}.taskgate_keyring"
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()

    async def read(self, known: int | None = None) -> StoredKeyring | None:
        """See ``KeyringStore``."""
        stored: StoredKeyring | None = await self._run(lambda connection: self._read(connection, known))
        return stored

    async def replace(self, document: bytes, *, revision: int) -> bool:
        """See ``KeyringStore``."""
        return bool(await self._run(lambda connection: self._replace(connection, document, revision)))

    async def close(self) -> None:
        """See ``KeyringStore``."""
        self._drop()

    async def _read(self, connection: asyncpg.Connection, known: int | None) -> StoredKeyring | None:
        try:
            row = await connection.fetchrow(
                f"SELECT revision, document FROM {self._table} WHERE revision IS DISTINCT FROM $1",  # noqa: S608 - quoted
                known,
            )
            if row is None and known:
                gone = await connection.fetchval(f"SELECT count(*) FROM {self._table}") == 0  # noqa: S608 - quoted
                return StoredKeyring(0, b"") if gone else None
        except _MISSING:
            row = None
        if row is None:
            return None if known == 0 else StoredKeyring(0, b"")
        return StoredKeyring(row["revision"], row["document"])

    async def _replace(self, connection: asyncpg.Connection, document: bytes, revision: int) -> bool:
        if revision == 0:
            if await connection.fetchval(_COLUMNS_OF_TASKS, f"{self._schema}.task"):
                raise StoreUnavailable(_TASKS, store=self.name)
            with suppress(*_CREATED_BY_ANOTHER):
                await connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {self._table} (id integer PRIMARY KEY CHECK (id = 1),"
                    " revision bigint NOT NULL, document bytea NOT NULL)"
                )
            statement = f"INSERT INTO {self._table} VALUES (1, 1, $1) ON CONFLICT DO NOTHING"  # noqa: S608 - quoted
            return str(await connection.execute(statement, document)) == "INSERT 0 1"
        statement = f"UPDATE {self._table} SET revision = revision + 1, document = $1 WHERE revision = $2"  # noqa: S608 - quoted
        try:
            return str(await connection.execute(statement, document, revision)) == "UPDATE 1"
        except _MISSING:
            return False

    async def _run(self, operation: Any) -> Any:
        """Run ``operation`` on the kept connection, or on a new one if that was lost meanwhile."""
        async with self._turn:
            try:
                async with asyncio.timeout(_TIMEOUT):
                    return await operation(await self._connected())
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                self._drop()
                raise explain(self.name, error) or StoreUnavailable("it reported an error", store=self.name) from error
            except BaseException:
                self._drop()
                raise

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            settings = {"statement_timeout": f"{_TIMEOUT:g}s", "search_path": "pg_catalog"}
            self._connection = await connect(self._url, settings, _TIMEOUT)
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

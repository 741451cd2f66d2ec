"""Write tasks into MySQL or MariaDB for ``taskgate import``: a marked table with Conductor's columns and one more.

A named lock makes batches of several imports into a database wait for each other.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from asyncmy import errors

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.base import StoredTask, WriteCounts
from taskgate.stores.mysql.connect import connect, explain, is_mariadb, number_of, terminate
from taskgate.stores.mysql.url import MysqlUrl
from taskgate.stores.writing.sql_writer import COMMENT, SqlWriter, foreign
from taskgate.stores.writing.standing import Standing, digest_of, standing_of
from taskgate.stores.writing.writer import compare, portions

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for connecting."""

LOCK_TIMEOUT: Final = 30
"""Seconds a write waits for another writer."""

_TABLE_EXISTS: Final = 1050
_LOCKED: Final = 1205
_PACKET_TOO_LARGE: Final = 1153

_STATEMENT_BYTES: Final = 4096
"""An upper bound of the statement that writes one task, without its document."""

# IDs are bytes: even the binary collation of text equates "a" and "a ". 1020 bytes hold 255 characters.
_LAYOUT: Final = """
CREATE TABLE task (
    task_id     varbinary(1020) NOT NULL PRIMARY KEY,
    update_time bigint NOT NULL DEFAULT 0, -- the document's updateTime, epoch milliseconds
    created_on  timestamp NULL DEFAULT CURRENT_TIMESTAMP,
    modified_on timestamp NULL DEFAULT CURRENT_TIMESTAMP,
    json_data   longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC COMMENT='{comment}'
"""

_COMMENT: Final = (
    "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'task'"
)

_LOOK: Final = (
    "SELECT task_id, update_time, UNHEX(SHA2(json_data, 256)), LENGTH(json_data) FROM task WHERE task_id IN %s"
)

_DOCUMENTS: Final = "SELECT task_id, CAST(json_data AS BINARY) FROM task WHERE task_id IN %s"

_INSERT: Final = "INSERT INTO task (task_id, update_time, json_data) VALUES (%s, %s, %s)"

# MariaDB has no alias for inserted rows; MySQL, from 8.0.20 on, warns of every VALUES().
_UPSERT_IN_MARIADB: Final = (
    f"{_INSERT} ON DUPLICATE KEY UPDATE"
    " update_time = VALUES(update_time), modified_on = CURRENT_TIMESTAMP, json_data = VALUES(json_data)"
)
_UPSERT_IN_MYSQL: Final = (
    f"{_INSERT} AS new ON DUPLICATE KEY UPDATE"
    " update_time = new.update_time, modified_on = CURRENT_TIMESTAMP, json_data = new.json_data"
)

_IDS_AT_ONCE: Final = 1000


class MysqlWriter(SqlWriter):
    """Write the table ``task`` of one database."""

    def __init__(self, url: MysqlUrl) -> None:
        """Connect, and create a missing layout. Raises StoreUnavailable."""
        super().__init__(url.name, explain, (OSError, errors.MySQLError))
        self._url = url
        # Lock names are global to a server, and have 64 characters at most.
        self._lock = f"taskgate import {hashlib.sha256(url.database.lower().encode()).hexdigest()[:40]}"
        self._largest_statement = 0
        self._open()

    def _write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        for task in tasks:
            task.document.decode()  # refuses non-UTF-8 before writing anything
        return self._commit_after(self._put(tasks), len(tasks))

    async def _prepare(self) -> None:
        self._connection = connection = await _connect(self._url)
        self._largest_statement = await _value(connection, "SELECT @@max_allowed_packet")
        comment = await _value(connection, _COMMENT)
        if comment is None:
            try:
                await connection.query(_LAYOUT.format(comment=COMMENT))
                self.created = True
            except errors.MySQLError as error:
                if number_of(error) != _TABLE_EXISTS:  # another writer was faster
                    raise
            comment = await _value(connection, _COMMENT)
        if problem := foreign((comment or b"").decode()):
            raise StoreUnavailable(problem, store=self._name)
        await connection.query("SELECT task_id, update_time, json_data FROM task LIMIT 0")

    async def _put(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        """Write without committing; return the counts."""
        if await _value(self._connection, "SELECT GET_LOCK(%s, %s)", self._lock, LOCK_TIMEOUT) != 1:
            raise errors.OperationalError(_LOCKED, "another import does not release its lock")
        async with self._connection.cursor() as cursor:
            await cursor.execute("START TRANSACTION")
            stored = await _stored(cursor, tasks)
            standings = await _standings(cursor, tasks, stored)

            def standing_of_stored(task: StoredTask) -> Standing | None:
                same = stored[task.task_id].digest == digest_of(task.document)
                return None if same else standings[task.task_id]

            times = {task_id: row.update_time for task_id, row in stored.items()}
            counts, changed = compare(tasks, times, standing_of_stored)
            if changed:
                rows = [_row(task) for task in changed]
                _check_size(self._connection, rows, self._largest_statement)
                statement = _UPSERT_IN_MARIADB if is_mariadb(self._connection) else _UPSERT_IN_MYSQL
                await cursor.executemany(statement, rows)
        return counts

    async def _commit(self) -> None:
        async with asyncio.timeout(LOCK_TIMEOUT):
            await self._connection.query("COMMIT")
        try:
            await _value(self._connection, "SELECT RELEASE_LOCK(%s)", self._lock)
        except (OSError, errors.MySQLError):  # disconnecting releases it
            await self._disconnect()

    async def _disconnect(self) -> None:
        if self._connection is not None:
            terminate(self._connection)
            self._connection = None


async def _connect(url: MysqlUrl) -> Any:
    # Without strict mode, a value that is too long is truncated with only a warning.
    settings = (
        f"sql_mode = 'STRICT_ALL_TABLES', lock_wait_timeout = {LOCK_TIMEOUT}, innodb_lock_wait_timeout = {LOCK_TIMEOUT}"
    )
    return await connect(url, CONNECT_TIMEOUT, settings)


async def _value(connection: Any, statement: str, *parameters: object) -> Any:
    """Return the first column of the first row, or None."""
    async with connection.cursor() as cursor:
        await cursor.execute(statement, parameters)
        row = await cursor.fetchone()
    return row and row[0]


class _Stored(NamedTuple):
    """Facts about a stored document that was not read."""

    update_time: int
    digest: bytes
    length: int


async def _stored(cursor: Any, tasks: Sequence[StoredTask]) -> dict[str, _Stored]:
    """Look up which ``tasks`` are stored, by ID."""
    stored: dict[str, _Stored] = {}
    keys = tuple({task.task_id.encode() for task in tasks})
    for start in range(0, len(keys), _IDS_AT_ONCE):
        await cursor.execute(_LOOK, (keys[start : start + _IDS_AT_ONCE],))
        for key, *row in await cursor.fetchall():
            stored[key.decode()] = _Stored(*row)
    return stored


async def _standings(cursor: Any, tasks: Sequence[StoredTask], stored: Mapping[str, _Stored]) -> dict[str, Standing]:
    """Return standings, by ID, of stored documents that differ from a task with the same update time."""
    tied = {
        task.task_id
        for task in tasks
        if (row := stored.get(task.task_id))
        and row.update_time == task.update_time
        and row.digest != digest_of(task.document)
    }
    standings: dict[str, Standing] = {}
    for part in portions(sorted(tied), lambda task_id: stored[task_id].length):
        await cursor.execute(_DOCUMENTS, (tuple(task_id.encode() for task_id in part),))
        for key, document in await cursor.fetchall():
            standings[key.decode()] = standing_of(document)
    return standings


def _check_size(connection: Any, rows: Sequence[tuple[bytes, int, str]], most: int) -> None:
    """Refuse what the server would refuse: it may disconnect before its reason is read."""
    room = most - _STATEMENT_BYTES
    for _, _, document in rows:
        # A character takes up to four bytes, even if escaped.
        if 4 * len(document) > room and len(connection.escape(document).encode()) > room:
            raise errors.OperationalError(_PACKET_TOO_LARGE, "a statement is too long")


def _row(task: StoredTask) -> tuple[bytes, int, str]:
    return task.task_id.encode(), task.update_time, task.document.decode()

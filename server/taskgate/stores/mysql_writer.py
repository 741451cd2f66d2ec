"""What ``taskgate import`` writes into MySQL or MariaDB: a table with Conductor's columns and one more, marked.

A second table, ``taskgate_import``, has one row that a batch locks, so that batches are written one after the other,
and one for each import under way with the number of its last batch.
"""

import asyncio
import hashlib
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

from asyncmy import errors

from taskgate.errors import StoreUnavailable
from taskgate.stores.base import StoredTask, WriteCounts
from taskgate.stores.interrupts import interrupts_held
from taskgate.stores.loop_thread import LoopThread
from taskgate.stores.mysql_connect import connect, explain, number_of, terminate
from taskgate.stores.mysql_url import MysqlUrl

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for making a connection."""

LOCK_TIMEOUT: Final = 30
"""Seconds a write waits for another writer."""

STATEMENT_TIMEOUT: Final = 300
"""Seconds after which a batch of ours is given up: the server has stopped answering."""

MARK: Final = "taskgate layout "
"""The comment on tables that taskgate makes begins so; the number of the layout follows."""

LAYOUT_VERSION: Final = 1

_TABLE_EXISTS: Final = 1050
_PACKET_TOO_LARGE: Final = 1153

_STATEMENT_BYTES: Final = 4096
"""More than the statement that writes one task has beside the document."""

# IDs are bytes: even the binary collation of text takes "a" and "a " for the same. 1020 is 255 characters.
_LAYOUT: Final = """
CREATE TABLE task (
    task_id     varbinary(1020) NOT NULL PRIMARY KEY,
    update_time bigint NOT NULL DEFAULT 0, -- the document's updateTime, epoch milliseconds
    created_on  timestamp NULL DEFAULT CURRENT_TIMESTAMP,
    modified_on timestamp NULL DEFAULT CURRENT_TIMESTAMP,
    json_data   longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC COMMENT='{mark}'
"""

_BATCHES: Final = """
CREATE TABLE IF NOT EXISTS taskgate_import (
    writer varbinary(36) NOT NULL PRIMARY KEY,
    batch  bigint NOT NULL
) ENGINE=InnoDB COMMENT='{mark}'
"""

_COMMENT: Final = (
    "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'task'"
)

_LOCK: Final = "SELECT batch FROM taskgate_import WHERE writer = '' FOR UPDATE"

_NUMBER: Final = "INSERT INTO taskgate_import VALUES (%s, %s) ON DUPLICATE KEY UPDATE batch = VALUES(batch)"

_LOOK: Final = "SELECT task_id, update_time, SHA2(json_data, 256) FROM task WHERE task_id IN %s"

_UPSERT: Final = (
    "INSERT INTO task (task_id, update_time, json_data) VALUES (%s, %s, %s) ON DUPLICATE KEY UPDATE"
    " update_time = VALUES(update_time), modified_on = CURRENT_TIMESTAMP, json_data = VALUES(json_data)"
)

_IDS_AT_ONCE: Final = 1000


class MysqlWriter:
    """Writes batches, each in one transaction; several may write at once, and readers notice nothing of it."""

    def __init__(self, url: MysqlUrl) -> None:
        """Connect, and make the layout where there is none. Raises StoreUnavailable."""
        self.created = False
        self.total = WriteCounts()
        self._url = url
        self._name = str(uuid.uuid4())
        self._batch = 0
        self._connection: Any = None
        self._largest_statement = 0
        self._closed = False
        self._loop = LoopThread()
        try:
            with self._faults():
                self._loop.run(self._prepare())
        except BaseException:
            self.close()
            raise

    def write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        """See ``TaskWriter``."""
        if self._closed:
            raise StoreUnavailable(f"The store {self._url.name} is closed")
        documents = [(task, task.document.decode()) for task in tasks]
        with self._faults():
            counts = self._loop.run(self._put(documents))
            with interrupts_held():
                self._loop.run(self._commit())
                self.total += counts
        return counts

    def close(self) -> None:
        """See ``TaskWriter``."""
        if not self._closed:
            self._closed = True
            self._loop.run(self._leave())
            self._loop.close()

    def __enter__(self) -> Self:
        """Return this writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Whatever goes wrong, leave no transaction behind, and say it in words for people."""
        try:
            yield
        except BaseException as error:
            if not self._closed:
                self._loop.run(self._disconnect())
            public = explain(self._url.name, error) if isinstance(error, Exception) else None
            if public is None:
                raise
            raise public from error

    async def _prepare(self) -> None:
        """Connect, and make the layout, or see that it is there."""
        self._connection = connection = await _connect(self._url)
        self._largest_statement = await _value(connection, "SELECT @@max_allowed_packet")
        comment = await _value(connection, _COMMENT)
        if comment is None:
            await connection.query(_BATCHES.format(mark=f"{MARK}{LAYOUT_VERSION}"))
            try:
                await connection.query(_LAYOUT.format(mark=f"{MARK}{LAYOUT_VERSION}"))
                self.created = True
            except errors.MySQLError as error:
                if number_of(error) != _TABLE_EXISTS:  # another writer was faster
                    raise
            comment = await _value(connection, _COMMENT)
        if problem := _foreign((comment or b"").decode()):
            raise StoreUnavailable(f"The store {self._url.name} is unavailable: {problem}")
        await connection.query("INSERT IGNORE INTO taskgate_import VALUES ('', 0)")
        await connection.query("SELECT task_id, update_time, json_data FROM task LIMIT 0")

    async def _put(self, documents: Sequence[tuple[StoredTask, str]]) -> WriteCounts:
        """Write without committing; returns what that did."""
        if self._connection is None:
            await self._prepare()
        self._batch += 1
        async with asyncio.timeout(STATEMENT_TIMEOUT), self._connection.cursor() as cursor:
            await cursor.execute("START TRANSACTION")
            await cursor.execute(_LOCK)
            await cursor.execute(_NUMBER, (self._name, self._batch))
            counts, changed = _merged(documents, await _stored(cursor, [task.task_id for task, _ in documents]))
            if changed:
                _check_size(self._connection, changed, self._largest_statement)
                await cursor.executemany(_UPSERT, changed)
        return counts

    async def _commit(self) -> None:
        """Commit; where the connection is lost over it, ask on another one what came of it."""
        try:
            async with asyncio.timeout(LOCK_TIMEOUT):
                await self._connection.query("COMMIT")
        except (OSError, errors.MySQLError):
            await self._disconnect()
            if await self._committed():
                return
            raise

    async def _committed(self) -> bool:
        """Whether the last batch is in the database, once the server can say so."""
        deadline = time.monotonic() + LOCK_TIMEOUT
        while time.monotonic() < deadline:
            with suppress(OSError, errors.MySQLError):
                connection = await _connect(self._url)
                try:
                    await connection.query("START TRANSACTION")
                    await connection.query(_LOCK)  # nobody's, once the server has done with the lost connection
                    number = await _value(
                        connection, "SELECT batch FROM taskgate_import WHERE writer = %s FOR UPDATE", self._name
                    )
                finally:
                    terminate(connection)
                return bool(number == self._batch)
            await asyncio.sleep(0.5)
        raise StoreUnavailable(
            f"The store {self._url.name} is unavailable: the connection was lost while a batch was committed,"
            " and it is not known whether that batch is stored"
        )

    async def _leave(self) -> None:
        """Take our row away, if that costs nothing: it is of no use to anybody, nor does it harm."""
        if self._connection is not None:
            with suppress(OSError, errors.MySQLError):
                async with asyncio.timeout(1), self._connection.cursor() as cursor:
                    await cursor.execute("DELETE FROM taskgate_import WHERE writer = %s", (self._name,))
        await self._disconnect()

    async def _disconnect(self) -> None:
        if self._connection is not None:
            terminate(self._connection)
            self._connection = None


async def _connect(url: MysqlUrl) -> Any:
    # Without the strict mode a value that is too long is cut, and only a warning says so.
    settings = (
        f"sql_mode = 'STRICT_ALL_TABLES', lock_wait_timeout = {LOCK_TIMEOUT}, innodb_lock_wait_timeout = {LOCK_TIMEOUT}"
    )
    return await connect(url, CONNECT_TIMEOUT, settings)


async def _value(connection: Any, statement: str, *parameters: object) -> Any:
    """The first column of the first row, or None."""
    async with connection.cursor() as cursor:
        await cursor.execute(statement, parameters)
        row = await cursor.fetchone()
    return row and row[0]


async def _stored(cursor: Any, task_ids: Sequence[str]) -> dict[bytes, tuple[int, str]]:
    """Update time and hash of the tasks that there are."""
    found: dict[bytes, tuple[int, str]] = {}
    keys = tuple({task_id.encode() for task_id in task_ids})
    for start in range(0, len(keys), _IDS_AT_ONCE):
        await cursor.execute(_LOOK, (keys[start : start + _IDS_AT_ONCE],))
        found |= {key: (update_time, digest.decode()) for key, update_time, digest in await cursor.fetchall()}
    return found


def _check_size(connection: Any, changed: Sequence[tuple[bytes, int, str]], most: int) -> None:
    """Refuse what the server would refuse: it may hang up before its reason is read."""
    for _, _, document in changed:
        room = most - _STATEMENT_BYTES
        # A character has up to four bytes, those that are escaped included.
        if 4 * len(document) > room and len(connection.escape(document).encode()) > room:
            raise errors.OperationalError(_PACKET_TOO_LARGE, "a statement is too long")


def _merged(
    documents: Sequence[tuple[StoredTask, str]], found: dict[bytes, tuple[int, str]]
) -> tuple[WriteCounts, list[tuple[bytes, int, str]]]:
    """What writing ``documents`` one after the other does to what was ``found``, and the rows that come of it."""
    counts = WriteCounts()
    changed: dict[bytes, tuple[bytes, int, str]] = {}
    for task, document in documents:
        key = task.task_id.encode()
        new = (task.update_time, hashlib.sha256(task.document).hexdigest())
        old = found.get(key)
        if old is None:
            counts.added += 1
        elif old[0] > new[0]:
            counts.older += 1
            continue
        elif old == new:
            counts.unchanged += 1
            continue
        else:
            counts.replaced += 1
        found[key] = new
        changed[key] = (key, task.update_time, document)
    return counts, list(changed.values())


def _foreign(comment: str) -> str | None:
    """Why a table with this comment is not for us to write to, or None."""
    if not comment.startswith(MARK):
        return "it belongs to another program (Conductor's own?), and taskgate writes only into tables it made"
    if comment != f"{MARK}{LAYOUT_VERSION}":
        return f"it has layout {comment.removeprefix(MARK)}, and this taskgate writes layout {LAYOUT_VERSION}"
    return None

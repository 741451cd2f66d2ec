"""Write tasks into PostgreSQL for ``taskgate import``: a marked table with Conductor's columns and one more."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from taskgate.base.errors import StoreUnavailable
from taskgate.stores.base import StoredTask, WriteCounts
from taskgate.stores.postgresql.connect import connect, explain, table_of
from taskgate.stores.postgresql.url import PostgresqlUrl
from taskgate.stores.writing.sql_writer import BATCH_TIMEOUT, COMMENT, SqlWriter, foreign
from taskgate.stores.writing.standing import digest_of, standing_of
from taskgate.stores.writing.writer import portions

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for connecting."""

LOCK_TIMEOUT: Final = 30
"""Seconds a write waits for another writer."""

# IDs are compared byte for byte, which "C" does in one step. The document is last, as in the SQLite store.
_LAYOUT = """
CREATE TABLE {table} (
    task_id     text COLLATE "C" PRIMARY KEY,
    update_time bigint NOT NULL DEFAULT 0, -- the document's updateTime, epoch milliseconds
    created_on  timestamp DEFAULT CURRENT_TIMESTAMP,
    modified_on timestamp DEFAULT CURRENT_TIMESTAMP,
    json_data   text NOT NULL
);
COMMENT ON TABLE {table} IS '{comment}'
"""

# In a row that existed before, xmax is the transaction that locked it: this one. Unchanged rows are locked too, so the
# statements below see what this one saw.
_UPSERT = """
INSERT INTO {table} AS stored (task_id, update_time, json_data)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[])
ON CONFLICT (task_id) DO UPDATE
SET update_time = excluded.update_time, modified_on = CURRENT_TIMESTAMP, json_data = excluded.json_data
WHERE stored.update_time < excluded.update_time
RETURNING task_id, xmax = 0
"""

# Gives digest and length of rows with the same update time, so that only differing documents are read.
_KEPT = """
SELECT stored.task_id, tied.document IS NOT NULL, sha256(tied.document), length(tied.document)
FROM unnest($1::text[], $2::bigint[]) AS given (task_id, update_time)
JOIN {table} AS stored ON stored.task_id = given.task_id COLLATE "C"
CROSS JOIN LATERAL (
    SELECT CASE WHEN stored.update_time = given.update_time THEN convert_to(stored.json_data, 'UTF8') END AS document
) AS tied
"""

_DOCUMENTS = """
SELECT task_id, convert_to(json_data, 'UTF8') FROM {table} WHERE task_id = ANY ($1::text[])
"""

_REPLACE = """
UPDATE {table} AS stored SET modified_on = CURRENT_TIMESTAMP, json_data = given.json_data
FROM unnest($1::text[], $2::text[]) AS given (task_id, json_data) WHERE stored.task_id = given.task_id COLLATE "C"
"""

_BEGIN = "SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)"

_LOST = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError)

_LAYOUT_LOCK = 0x54534B47
"""The advisory lock for creating the layout: "TSKG"."""


class PostgresqlWriter(SqlWriter):
    """Write the table ``task`` of one schema."""

    def __init__(self, url: PostgresqlUrl) -> None:
        """Connect, and create a missing layout. Raises StoreUnavailable."""
        super().__init__(url.name, explain, _LOST)
        self._url = url
        self._table = table_of(url)
        self._open()

    def _write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        return self._commit_after(self._put([_Columns(part) for part in _rounds(tasks)]), len(tasks))

    async def _prepare(self) -> None:
        self._connection = connection = await connect(self._url, {}, CONNECT_TIMEOUT)
        # Not the driver's transaction: it waits for the rollback, on a connection that may have gone silent.
        await connection.execute("BEGIN")
        await connection.fetchrow(_BEGIN, f"{LOCK_TIMEOUT}s", f"{BATCH_TIMEOUT:.0f}s")
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LAYOUT_LOCK})")
        found, comment = await connection.fetchrow(
            "SELECT to_regclass($1)::oid, obj_description(to_regclass($1), 'pg_class')", self._table
        )
        if found is None:
            schema = self._table.removesuffix(".task")
            if await connection.fetchval("SELECT to_regnamespace($1) IS NULL", schema):
                await connection.execute(f"CREATE SCHEMA {schema}")
            await connection.execute(_LAYOUT.format(table=self._table, comment=COMMENT))
            self.created = True
        elif problem := foreign(comment or ""):
            raise StoreUnavailable(problem, store=self._name)
        await connection.execute(f"SELECT task_id, update_time, json_data FROM {self._table} LIMIT 0")  # noqa: S608 - quoted
        await connection.execute("COMMIT")

    async def _put(self, rounds: Sequence["_Columns"]) -> WriteCounts:
        """Write without committing; return the counts."""
        await self._connection.execute("BEGIN")
        await self._connection.fetchrow(_BEGIN, f"{LOCK_TIMEOUT}s", f"{BATCH_TIMEOUT:.0f}s")
        counts = WriteCounts()
        for columns in rounds:
            counts += await self._put_distinct(columns)
        return counts

    async def _put_distinct(self, columns: "_Columns") -> WriteCounts:
        upsert = _UPSERT.format(table=self._table)
        rows = await self._connection.fetch(upsert, columns.task_ids, columns.update_times, columns.documents)
        added = sum(is_new for _, is_new in rows)
        counts = WriteCounts(added, len(rows) - added)
        written = {task_id for task_id, _ in rows}
        if kept := [task for task in columns.tasks if task.task_id not in written]:
            counts += await self._settle_ties(kept)
        return counts

    async def _settle_ties(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        """Write those ``tasks`` that are later than the stored ones; stored update times are equal or later."""
        times = [task.update_time for task in tasks]
        kept = await self._connection.fetch(_KEPT.format(table=self._table), [task.task_id for task in tasks], times)
        tied = {task_id: (digest, length) for task_id, is_tied, digest, length in kept if is_tied}
        others = [task for task in tasks if task.task_id in tied and digest_of(task.document) != tied[task.task_id][0]]
        later: list[StoredTask] = []
        for part in portions(others, lambda task: tied[task.task_id][1]):
            documents = dict(
                await self._connection.fetch(_DOCUMENTS.format(table=self._table), [task.task_id for task in part])
            )
            later += [task for task in part if standing_of(task.document) > standing_of(documents[task.task_id])]
        if later:
            columns = _Columns(later)
            await self._connection.execute(_REPLACE.format(table=self._table), columns.task_ids, columns.documents)
        older = len(tasks) - len(tied) + len(others) - len(later)
        return WriteCounts(replaced=len(later), unchanged=len(tied) - len(others), older=older)

    async def _commit(self) -> None:
        await self._connection.execute("COMMIT", timeout=LOCK_TIMEOUT)

    async def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class _Columns:
    """Tasks with distinct IDs, as arrays. Raises UnicodeDecodeError."""

    def __init__(self, tasks: Sequence[StoredTask]) -> None:
        self.tasks = tasks = sorted(tasks, key=lambda task: task.task_id)  # all writers lock in the same order
        self.task_ids = [task.task_id for task in tasks]
        self.update_times = [task.update_time for task in tasks]
        self.documents = [task.document.decode() for task in tasks]


def _rounds(tasks: Sequence[StoredTask]) -> list[list[StoredTask]]:
    """Split ``tasks`` into as few parts as possible with distinct IDs in each, to write in sequence."""
    rounds: list[list[StoredTask]] = []
    seen: dict[str, int] = {}
    for task in tasks:
        number = seen.get(task.task_id, 0)
        seen[task.task_id] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(task)
    return rounds

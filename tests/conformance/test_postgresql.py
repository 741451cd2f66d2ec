"""PostgreSQL against the suite, and what only a server can do."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from conformance.rig import Rig
from conformance.suite import StoreSuite, WriterSuite, _excuse
from support.postgresql import PostgresqlServer, running_postgresql

__all__ = ["_excuse"]  # a fixture of the suite, for the classes below

_numbers = itertools.count()


class PostgresqlRig(Rig):
    """A database of its own on a server that all tests of this module share."""

    def __init__(self, folder: Path, server: PostgresqlServer) -> None:
        super().__init__(folder)
        self.server = server
        self.database = f"conductor {next(_numbers)}"
        self.name = f"postgresql://127.0.0.1:{server.port}/{self.database}"
        server.execute(f'CREATE DATABASE "{self.database}"')

    @property
    def url(self) -> str:
        return self.server.url(self.database.replace(" ", "%20"))

    def put(self, task_id: str, value: object) -> None:
        if isinstance(value, int | float):  # a column has one type
            kind = "integer" if isinstance(value, int) else "double precision"
            self._execute(f"ALTER TABLE task ALTER json_data TYPE {kind} USING NULL")
        self._execute(
            "INSERT INTO task (task_id, json_data) VALUES ($1, $2)"
            " ON CONFLICT (task_id) DO UPDATE SET json_data = excluded.json_data",
            task_id,
            value,
        )

    def stored(self) -> dict[str, bytes]:
        rows = self._execute("SELECT task_id, convert_to(json_data, 'UTF8') AS document FROM task")
        return {row["task_id"]: row["document"] for row in rows}

    @contextmanager
    def away(self) -> Iterator[None]:
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()

    def locked(self) -> AbstractContextManager[None]:
        return self.server.transaction("LOCK TABLE task IN ACCESS EXCLUSIVE MODE", self.database)

    @contextmanager
    def damaged(self) -> Iterator[None]:
        self._execute("ALTER TABLE task RENAME json_data TO something_else")
        yield
        self._execute("ALTER TABLE task RENAME something_else TO json_data")

    def foreign(self) -> None:
        """As Conductor's migrations leave it (contract section 3.1), but for NULL, to try odd values on."""
        self._execute(
            "CREATE TABLE task (created_on timestamp DEFAULT CURRENT_TIMESTAMP, modified_on timestamp"
            " DEFAULT CURRENT_TIMESTAMP, task_id varchar(255) NOT NULL PRIMARY KEY, json_data text)"
        )

    def _execute(self, statement: str, *parameters: object) -> Sequence[Mapping[str, Any]]:
        return self.server.execute(statement, *parameters, database=self.database)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with running_postgresql() as running:
        yield running


@pytest.fixture
def rig(tmp_path: Path, server: PostgresqlServer) -> PostgresqlRig:
    return PostgresqlRig(tmp_path, server)


class TestPostgresqlStore(StoreSuite):
    """Every "must" of TaskStore, and more."""


class TestPostgresqlWriter(WriterSuite):
    """Every "must" of TaskWriter, and more."""

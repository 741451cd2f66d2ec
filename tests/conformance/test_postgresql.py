"""Run the suite against PostgreSQL, and test its special features."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from conformance.dictionary import check_like_a_dictionary
from conformance.sql_server import SqlServerRig, SqlServerStoreSuite, SqlServerWriterSuite, check_reason, refusal
from conformance.suite import ID, stored
from support.cut_wire import POSTGRESQL_COMMIT
from support.documented import statements
from support.pgbouncer import running_pgbouncer
from support.postgresql import PASSWORD, USER, PostgresqlServer, free_port, running_postgresql
from support.running import eventually
from taskgate.base.errors import DocumentUnreadable, StoreUnavailable
from taskgate.stores import open_store, open_writer
from taskgate.stores.base import TaskStore, WriteCounts
from taskgate.stores.postgresql.store import PostgresqlStore
from taskgate.stores.postgresql.url import parse_postgresql_url

_numbers = itertools.count()


class PostgresqlRig(SqlServerRig):
    """A private database on a server that all tests of this module share."""

    server: PostgresqlServer
    user = USER
    commit = POSTGRESQL_COMMIT
    batch_statements = (b"BEGIN", b"AS given")
    lock_timeout = "taskgate.stores.postgresql.writer.LOCK_TIMEOUT"

    def __init__(self, folder: Path, server: PostgresqlServer) -> None:
        super().__init__(folder, server)
        self.database = f"conductor {next(_numbers)}"
        self.name = f"postgresql://127.0.0.1:{server.port}/{self.database}"
        server.execute(f'CREATE DATABASE "{self.database}"')

    def url_by(self, port: int) -> str:
        return self.server.url(self.database.replace(" ", "%20"), hosts=f"127.0.0.1:{port}")

    def bare_store(self) -> TaskStore:
        return PostgresqlStore(parse_postgresql_url(self.url.removeprefix("postgresql://")))

    def connections(self) -> int:
        return len(self.sessions())

    def count_reads(self) -> Callable[[], int]:
        self.execute("CREATE EXTENSION pg_stat_statements")
        self.execute("SELECT pg_stat_statements_reset()")

        def executed() -> int:
            statements = "SELECT sum(calls) AS calls FROM pg_stat_statements WHERE query ~ '^SELECT json_data FROM'"
            (row,) = self.execute(statements)
            return int(row["calls"])

        return executed

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

    def locked(self) -> AbstractContextManager[None]:
        return self.server.transaction("LOCK TABLE task IN ACCESS EXCLUSIVE MODE", self.database)

    @contextmanager
    def damaged(self) -> Iterator[None]:
        self._execute("ALTER TABLE task RENAME json_data TO something_else")
        yield
        self._execute("ALTER TABLE task RENAME something_else TO json_data")

    def foreign(self) -> None:
        """As Conductor's migrations leave it (``V6__update_pk.sql`` last), but nullable, to try odd values."""
        self._execute(
            "CREATE TABLE task (created_on timestamp DEFAULT CURRENT_TIMESTAMP, modified_on timestamp"
            " DEFAULT CURRENT_TIMESTAMP, task_id varchar(255) NOT NULL PRIMARY KEY, json_data text)"
        )

    def execute(self, statements: str) -> Sequence[Mapping[str, Any]]:
        """Execute statements without parameters; {database} in them becomes this one."""
        rows: Sequence[Mapping[str, Any]] = []
        for statement in statements.split("; "):
            rows = self._execute(statement.format(database=f'"{self.database}"'))
        return rows

    def sessions(
        self, server: PostgresqlServer | None = None, *, everyone: bool = False
    ) -> Sequence[Mapping[str, Any]]:
        """The connections of taskgate, or of all clients, to the database."""
        return (server or self.server).execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND ($2 OR application_name = 'taskgate')",
            self.database,
            everyone,
        )

    @contextmanager
    def role(self, name: str, create: str = "CREATE ROLE {name} LOGIN PASSWORD 'secret'") -> Iterator[str]:
        """The URL for a new role without privileges, made by the statement ``create``, with these tests' password."""
        self.execute(create.replace("{name}", name).replace("'secret'", f"'{PASSWORD}'"))
        try:
            yield self.server.url(self.database.replace(" ", "%20"), user=name)
        finally:
            self.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")

    def _execute(self, statement: str, *parameters: object) -> Sequence[Mapping[str, Any]]:
        return self.server.execute(statement, *parameters, database=self.database)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with running_postgresql(shared_preload_libraries="pg_stat_statements") as running:
        yield running


@pytest.fixture
def rig(tmp_path: Path, server: PostgresqlServer) -> PostgresqlRig:
    return PostgresqlRig(tmp_path, server)


class TestPostgresqlStore(SqlServerStoreSuite):
    """Every "must" of TaskStore, and more."""

    async def test_select_on_one_table_is_enough(self, rig: PostgresqlRig) -> None:
        """The grant in docs/stores/postgresql.md is all that a reader needs, and without it the reason is named."""
        rig.foreign()
        rig.put(ID, "{}")
        rig.execute("REVOKE ALL ON DATABASE {database} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC")
        create, *grants = (
            text.replace("DATABASE conductor", "DATABASE {database}") for text in statements("postgresql")
        )
        connect, usage, select, read_only, in_time = grants
        with rig.role("taskgate", create) as url:
            store = open_store(url)
            assert "does not let this user in" in await refusal(store) or "grants" in await refusal(store)
            rig.execute(f"{connect}; {usage}")
            assert "grants" in await refusal(store)
            for grant in (select, f"{read_only}; {in_time}"):
                rig.execute(grant)
                await store.check()
                assert await store.get_document(ID) == b"{}"
                await store.close()
                store = open_store(url)
            await store.close()

    async def test_sessions_are_read_only_and_limit_statements(self, rig: PostgresqlRig) -> None:
        """A view in the table's place shows the settings of the session."""
        rig.execute(
            "CREATE VIEW task AS SELECT name AS task_id, setting AS json_data FROM pg_settings",
        )
        store = rig.open_store()
        assert await store.get_document("transaction_read_only") == b"on"
        assert await store.get_document("statement_timeout") == b"1500"
        assert await store.get_document("application_name") == b"taskgate"
        await store.close()

    @pytest.mark.parametrize(
        ("parameters", "reason"),
        [
            ("schema=other", "it has no table 'task'"),
            ("sslmode=require", "it does not offer TLS"),
            ("target_session_attrs=standby", "no host is what target_session_attrs asks for"),
        ],
    )
    async def test_reason_of_its_own_is_named(self, rig: PostgresqlRig, parameters: str, reason: str) -> None:
        """Likewise for causes that only URLs of this kind have."""
        rig.create()
        await check_reason(rig, f"{rig.url}?{parameters}", reason)

    async def test_table_of_another_schema(self, rig: PostgresqlRig) -> None:
        """Conductor's ``conductor.postgres.schema``, with any name."""
        url = f"{rig.url}?schema=odd%22%20Schema"
        with open_writer(url) as writer:
            assert writer.created
            writer.write([stored()])
        store = open_store(url)
        assert await store.get_document(ID) == stored().document
        await store.close()

    async def test_text_that_the_encoding_cannot_hold_is_an_unknown_id(self, rig: PostgresqlRig) -> None:
        """A database of another encoding has no task with such an ID, and serves its own text as UTF-8."""
        rig.server.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        rig.database = "latin"
        rig.create()
        rig.put(ID, '{"s":"é"}')
        store = rig.open_store()
        assert await store.get_document("\u4e00") is None
        assert await store.get_document(ID) == '{"s":"é"}'.encode()
        await store.close()
        rig.server.execute("DROP DATABASE latin WITH (FORCE)")

    async def test_byte_that_does_not_convert_is_an_unreadable_document(self, rig: PostgresqlRig) -> None:
        """Such a task exists; an ID that the encoding cannot hold stays unknown. Others are read as before."""
        rig.server.execute("CREATE DATABASE windows ENCODING 'WIN1252' TEMPLATE template0")
        rig.database = "windows"
        rig.create()
        rig.put(ID, '{"s":"€"}')
        rig.execute("INSERT INTO task (task_id, json_data) VALUES ('bad', chr(129))")  # WIN1252 has no such character
        store = rig.open_store()
        with pytest.raises(DocumentUnreadable, match="of task bad cannot be read"):
            await store.get_document("bad")
        assert await store.get_document("\u4e00") is None
        assert await store.get_document(ID) == '{"s":"€"}'.encode()
        await store.close()
        rig.server.execute("DROP DATABASE windows WITH (FORCE)")


class TestPostgresqlWriter(SqlServerWriterSuite):
    """Every "must" of TaskWriter, and more."""

    def test_owner_of_a_schema_may_import(self, rig: PostgresqlRig) -> None:
        """Without privileges on the database: the schema's owner makes the table."""
        with rig.role("owner") as url:
            rig.execute("CREATE SCHEMA tasks AUTHORIZATION owner")
            with open_writer(f"{url}?schema=tasks") as writer:
                assert writer.write([stored()]) == WriteCounts(added=1)

    def test_three_grants_are_enough_once_the_table_is_there(self, rig: PostgresqlRig) -> None:
        """The grants for an import in docs/stores/postgresql.md; without them the reason is named."""
        rig.create()
        with rig.role("importer") as url:
            with pytest.raises(StoreUnavailable, match="look at the grants"):
                open_writer(url)
            rig.execute("GRANT SELECT, INSERT, UPDATE ON task TO importer")
            with open_writer(url) as writer:
                writer.write([stored()])
                assert writer.write([stored(update_time=2)]) == WriteCounts(replaced=1)


def test_store_behaves_like_a_dictionary(server: PostgresqlServer, tmp_path: Path) -> None:
    """Any sequence of writes and reads gives what a dictionary with the same rules would."""
    check_like_a_dictionary(lambda: PostgresqlRig(tmp_path, server).url)


async def test_replicas_are_found_by_what_they_are(rig: PostgresqlRig) -> None:
    """``target_session_attrs`` with several hosts; a dead host does not matter if another one fits."""
    rig.create()
    rig.put(ID, "{}")
    with rig.server.replica() as standby:
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{rig.server.port},127.0.0.1:{standby.port}"
        readers = {
            target: open_store(
                rig.server.url(rig.database.replace(" ", "%20"), hosts=hosts, target_session_attrs=target)
            )
            for target in ("any", "primary", "read-write", "standby", "read-only", "prefer-standby")
        }
        await asyncio.to_thread(
            eventually, lambda: standby.execute("SELECT 1 FROM task", database=rig.database), "the standby has it"
        )
        for reader in readers.values():
            assert await reader.get_document(ID) == b"{}"
        assert (len(rig.sessions()), len(rig.sessions(standby))) == (3, 3)
    assert await readers["prefer-standby"].get_document(ID) == b"{}"
    assert "target_session_attrs" in await refusal(readers["standby"])
    for reader in readers.values():
        await reader.close()


async def test_port_without_a_host_is_that_of_a_local_server(rig: PostgresqlRig) -> None:
    """As in libpq; PGPORT, or 5432, would be another server."""
    rig.create()
    rig.put(ID, "{}")
    store = open_store(rig.server.url(rig.database.replace(" ", "%20"), hosts="", port=str(rig.server.port)))
    assert await store.get_document(ID) == b"{}"
    await store.close()


async def test_tls_is_what_the_url_asks_for(tmp_path: Path) -> None:
    """``sslmode`` as libpq defines it: encrypted, and the certificate checked on request."""
    with running_postgresql() as server:
        root = server.certify()
        rig = PostgresqlRig(tmp_path, server)
        rig.create()
        rig.put(ID, "{}")
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(str(other))
        local = f"localhost:{server.port}"
        for parameters, hosts, encrypted in (
            ({}, local, True),
            ({"sslmode": "disable"}, local, False),
            ({"sslmode": "require"}, local, True),
            ({"sslmode": "verify-ca", "sslrootcert": str(root)}, f"127.0.0.1:{server.port}", True),
            ({"sslmode": "verify-full", "sslrootcert": str(root)}, local, True),
        ):
            store = open_store(server.url(rig.database.replace(" ", "%20"), hosts=hosts, **parameters))
            assert await store.get_document(ID) == b"{}"
            (row,) = server.execute(
                "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'taskgate'"
            )
            assert row["ssl"] is encrypted
            await store.close()
            await asyncio.to_thread(eventually, lambda: not rig.sessions(), "no connection left")
        for root_file, hosts in ((other, local), (root, f"127.0.0.1:{server.port}")):
            store = open_store(server.url(hosts=hosts, sslmode="verify-full", sslrootcert=str(root_file)))
            assert "its TLS certificate is not trusted" in await refusal(store)
            await store.close()


@pytest.mark.needs("pgbouncer")
class TestPgbouncer:
    """Reads and imports through a pooler that gives each transaction another connection."""

    @pytest.mark.parametrize("ignoring", [False, True], ids=["strict", "ignoring"])
    async def test_reads_go_on_over_many_connections(self, rig: PostgresqlRig, ignoring: bool) -> None:
        """Prepared statements are abandoned where they do not work; no answer is ever another's."""
        rig.create()
        documents = {f"id-{n}": f'{{"n":{n}}}' for n in range(50)}
        for task_id, document in documents.items():
            rig.put(task_id, document)
        ignored = {"ignore_startup_parameters": "default_transaction_read_only,statement_timeout"} if ignoring else {}
        with running_pgbouncer(rig.server, **ignored) as port:
            url = rig.server.url(rig.database.replace(" ", "%20"), hosts=f"127.0.0.1:{port}")
            stores = [open_store(url) for _ in range(3)]
            for _ in range(20):
                answers = await asyncio.gather(
                    *(store.get_document(task_id) for store in stores for task_id in documents)
                )
                assert answers == [document.encode() for document in documents.values()] * 3
            assert len(rig.sessions(everyone=True)) > 1
            rig.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert await stores[0].get_document("id-1") == b'{"n":1}'
            for store in stores:
                await store.check()
                await store.close()

    def test_import_goes_through(self, rig: PostgresqlRig) -> None:
        """Each batch is one transaction, so it works through a pooler."""
        with running_pgbouncer(rig.server) as port:
            url = rig.server.url(rig.database.replace(" ", "%20"), hosts=f"127.0.0.1:{port}")
            with open_writer(url) as writer:
                for _ in range(2):
                    writer.write([stored(f"{n}") for n in range(5000)])
                assert writer.total == WriteCounts(added=5000, unchanged=5000)

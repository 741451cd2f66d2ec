"""PostgreSQL against the suite, and what only a server can do."""

import asyncio
import itertools
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from conformance.dictionary import check_like_a_dictionary
from conformance.rig import Rig
from conformance.suite import ID, OTHER_ID, StoreSuite, WriterSuite, _excuse, assert_public, stored
from support.cut_wire import POSTGRESQL_COMMIT, cut_at_commit
from support.pgbouncer import running_pgbouncer
from support.postgresql import PASSWORD, PostgresqlServer, free_port, running_postgresql
from support.running import eventually
from taskgate.errors import StoreUnavailable
from taskgate.stores import open_store, open_writer, postgresql_writer
from taskgate.stores.base import TaskStore, WriteCounts
from taskgate.stores.postgresql import PostgresqlStore
from taskgate.stores.postgresql_url import parse_postgresql_url

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

    def execute(self, statements: str) -> Sequence[Mapping[str, Any]]:
        """Statements without parameters; in them, {database} is this one."""
        rows: Sequence[Mapping[str, Any]] = []
        for statement in statements.split("; "):
            rows = self._execute(statement.format(database=f'"{self.database}"'))
        return rows

    def sessions(
        self, server: PostgresqlServer | None = None, *, everyone: bool = False
    ) -> Sequence[Mapping[str, Any]]:
        """The connections that taskgate, or everyone, has to the database."""
        return (server or self.server).execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND ($2 OR application_name = 'taskgate')",
            self.database,
            everyone,
        )

    @contextmanager
    def role(self, name: str) -> Iterator[str]:
        """The URL for a new role without rights."""
        self.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
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


async def refusal(store: TaskStore) -> str:
    """What a read is refused with."""
    with pytest.raises(StoreUnavailable) as refused:
        await store.get_document(ID)
    return refused.value.message


class TestPostgresqlStore(StoreSuite):
    """Every "must" of TaskStore, and more."""

    async def test_paused_server_is_away_and_comes_back(self, rig: PostgresqlRig) -> None:
        """A server that takes connections and says nothing; only the first to notice waits for it."""
        rig.create()
        rig.put(ID, "{}")
        store = rig.open_store()
        assert await store.get_document(ID) == b"{}"
        with rig.server.paused():
            started = time.perf_counter()
            first = await asyncio.gather(*(store.get_document(f"{n}") for n in range(50)), return_exceptions=True)
            assert {type(result) for result in first} == {StoreUnavailable}
            assert time.perf_counter() - started < 3
            probe = asyncio.create_task(refusal(store))
            await asyncio.sleep(0.1)
            started = time.perf_counter()
            for number in range(100):
                with pytest.raises(StoreUnavailable):
                    await store.get_document(f"{number}")
            assert time.perf_counter() - started < 1
            assert "it does not answer" in await probe
        await store.check()
        assert await store.get_document(ID) == b"{}"
        await store.close()

    async def test_lost_connections_are_replaced_without_a_failed_read(self, rig: PostgresqlRig) -> None:
        """A server restarted between two reads: the second is answered, though its connection was dead."""
        rig.create()
        rig.put(ID, "{}")
        store = rig.open_store()
        for _ in range(3):
            assert set(await asyncio.gather(*(store.get_document(f"{n}") for n in range(20)))) == {None}
            with rig.away():  # the loop stands still meanwhile, so nobody notices before the read
                pass
            assert await store.get_document(ID) == b"{}"
        await store.close()

    async def test_connections_are_bounded(self, rig: PostgresqlRig) -> None:
        """No more than ``pool_size``, however many reads there are."""
        rig.create()
        store = open_store(f"{rig.url}?pool_size=3")
        await asyncio.gather(*(store.get_document(f"{n}") for n in range(1000)))
        assert len(rig.sessions()) == 3
        await store.close()
        await asyncio.to_thread(eventually, lambda: not rig.sessions(), "no connection left")

    async def test_cancelled_reads_leave_no_connection_behind(self, rig: PostgresqlRig) -> None:
        """Reads cancelled at any moment, past single flight, neither lose room for connections nor hold any up."""
        rig.create()
        rig.put(ID, "{}")
        store = PostgresqlStore(parse_postgresql_url(rig.url.removeprefix("postgresql://")))
        for number in range(40):
            reads = [asyncio.create_task(store.get_document(f"{n}")) for n in range(20)]
            await asyncio.sleep(number / 10_000)
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
        assert set(await asyncio.gather(*(store.get_document(ID) for n in range(50)))) == {b"{}"}
        await store.close()

    async def test_select_on_one_table_is_enough(self, rig: PostgresqlRig) -> None:
        """The grant in the README is all that a reader needs, and without it the reason is named."""
        rig.foreign()
        rig.put(ID, "{}")
        rig.execute("REVOKE ALL ON DATABASE {database} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC")
        with rig.role("reader") as url:
            store = open_store(url)
            assert "does not let this user in" in await refusal(store) or "grants" in await refusal(store)
            rig.execute("GRANT CONNECT ON DATABASE {database} TO reader; GRANT USAGE ON SCHEMA public TO reader")
            assert "grants" in await refusal(store)
            rig.execute("GRANT SELECT ON task TO reader")
            await store.check()
            assert await store.get_document(ID) == b"{}"
            await store.close()

    async def test_sessions_are_read_only_and_limit_statements(self, rig: PostgresqlRig) -> None:
        """What a view in the table's place sees of the session."""
        rig.execute(
            "CREATE VIEW task AS SELECT name AS task_id, setting AS json_data FROM pg_settings",
        )
        store = rig.open_store()
        assert await store.get_document("transaction_read_only") == b"on"
        assert await store.get_document("statement_timeout") == b"1500"
        assert await store.get_document("application_name") == b"taskgate"
        await store.close()

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda url: url.replace("correct", "wrong"), "it does not take this user and password"),
            (lambda url: url.replace("postgres:", "nobody:"), "it does not take this user and password"),
            (lambda url: f"{url}x", "there is no such database"),
            (lambda url: f"{url}?schema=other", "it has no table 'task'"),
            (lambda url: f"{url}?sslmode=require", "it does not offer TLS"),
            (lambda url: f"{url}?target_session_attrs=standby", "no host is what target_session_attrs asks for"),
            (lambda url: re.sub(r":\d+/", f":{free_port()}/", url), "nothing listens there"),
            (lambda url: url.replace("127.0.0.1", "no-such-host.invalid"), "its host is not known"),
        ],
        ids=["password", "user", "database", "schema", "tls", "target", "port", "host"],
    )
    async def test_reason_is_named(self, rig: PostgresqlRig, spoil: Callable[[str], str], reason: str) -> None:
        """Each kind of refusal has its own words, which name the store and nothing secret."""
        rig.create()
        store = open_store(spoil(rig.url))
        message = await refusal(store)
        assert reason in message
        assert "postgresql://" in message
        assert not [word for word in ("correct", "wrong", "nobody", "postgres:") if word in message]
        await store.close()

    async def test_table_of_another_schema(self, rig: PostgresqlRig) -> None:
        """Conductor's ``conductor.postgres.schema``, whatever it is called."""
        url = f"{rig.url}?schema=odd%22%20Schema"
        with open_writer(url) as writer:
            assert writer.created
            writer.write([stored()])
        store = open_store(url)
        assert await store.get_document(ID) == stored().document
        await store.close()

    async def test_many_identical_reads_cost_few(self, rig: PostgresqlRig) -> None:
        """A crowd that asks for one task is answered by a handful of statements."""
        rig.create()
        rig.put(ID, "{}")
        rig.execute("CREATE EXTENSION pg_stat_statements")
        rig.execute("SELECT pg_stat_statements_reset()")
        store = rig.open_store()
        assert set(await asyncio.gather(*(store.get_document(ID) for _ in range(1000)))) == {b"{}"}
        await store.close()
        (row,) = rig.execute(
            "SELECT sum(calls) AS calls FROM pg_stat_statements WHERE query ~ '^SELECT json_data FROM'"
        )
        assert row["calls"] <= 2

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


class TestPostgresqlWriter(WriterSuite):
    """Every "must" of TaskWriter, and more."""

    def test_locked_table_makes_a_write_wait(self, rig: PostgresqlRig, monkeypatch: pytest.MonkeyPatch) -> None:
        """A lock that stays is named, nothing is written, and the same writer can go on afterwards."""
        monkeypatch.setattr(postgresql_writer, "LOCK_TIMEOUT", 1)
        with rig.open_writer() as writer:
            with rig.locked(), pytest.raises(StoreUnavailable, match="locked by another program") as refused:
                writer.write([stored()])
            assert_public(refused.value, rig)
            assert writer.write([stored()]) == WriteCounts(added=1) == writer.total

    def test_lost_server_is_told(self, rig: PostgresqlRig) -> None:
        """A server that stops during an import; the counts are those of what is stored."""
        with rig.open_writer() as writer:
            writer.write([stored()])
            with rig.away(), pytest.raises(StoreUnavailable) as refused:
                writer.write([stored(OTHER_ID)])
            assert_public(refused.value, rig)
            assert writer.total == WriteCounts(added=1)
        assert set(rig.stored()) == {ID}

    @pytest.mark.parametrize("arrives", [True, False], ids=["arrives", "is lost"])
    def test_connection_lost_over_a_commit(self, rig: PostgresqlRig, arrives: bool) -> None:
        """The connection breaks as a batch is committed: the counts say what the database says."""
        with cut_at_commit(rig.server.port, POSTGRESQL_COMMIT, arrives=arrives) as port:
            url = rig.server.url(rig.database.replace(" ", "%20"), hosts=f"127.0.0.1:{port}")
            with open_writer(url) as writer:
                if arrives:
                    assert writer.write([stored(f"{n}") for n in range(10)]) == WriteCounts(added=10)
                else:
                    with pytest.raises(StoreUnavailable, match="connection was lost"):
                        writer.write([stored(f"{n}") for n in range(10)])
                assert writer.total.added == len(rig.stored())
                assert len(rig.stored()) == (10 if arrives else 0)

    def test_two_writers_of_the_same_tasks(self, rig: PostgresqlRig) -> None:
        """Batches that meet in the same rows, in different orders: every count is exact, and none is lost."""
        rig.create()

        def write(seed: int) -> WriteCounts:
            order = random.Random(seed)
            with rig.open_writer() as writer:
                for number in range(20):
                    tasks = [stored(f"{n}", number, f"{seed}".encode()) for n in range(300)]
                    order.shuffle(tasks)
                    writer.write(tasks)
                return writer.total

        with ThreadPoolExecutor(4) as pool:
            totals = list(pool.map(write, range(4)))
        assert sum(total.added for total in totals) == 300
        assert {total.added + total.replaced + total.unchanged + total.older for total in totals} == {6000}

    def test_owner_of_a_schema_may_import(self, rig: PostgresqlRig) -> None:
        """Without rights on the database: the schema's owner makes the table."""
        with rig.role("owner") as url:
            rig.execute("CREATE SCHEMA tasks AUTHORIZATION owner")
            with open_writer(f"{url}?schema=tasks") as writer:
                assert writer.write([stored()]) == WriteCounts(added=1)

    def test_three_grants_are_enough_once_the_table_is_there(self, rig: PostgresqlRig) -> None:
        """The README's grants for an import; without them the reason is named."""
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
    """``target_session_attrs`` with several hosts, and a host that is gone does not matter where another will do."""
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


async def test_tls_is_what_the_url_asks_for(tmp_path: Path) -> None:
    """``sslmode`` as libpq means it: encrypted, and the certificate checked where that is asked for."""
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
            assert "its TLS certificate is not to be trusted" in await refusal(store)
            await store.close()


class TestPgbouncer:
    """Behind a pooler that gives each transaction another connection."""

    @pytest.mark.parametrize("ignoring", [False, True], ids=["strict", "ignoring"])
    async def test_reads_go_on_over_many_connections(self, rig: PostgresqlRig, ignoring: bool) -> None:
        """Prepared statements are given up where they cannot be had; no answer is ever another's."""
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
        """Each batch is one transaction, so a pooler does not mind."""
        with running_pgbouncer(rig.server) as port:
            url = rig.server.url(rig.database.replace(" ", "%20"), hosts=f"127.0.0.1:{port}")
            with open_writer(url) as writer:
                for _ in range(2):
                    writer.write([stored(f"{n}") for n in range(5000)])
                assert writer.total == WriteCounts(added=5000, unchanged=5000)

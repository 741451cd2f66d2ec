"""Run the suite against MySQL and MariaDB, and test their special features."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from conformance.dictionary import check_like_a_dictionary
from conformance.sql_server import SqlServerRig, SqlServerStoreSuite, SqlServerWriterSuite, check_reason, refusal
from conformance.suite import ID, OTHER_ID, assert_public, stored
from support.cut_wire import MYSQL_COMMIT, overheard, silent_at
from support.documented import statements
from support.mysql import KINDS, PASSWORD, USER, Mariadb, Mysql, MysqlServer, running_mysql
from taskgate.base.errors import StoreUnavailable
from taskgate.stores import open_store, open_writer
from taskgate.stores.base import TaskStore, WriteCounts
from taskgate.stores.mysql.store import MysqlStore, statement_for
from taskgate.stores.mysql.url import parse_mysql_url

pytestmark = pytest.mark.needs("mariadbd")

_numbers = itertools.count()

_KINDS = {int: "int", float: "double"}

_SESSION = {
    Mariadb: {"tx_read_only": b"ON", "max_statement_time": b"1.500000"},
    Mysql: {"transaction_read_only": b"ON", "max_execution_time": b"1500"},
}
"""Settings of a session that reads, by their names on each server."""

_WITHOUT_TLS = {Mariadb: "does not take this user and password", Mysql: "takes only connections with TLS"}
"""The server's message for a user who may not connect without TLS."""


class MysqlRig(SqlServerRig):
    """A private database on a server that all tests of this module share."""

    server: MysqlServer
    user = USER
    commit = MYSQL_COMMIT
    batch_statements = (b"GET_LOCK", b"SHA2")
    lock_timeout = "taskgate.stores.mysql.writer.LOCK_TIMEOUT"

    def __init__(self, folder: Path, server: MysqlServer) -> None:
        super().__init__(folder, server)
        self.database = f"conductor {next(_numbers)}"
        self.name = f"mysql://127.0.0.1:{server.port}/{self.database}"
        # As a DBA makes it for Conductor: this collation ignores case, accents and trailing spaces.
        server.execute(f"CREATE DATABASE `{self.database}` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")

    def url_by(self, port: int) -> str:
        return self.server.url(self.database, host=f"127.0.0.1:{port}")

    def bare_store(self) -> TaskStore:
        return MysqlStore(parse_mysql_url(self.url.removeprefix("mysql://")))

    def put(self, task_id: str, value: object) -> None:
        if isinstance(value, int | float):  # a column has one type
            self.execute(f"ALTER TABLE task MODIFY json_data {_KINDS[type(value)]}")
        self.execute("REPLACE INTO task (task_id, json_data) VALUES (%s, %s)", task_id, value)

    def stored(self) -> dict[str, bytes]:
        rows = self.execute("SELECT CAST(task_id AS BINARY) AS id, CAST(json_data AS BINARY) AS document FROM task")
        return {row["id"].decode(): row["document"] for row in rows}

    def locked(self) -> AbstractContextManager[None]:
        return self.server.session("LOCK TABLES task WRITE", self.database)

    @contextmanager
    def damaged(self) -> Iterator[None]:
        self.execute("ALTER TABLE task RENAME COLUMN json_data TO something_else")
        yield
        self.execute("ALTER TABLE task RENAME COLUMN something_else TO json_data")

    def foreign(self, *, collation: str = "utf8mb4_unicode_ci") -> None:
        """As Conductor's migrations leave it (``V8__update_pk.sql`` last), but nullable, to try odd values."""
        if collation == "newest":
            collation = self.server.newest_collation
        self.execute(f"ALTER DATABASE COLLATE {collation}")
        self.execute(
            "CREATE TABLE task (created_on timestamp DEFAULT CURRENT_TIMESTAMP, modified_on timestamp"
            " DEFAULT CURRENT_TIMESTAMP, task_id varchar(255) NOT NULL PRIMARY KEY, json_data mediumtext)"
        )

    def execute(self, statement: str, *parameters: object) -> Sequence[Mapping[str, Any]]:
        return self.server.execute(statement, *parameters, database=self.database)

    def connections(self) -> int:
        # Without the session that asks.
        rows = self.server.execute("SELECT id FROM information_schema.processlist WHERE db = %s", self.database)
        return len(rows)

    def count_reads(self) -> Callable[[], int]:
        def executed() -> int:
            (row,) = self.execute("SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'")
            return int(row["Value"])

        before = executed()
        return lambda: executed() - before

    @contextmanager
    def new_user(self, name: str, demand: str = "") -> Iterator[str]:
        """The URL for a new user without privileges."""
        self.server.execute(f"CREATE USER {name}@'%%' IDENTIFIED BY %s {demand}", PASSWORD)
        try:
            yield self.server.url(self.database, user=name)
        finally:
            self.server.execute(f"DROP USER {name}@'%'")


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def server(request: pytest.FixtureRequest) -> Iterator[MysqlServer]:
    with running_mysql(request.param) as running:
        yield running


@pytest.fixture
def rig(tmp_path: Path, server: MysqlServer) -> MysqlRig:
    return MysqlRig(tmp_path, server)


SALT = b"12345678123456789012"
"""The salt of passwords, from the stranger's greeting."""


@asynccontextmanager
async def stranger(plugin: str, answers: Sequence[bytes]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Impersonate a server; yields the port, and the client's packets, one for each of the server's."""
    heard: list[bytes] = []
    greeting = b"\x0a8.0.0\0" + b"\1\0\0\0" + SALT[:8] + b"\0\xff\xf7\x2d\2\0\xff\x81\x15" + b"\0" * 10
    greeting += SALT[8:] + b"\0" + plugin.encode() + b"\0"

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.clear()  # packets of an earlier attempt
        for number, packet in enumerate((greeting, *answers)):
            writer.write(len(packet).to_bytes(3, "little") + bytes([2 * number]) + packet)
            with suppress(asyncio.IncompleteReadError):  # the client has closed the connection
                length = int.from_bytes((await reader.readexactly(4))[:3], "little")
                heard.append(await reader.readexactly(length))
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class TestMysqlStore(SqlServerStoreSuite):
    """Every "must" of TaskStore, and more."""

    @pytest.mark.parametrize(
        "collation",
        ["utf8mb4_unicode_ci", "newest", "utf8mb4_bin", "utf8mb3_general_ci", "latin1_swedish_ci", "ucs2_general_ci"],
    )
    async def test_conductors_collation_does_not_matter(self, rig: MysqlRig, collation: str) -> None:
        """IDs that the database considers equal, or cannot hold, are others; text comes as UTF-8."""
        rig.foreign(collation=collation)
        documents = {"abc": '{"s":"é"}', "\u00e9t\u00e9": "{}", "?": "?", "a\\'b": "{}"}
        for task_id, document in documents.items():
            rig.put(task_id, document)
        store = rig.open_store()
        for task_id, document in documents.items():
            assert await store.get_document(task_id) == document.encode()
        for task_id in ("ABC", "abc ", "\u00e0bc", "ete", "e\u0301te\u0301", "\u4e00", "😀", "abc\0", "a'b"):
            assert await store.get_document(task_id) is None, ascii(task_id)
        await store.close()

    @pytest.mark.parametrize("collation", ["utf8mb4_unicode_ci", "newest", "latin1_swedish_ci", None])
    @pytest.mark.parametrize("task_id", [ID, "\u4e00"], ids=ascii)
    def test_primary_key_is_used(self, rig: MysqlRig, collation: str | None, task_id: str) -> None:
        """One row is examined, whatever the column's character set is and can hold."""
        if collation == "newest":
            collation = rig.server.newest_collation
        if collation is None:
            rig.create()
        else:
            rig.foreign(collation=collation)
        rig.execute(
            "INSERT INTO task (task_id, json_data) WITH RECURSIVE numbers AS"
            " (SELECT 1 AS n UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000) SELECT n, '{}' FROM numbers"
        )
        statement = statement_for(collation and collation.partition("_")[0], collation).replace("?", "%s")
        explain = f"EXPLAIN FORMAT=TRADITIONAL {statement}"
        (plan,) = rig.execute(explain, task_id)
        if plan["table"] is not None:  # else no row was found on the way: "Impossible WHERE noticed after reading"
            assert (plan["type"], plan["key"], int(plan["rows"])) == ("const", "PRIMARY", 1)
        rig.put("here", "{}")
        (plan,) = rig.execute(explain, "here")
        assert (plan["type"], plan["key"]) == ("const", "PRIMARY")

    async def test_documents_of_bytes_are_returned_as_stored(self, rig: MysqlRig) -> None:
        """A column of any bytes is returned without conversion."""
        rig.execute("CREATE TABLE task (task_id varchar(255) PRIMARY KEY, json_data mediumblob)")
        rig.execute("INSERT INTO task VALUES (%s, 0xff00fe)", ID)
        store = rig.open_store()
        assert await store.get_document(ID) == b"\xff\0\xfe"
        await store.close()

    async def test_table_made_anew_with_another_collation(self, rig: MysqlRig) -> None:
        """Connections that were made for the old table are replaced unnoticed."""
        rig.foreign(collation="latin1_swedish_ci")
        rig.put(ID, "1")
        store = rig.open_store()
        assert await store.get_document(ID) == b"1"
        rig.execute("ALTER TABLE task CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        assert await store.get_document(ID) == b"1"
        rig.put("😀", "2")
        assert await store.get_document("😀") == b"2"
        await store.close()

    @pytest.mark.parametrize("collation", ["utf8mb4_unicode_ci", "latin1_swedish_ci", "ucs2_general_ci", None])
    async def test_server_that_prepares_no_more_statements(self, rig: MysqlRig, collation: str | None) -> None:
        """Other programs have used up ``max_prepared_stmt_count``: the statement is sent as text."""
        if collation is None:
            rig.create()
        else:
            rig.foreign(collation=collation)
        documents = {"abc": '{"s":"é"}', "\u00e9t\u00e9": "{}", "?": "?", "a\\'b": "%s"}
        for task_id, document in documents.items():
            rig.put(task_id, document)
        with rig.server.setting("max_prepared_stmt_count", 0):
            store = rig.open_store()
            for task_id, document in documents.items():
                assert await store.get_document(task_id) == document.encode()
            for task_id in ("", "ABC", "abc ", "\u4e00", "😀", "abc\0", "a'b", "x" * 255):
                assert await store.get_document(task_id) is None, ascii(task_id)
            await store.close()

    async def test_connection_that_the_server_found_idle(self, rig: MysqlRig) -> None:
        """A server ends idle connections; the next read is answered all the same."""
        rig.create()
        rig.put(ID, "{}")
        with rig.server.setting("wait_timeout", 1):
            store = rig.open_store()
            assert await store.get_document(ID) == b"{}"
            await rig.all_gone()
            assert await store.get_document(ID) == b"{}"
        await store.close()

    async def test_select_on_one_table_is_enough(self, rig: MysqlRig) -> None:
        """The grant in docs/stores/mysql.md is all that a reader needs, and without it the reason is named."""
        rig.foreign()
        rig.put(ID, "{}")
        create, grant = (text.replace("10.0.0.%", "%") for text in statements("mysql"))
        assert create == "CREATE USER taskgate@'%' IDENTIFIED BY 'secret'"
        grant = grant.replace("conductor.", f"`{rig.database}`.")
        with rig.new_user("taskgate") as url:
            store = open_store(url)
            assert "may not use this database" in await refusal(store)
            rig.execute("CREATE TABLE other (id int)")
            rig.execute(grant.replace(".task ", ".other "))
            assert "grants" in await refusal(store)
            rig.execute(grant)
            await store.check()
            assert await store.get_document(ID) == b"{}"
            await store.close()

    async def test_sessions_are_read_only_and_limit_statements(self, rig: MysqlRig) -> None:
        """A view in the table's place shows the settings of the session."""
        rig.execute(
            "CREATE VIEW task AS SELECT LOWER(variable_name) AS task_id, variable_value AS json_data"  # noqa: S608 - our own
            f" FROM {rig.server.variables}"
        )
        store = rig.open_store()
        for variable, value in _SESSION[type(rig.server)].items():
            assert await store.get_document(variable) == value
        assert await store.get_document("autocommit") == b"ON"
        assert await store.get_document("character_set_results") == b"utf8mb4"
        await store.close()

    @pytest.mark.parametrize(
        ("parameters", "reason"),
        [
            # MariaDB has no TLS without a certificate; MySQL makes one itself, which no client trusts.
            ("ssl=true", "TLS"),
            ("unix_socket=/nowhere/socket", "nothing listens there"),
        ],
    )
    async def test_reason_of_its_own_is_named(self, rig: MysqlRig, parameters: str, reason: str) -> None:
        """Likewise for causes that only URLs of this kind have."""
        await check_reason(rig, f"{rig.url}?{parameters}", reason)

    @pytest.mark.parametrize(
        ("demand", "reason"),
        [("PASSWORD EXPIRE", "the user's password has expired"), ("ACCOUNT LOCK", "does not let this user in")],
    )
    async def test_user_who_may_not_come_in(self, rig: MysqlRig, demand: str, reason: str) -> None:
        """A DBA's restrictions of a user are named as well."""
        with rig.new_user("outsider", demand) as url:
            rig.server.execute("GRANT SELECT ON *.* TO outsider@'%'")
            await check_reason(rig, url, reason)

    async def test_no_connection_left(self, rig: MysqlRig) -> None:
        """A server that accepts no more connections is named as the cause, and asked again."""
        rig.create()
        with rig.new_user("crowd", "WITH MAX_USER_CONNECTIONS 1") as url:
            rig.server.execute("GRANT SELECT ON *.* TO crowd@'%'")
            first, second = open_store(url), open_store(url)
            await first.check()
            assert await asyncio.gather(*(first.get_document(f"{n}") for n in range(50))) == [None] * 50
            assert "the user has no connection left" in await refusal(second)
            await first.close()
            await rig.all_gone()
            await second.check()
            await second.close()

    @pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x01\x00\x00\x00\xff", b"\0" * 100, b""])
    async def test_what_is_no_mysql_is_named(self, rig: MysqlRig, said: bytes) -> None:
        """Any other program on the port, however little sense its answers make."""

        async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            await writer.drain()
            writer.close()

        stranger = await asyncio.start_server(speak, "127.0.0.1", 0)
        port = stranger.sockets[0].getsockname()[1]
        store = open_store(rig.server.url("d", host=f"127.0.0.1:{port}"))
        message = await refusal(store)
        assert "does not speak MySQL's protocol" in message or "connection was lost" in message
        await store.close()
        stranger.close()

    async def test_password_is_never_sent_as_it_is(self, rig: MysqlRig) -> None:
        """A stranger in the server's place asks for it in clear text, without TLS, and gets nothing."""
        async with stranger("mysql_native_password", [b"\xfemysql_clear_password\0"]) as (port, heard):
            store = open_store(rig.server.url("d", host=f"127.0.0.1:{port}"))
            assert "only has with TLS" in await refusal(store)
            await store.close()
        assert USER.encode() in b"".join(heard)
        assert PASSWORD.encode() not in b"".join(heard)

    async def test_password_is_in_no_packet(self, rig: MysqlRig) -> None:
        """Whether the server has this user in its cache, or has just lost the cache."""
        rig.create()
        for _ in range(2):
            rig.server.execute("FLUSH PRIVILEGES")
            for _ in range(2):
                with overheard(rig.server.port) as (port, packets):
                    store = open_store(rig.server.url(rig.database, host=f"127.0.0.1:{port}"))
                    assert await store.get_document(ID) is None
                    await store.close()
                assert USER.encode() in packets
                assert PASSWORD.encode() not in packets

    @pytest.mark.parametrize("pinned", [True, False])
    @pytest.mark.parametrize("plugin", ["caching_sha2_password", "sha256_password"])
    async def test_password_is_for_the_key_that_is_trusted(self, rig: MysqlRig, plugin: str, pinned: bool) -> None:
        """A stranger shows its own key: it is accepted where the URL names none, as docs/stores/mysql.md warns."""
        key, servers_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        pem = rig.folder / "public_key.pem"
        pem.write_bytes(public_pem(servers_key))
        answers = [b"\1" + public_pem(key)]
        if plugin == "caching_sha2_password":  # a client asks for the key only if it has none
            answers = [b"\1\4", *answers[pinned:]]
        async with stranger(plugin, answers) as (port, heard):
            parameters = {"server_public_key_path": str(pem)} if pinned else {}
            store = open_store(rig.server.url("d", host=f"127.0.0.1:{port}", **parameters))
            assert "connection was lost" in await refusal(store)
            await store.close()
        assert PASSWORD.encode() not in b"".join(heard)
        secret = heard[-1]
        padding = OAEP(MGF1(SHA1()), SHA1(), None)  # noqa: S303 - the protocol's
        if pinned:
            with pytest.raises(ValueError, match="Decryption failed"):
                key.decrypt(secret, padding)
        plain = (servers_key if pinned else key).decrypt(secret, padding)
        assert bytes(a ^ b for a, b in zip(plain, itertools.cycle(SALT))) == PASSWORD.encode() + b"\0"


class TestMysqlWriter(SqlServerWriterSuite):
    """Every "must" of TaskWriter, and more."""

    async def test_max_allowed_packet_is_named(self, rig: MysqlRig) -> None:
        """A server that accepts no larger documents says so; nothing of the batch is stored, and the next one is."""
        large = b"x" * 3_000_000
        with rig.server.setting("max_allowed_packet", 1 << 20), rig.open_writer() as writer:
            with pytest.raises(StoreUnavailable, match="larger than its max_allowed_packet") as refused:
                writer.write([stored(OTHER_ID), stored(document=large)])
            assert_public(refused.value, rig)
            assert writer.write([stored(OTHER_ID)]) == WriteCounts(added=1) == writer.total
        assert set(rig.stored()) == {OTHER_ID}
        rig.put(ID, large.decode())
        with rig.server.setting("max_allowed_packet", 1 << 20):
            store = rig.open_store()
            assert await store.get_document(ID) == large
            await store.close()

    def test_grants_of_the_readme_are_enough(self, rig: MysqlRig) -> None:
        """All that an import needs; without these grants the reason is named."""
        with rig.new_user("importer") as url:
            with pytest.raises(StoreUnavailable, match="may not use this database"):
                open_writer(url)
            rig.execute(f"GRANT CREATE, SELECT, INSERT, UPDATE ON `{rig.database}`.* TO importer@'%'")
            with open_writer(url) as writer:
                writer.write([stored()])
                assert writer.write([stored(update_time=2)]) == WriteCounts(replaced=1)
            assert [*rig.execute("SHOW TABLES")[0].values()] == ["task"]

    def test_id_that_is_too_long_is_refused_whole(self, rig: MysqlRig) -> None:
        """An ID is never truncated."""
        with rig.open_writer() as writer, pytest.raises(StoreUnavailable, match="number 1406"):
            writer.write([stored("x" * 1021)])
        assert rig.stored() == {}

    def test_table_of_an_earlier_version_is_left_alone(self, rig: MysqlRig) -> None:
        """Version 0.1.0 kept the numbers of batches in a second table."""
        rig.create()
        rig.execute("CREATE TABLE taskgate_import (writer varbinary(36) PRIMARY KEY, batch bigint NOT NULL)")
        rig.execute("INSERT INTO taskgate_import VALUES ('', 0)")
        with rig.open_writer() as writer:
            assert writer.write([stored()]) == WriteCounts(added=1)
        assert len(rig.execute("SELECT * FROM taskgate_import")) == 1

    def test_imports_into_one_database_wait_for_each_other(
        self, rig: MysqlRig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A hanging import delays the others for a while, and is then named; imports into other databases continue."""
        monkeypatch.setattr(rig.lock_timeout, 1)
        rig.create()
        other = MysqlRig(rig.folder, rig.server)
        with (
            silent_at(rig.server.port, MYSQL_COMMIT, after=b"INSERT INTO") as (port, silent),
            ThreadPoolExecutor(1) as pool,
            open_writer(rig.url_by(port)) as hanging,
            rig.open_writer() as writer,
            other.open_writer() as other_writer,
        ):
            monkeypatch.setattr(rig.lock_timeout, 5)
            hung = pool.submit(hanging.write, [stored()])
            assert silent.wait(30)
            monkeypatch.setattr(rig.lock_timeout, 1)
            with pytest.raises(StoreUnavailable, match="it is locked by another program"):
                writer.write([stored(OTHER_ID)])
            assert other_writer.write([stored(OTHER_ID)]) == WriteCounts(added=1)
            with pytest.raises(StoreUnavailable, match="may or may not be stored"):
                hung.result(60)
        assert rig.stored() == {}

    def test_server_has_nothing_to_warn_of(self, rig: MysqlRig, caplog: pytest.LogCaptureFixture) -> None:
        """No statement of an import causes a warning of the server; the driver would log each."""
        for update_time in (1, 2):
            with rig.open_writer() as writer:
                writer.write([stored(f"{n}", update_time) for n in range(3)])
        assert not [record for record in caplog.records if record.name.startswith("asyncmy")]

    def test_newer_layout_is_left_alone(self, rig: MysqlRig) -> None:
        """A layout that a later taskgate made."""
        rig.create()
        rig.execute("ALTER TABLE task COMMENT 'taskgate layout 2'")
        with pytest.raises(StoreUnavailable, match="it has layout 2, and this taskgate writes layout 1"):
            rig.open_writer()


def test_store_behaves_like_a_dictionary(tmp_path: Path, server: MysqlServer) -> None:
    """Any sequence of writes and reads gives what a dictionary would."""
    check_like_a_dictionary(lambda: MysqlRig(tmp_path, server).url)


async def test_tls_is_what_the_url_asks_for(rig: MysqlRig) -> None:
    """The certificate and the name in it are verified, and the server's demand for TLS is reported."""
    server = rig.server
    root = server.certify()  # no other test depends on it
    rig.create()
    local = f"localhost:{server.port}"
    with rig.new_user("careful", "REQUIRE SSL") as url:
        server.execute("GRANT SELECT ON *.* TO careful@'%'")
        await check_reason(rig, url, "does not take this user and password")
        secure = server.url(rig.database, user="careful", host=local, scheme="mariadb", ssl_ca=str(root))
        store = open_store(secure)
        assert await store.get_document(ID) is None
        await store.close()
    with server.setting("require_secure_transport", 1):
        await check_reason(rig, rig.url, _WITHOUT_TLS[type(server)])
    other = rig.folder / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    for host, parameters in (
        (local, {"ssl_ca": str(other)}),
        (local, {"ssl": "true"}),
        (f"127.0.0.1:{server.port}", {"ssl_ca": str(root)}),
    ):
        await check_reason(rig, server.url(rig.database, host=host, **parameters), "its TLS certificate is not trusted")

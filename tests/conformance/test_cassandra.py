"""Run the suite against a Cassandra node, and test its special features."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
import trustme

from conformance.rig import Rig
from conformance.suite import ID, OTHER_ID, NetworkStoreSuite, assert_public
from support import public_words
from support.cassandra import USER, CassandraNode, ConductorsKeyspace
from support.database_server import free_port
from support.lateness import within
from taskgate.base.errors import DocumentUnreadable, SettingsError, StoreUnavailable
from taskgate.base.layout import Layout
from taskgate.stores import open_store, open_writer
from taskgate.stores.base import StoredTask, TaskStore
from taskgate.stores.cassandra.store import parse_uuid

pytestmark = pytest.mark.needs("cassandra")

_COLUMN_TYPES = {int: "int", float: "double"}


class CassandraRig(Rig):
    """A keyspace of the node that all tests share."""

    similar_ids = (ID, "65FC73FE-0586-11F1-8B8D-6219B54DA7FF")
    similar_ids_of_no_task = (ID.upper(), OTHER_ID, f"{ID} ", f" {ID}", ID.replace("-", ""), f"{{{ID}}}")

    def __init__(self, folder: Path, keyspace: ConductorsKeyspace) -> None:
        super().__init__(folder)
        self.keyspace = keyspace
        self.node = keyspace.node
        self.name = f"cassandra://{self.node}/{keyspace.name}"

    def task_id(self, number: int) -> str:
        return str(uuid.UUID(int=number))

    @property
    def url(self) -> str:
        return self.node.url(self.keyspace.name)

    def put(self, task_id: str, value: object) -> None:
        column = _COLUMN_TYPES.get(type(value))
        if column is not None:
            self.keyspace.replace_workflows(column)
        self.keyspace.put(task_id, value)

    def stored(self) -> dict[str, bytes]:
        return {task_id: payload.encode() for task_id, payload in self.keyspace.rows()}

    away = property(lambda self: self.node.stopped)
    locked = property(lambda self: self.node.frozen)  # it has no locks: a hanging node comes closest
    damaged = property(lambda self: self.keyspace.without_workflows)

    def foreign(self) -> None:
        """Do nothing: it is always Conductor's own."""

    def create(self) -> None:
        """Do nothing: it exists already."""

    def open_store(self) -> TaskStore:
        return open_store(self.url, Layout.CONDUCTOR)

    def open_writer(self) -> Any:
        return Conductor(self.keyspace)


class Conductor:
    """Writes as Conductor does, since taskgate has no writer for Cassandra."""

    def __init__(self, keyspace: ConductorsKeyspace) -> None:
        self._keyspace = keyspace

    def write(self, tasks: Sequence[StoredTask]) -> None:
        for task in tasks:
            self._keyspace.put(task.task_id, task.document.decode())

    def close(self) -> None:
        """Do nothing: no resource stays open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture(scope="module")
def keyspace(cassandra_node: CassandraNode) -> Iterator[ConductorsKeyspace]:
    keyspace = ConductorsKeyspace(cassandra_node, "suite")
    yield keyspace
    keyspace.drop()


@pytest.fixture
def rig(tmp_path: Path, keyspace: ConductorsKeyspace) -> CassandraRig:
    """The keyspace, emptied: making one takes ten times as long."""
    keyspace.clear()
    return CassandraRig(tmp_path, keyspace)


async def refusal(store: TaskStore) -> str:
    """The error that refuses a read."""
    async with within(3):
        with pytest.raises(StoreUnavailable) as refused:
            await store.get_document(ID)
    public_words.assert_public(refused.value.message)
    return refused.value.private


class TestCassandraStore(NetworkStoreSuite):
    """Every "must" of TaskStore, and more."""

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda url: url.replace("correct", "wrong"), "user and password"),
            (lambda url: url.replace("taskgate", "nobody"), "user and password"),
            (lambda url: f"{url}_of_nobody", "no tables"),
            (lambda url: f"{url}?local_dc=elsewhere", "data centre"),
            (lambda url: f"{url}?consistency=TWO", "too few"),
            (lambda url: f"{url}?tls=verify-full", "certificate is not trusted"),
            (lambda url: url.replace(url.split("@")[1].split("/")[0], f"127.0.0.1:{free_port()}"), "nothing listens"),
            (lambda url: url.replace("127.0.0.1", "no-such-host.invalid"), "its host is not known"),
        ],
        ids=["password", "user", "keyspace", "data centre", "consistency", "tls", "port", "host"],
    )
    async def test_reason_is_named(self, rig: CassandraRig, spoil: Callable[[str], str], reason: str) -> None:
        """Each kind of refusal has its own words, which name the store and nothing secret."""
        store = open_store(spoil(rig.url), Layout.CONDUCTOR)
        message = await refusal(store)
        assert reason in message
        assert "cassandra://" in message
        assert not [word for word in ("correct", "wrong", "nobody:", "taskgate:") if word in message]
        await store.close()

    async def test_tls_is_what_the_url_asks_for(
        self, rig: CassandraRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The node's certificate is checked; ``verify-ca`` does not check the name in it.

        An authority in ``ca_file``, which may hold several, replaces those that the system trusts.
        """
        rig.put(ID, "{}")
        node = rig.node
        trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
        (tmp_path / "both.pem").write_bytes((tmp_path / "other.pem").read_bytes() + node.authority.read_bytes())
        monkeypatch.setenv("SSL_CERT_FILE", str(node.authority))
        for mode, host, ca_file, answered in (
            ("verify-full", "localhost", node.authority, False),  # the driver checks the address, not the name
            ("verify-ca", "127.0.0.1", node.authority, True),
            ("verify-full", "127.0.0.1", node.authority, False),
            ("verify-ca", "127.0.0.1", tmp_path / "both.pem", True),
            ("verify-ca", "127.0.0.1", tmp_path / "other.pem", False),
            ("verify-ca", "127.0.0.1", "", True),
        ):
            hosts = f"{host}:{node.port}"
            url = node.url(rig.keyspace.name, hosts, tls=mode, **({"ca_file": str(ca_file)} if ca_file else {}))
            store = open_store(url, Layout.CONDUCTOR)
            if answered:
                assert await store.get_document(ID) == b"{}"
            else:
                assert "certificate is not trusted" in await refusal(store)
            await store.close()

    async def test_grants_are_all_that_is_needed(self, rig: CassandraRig) -> None:
        """The user of all these tests may read two tables; without one of them, reads and checks are refused."""
        rig.put(ID, "{}")
        store = rig.open_store()
        for table in ("workflows", "task_lookup"):
            assert await store.get_document(ID) == b"{}"
            rig.node.execute(f"REVOKE SELECT ON {rig.keyspace.name}.{table} FROM {USER}")  # noqa: S608 - our own
            assert "look at the grants" in await refusal(store)
            with pytest.raises(StoreUnavailable, match="look at the grants") as refused:
                await store.check()
            assert_public(refused.value, rig)
            rig.node.execute(f"GRANT SELECT ON {rig.keyspace.name}.{table} TO {USER}")
            await store.check()
        await store.close()

    async def test_a_host_that_is_gone_does_not_matter(self, rig: CassandraRig) -> None:
        """Any node of the URL that answers is enough."""
        rig.put(ID, "{}")
        url = rig.node.url(rig.keyspace.name, f"127.0.0.1:{free_port()},{rig.node}")
        store = open_store(url, Layout.CONDUCTOR)
        assert await store.get_document(ID) == b"{}"
        await store.close()

    async def test_lookup_row_without_its_task_is_not_found(self, rig: CassandraRig) -> None:
        """Conductor writes two rows: before the second it has no task; a lookup without a workflow is no task."""
        rig.put(ID, "{}")
        rig.node.execute(f"TRUNCATE {rig.keyspace.name}.workflows")
        store = rig.open_store()
        assert await store.get_document(ID) is None
        rig.node.execute(f"INSERT INTO {rig.keyspace.name}.task_lookup (task_id) VALUES ({OTHER_ID})")  # noqa: S608 - our own
        with pytest.raises(DocumentUnreadable):
            await store.get_document(OTHER_ID)
        await store.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("65fc73fe-0586-11f1-8b8d-6219b54da7fe", "65fc73fe-0586-11f1-8b8d-6219b54da7fe"),
        ("65FC73FE-0586-11F1-8B8D-6219B54DA7FE", "65fc73fe-0586-11f1-8b8d-6219b54da7fe"),
        ("1-2-3-4-5", "00000001-0002-0003-0004-000000000005"),
        ("f1234567812345-2-3-4-5", "67812345-0002-0003-0004-000000000005"),
        ("1-2-3-4-fedcba9876543210", None),
        ("1-2-3-4", None),
        ("1-2-3-4-5-6", None),
        ("-2-3-4-5", None),
        ("1-2-3-4-g", None),
        ("1-2-3-4-00000000000000000000000000000", None),
        ("", None),
        ("65fc73fe058611f18b8d6219b54da7fe", None),
    ],
    ids=ascii,
)
def test_task_ids_are_parsed_as_java_parses_uuids(text: str, expected: str | None) -> None:
    """As ``java.util.UUID.fromString`` of OpenJDK 21 does it."""
    assert parse_uuid(text) == (uuid.UUID(expected) if expected else None)


def test_cassandra_has_no_writer() -> None:
    """An import, and the layout that imports make, are refused in one sentence, before any connection."""
    with pytest.raises(SettingsError, match="import into another store"):
        open_writer("cassandra://localhost/conductor")
    with pytest.raises(SettingsError, match="set layout to conductor"):
        open_store("cassandra://localhost/conductor")

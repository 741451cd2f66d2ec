"""Every "must" of KeyringStore, for each kind of store; and what a file of private keys must withstand."""

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.access import change, create_keys
from support.lateness import within
from support.postgresql import PASSWORD, PostgresqlServer, running_postgresql
from support.public_words import assert_public
from support.redis_servers import PRIMARY_NAME, Cluster, RedisServer, Watched
from support.running import taskgate
from taskgate.access.keyring import ApplicationKey, Change, with_key
from taskgate.access.keyrings import KeyringStore, StoredKeyring, open_keyring
from taskgate.access.live_keyring import change_keyring
from taskgate.access.roles import Role
from taskgate.base.errors import SettingsError, StoreUnavailable

NOTHING = StoredKeyring(0, b"")


class Rig(ABC):
    """A store, and the ways to disturb it. ``url`` names a keyring that nothing has been written to."""

    url: str

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is anything of a keyring."""

    @abstractmethod
    def away(self) -> AbstractContextManager[None]:
        """The store is not there while the block runs; what it held is there afterwards."""

    @abstractmethod
    def hung(self) -> AbstractContextManager[None]:
        """The store does not answer while the block runs."""


class SqliteRig(Rig):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.db"
        self.url = f"sqlite:///{self.path}"

    def exists(self) -> bool:
        return self.path.exists()

    @contextmanager
    def away(self) -> Iterator[None]:
        kept = self.path.rename(self.path.with_suffix(".kept"))
        self.path.mkdir()
        yield
        self.path.rmdir()
        kept.rename(self.path)

    @contextmanager
    def hung(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield


class PostgresqlRig(Rig):
    def __init__(self, server: PostgresqlServer) -> None:
        self.server = server
        server.execute("DROP DATABASE IF EXISTS keys")
        server.execute("CREATE DATABASE keys")
        self.url = server.url("keys")

    def exists(self) -> bool:
        tables = "SELECT tablename FROM pg_tables WHERE tablename LIKE '%keyring%'"
        return bool(self.server.execute(tables, database="keys"))

    def away(self) -> AbstractContextManager[None]:
        return self.server.stopped()

    def hung(self) -> AbstractContextManager[None]:
        return self.server.frozen()


class RedisRig(Rig):
    def __init__(self, server: RedisServer) -> None:
        self.server = server
        with server.client() as client:
            client.flushall()
        self.url = f"redis://:correct%20horse@{server}/2"

    def client(self) -> AbstractContextManager[Any]:
        return self.server.client(db=2)

    def exists(self) -> bool:
        with self.client() as client:
            return bool(client.dbsize())

    def away(self) -> AbstractContextManager[None]:
        return self.server.stopped()

    def hung(self) -> AbstractContextManager[None]:
        return self.server.frozen()


class SentinelRig(Rig):
    """A primary, whose Sentinels wait too long to replace it during an outage."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        with watched.primary.client() as client:
            client.flushall()
        sentinels = ",".join(map(str, watched.sentinels))
        self.url = f"redis+sentinel://:correct%20horse@{sentinels}/{PRIMARY_NAME}/0"

    def exists(self) -> bool:
        with self.watched.primary.client() as client:
            return bool(client.dbsize())

    def away(self) -> AbstractContextManager[None]:
        return self.watched.primary.stopped()

    def hung(self) -> AbstractContextManager[None]:
        return self.watched.primary.frozen()


class ClusterRig(Rig):
    """A cluster, of which all nodes are disturbed."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        with cluster.client() as client:
            client.flushall()
        self.url = f"redis+cluster://:correct%20horse@{','.join(map(str, cluster.nodes))}"

    def client(self) -> AbstractContextManager[Any]:
        return self.cluster.client()

    def exists(self) -> bool:
        with self.client() as client:
            return bool(list(client.scan_iter()))  # asks every node

    def away(self) -> AbstractContextManager[None]:
        return self._all(RedisServer.stopped)

    def hung(self) -> AbstractContextManager[None]:
        return self._all(RedisServer.frozen)

    @contextmanager
    def _all(self, trouble: Callable[[RedisServer], AbstractContextManager[None]]) -> Iterator[None]:
        with ExitStack() as stack:
            for node in self.cluster.nodes:
                stack.enter_context(trouble(node))
            yield
        self.cluster.wait_ok()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgresqlServer]:
    with running_postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis") / "server")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    watched = Watched(tmp_path_factory.mktemp("watched"), down_after=60_000)
    yield watched
    watched.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


RIGS: dict[str, Callable[..., Rig]] = {
    "postgresql": PostgresqlRig,
    "redis": RedisRig,
    "sentinel": SentinelRig,
    "cluster": ClusterRig,
}
OF_REDIS = [pytest.param(name, marks=pytest.mark.needs("redis-server")) for name in ("redis", "sentinel", "cluster")]


@pytest.fixture(params=["sqlite", "postgresql", *OF_REDIS])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    if request.param == "sqlite":
        return SqliteRig(tmp_path)
    return RIGS[request.param](request.getfixturevalue(request.param))


@pytest.fixture
async def store(rig: Rig) -> AsyncIterator[KeyringStore]:
    opened = open_keyring(rig.url)
    yield opened
    await opened.close()
    await opened.close()


def adding(name: str) -> Change:
    key = ApplicationKey(f"id of {name}", name, Role.READER, "hash", 1)
    return lambda keyring: with_key(keyring, key)


async def test_reading_nothing_creates_nothing(rig: Rig, store: KeyringStore) -> None:
    assert await store.read() == NOTHING
    assert await store.read(0) is None
    assert await store.read(5) == NOTHING
    assert not rig.exists()


async def test_a_document_is_replaced_only_at_its_revision(rig: Rig, store: KeyringStore) -> None:
    """Revisions count from 1. Documents are any bytes, up to those of a full keyring."""
    assert not await store.replace(b"early", revision=3)
    assert await store.replace(b"first", revision=0)
    assert await store.read() == StoredKeyring(1, b"first")
    for stale in (0, 2, 7):
        assert not await store.replace(b"stale", revision=stale)
    assert await store.read(1) is None
    large = os.urandom(3 << 20)
    assert await store.replace(large, revision=1)
    assert await store.read(1) == StoredKeyring(2, large)
    assert not await store.replace(b"stale", revision=1)
    assert await store.read(2) is None
    assert rig.exists()


async def test_ten_writers_lose_nothing(rig: Rig) -> None:
    """At the same time, on a keyring that is not there yet."""
    stores = [open_keyring(rig.url) for _ in range(10)]
    await asyncio.gather(*(change_keyring(store, adding(f"key {number}")) for number, store in enumerate(stores)))
    keyring = await change_keyring(stores[0], lambda keyring: keyring)
    assert {key.name for key in keyring.keys} == {f"key {number}" for number in range(10)}
    for store in stores:
        await store.close()


async def test_away_is_a_sentence_within_five_seconds(rig: Rig, store: KeyringStore) -> None:
    """Without a place or the driver's words for callers, without a password for the log; what was stored stays."""
    await change_keyring(store, adding("a"))
    for trouble in (rig.away, rig.hung):
        with trouble():
            for operation in (store.read, lambda: store.replace(b"new", revision=1)):
                async with within(5.5):
                    with pytest.raises(StoreUnavailable) as refused:
                        await operation()
                assert_public(refused.value.message)
                assert PASSWORD not in refused.value.private
                assert "horse" not in refused.value.private
                assert store.name in refused.value.private
        assert await store.read(7) is not None
        assert (await change_keyring(store, lambda keyring: keyring)).keys[0].name == "a"


@pytest.mark.parametrize("url", ["mysql://host/keys", "keys.db", "", "sqlite://keys.db", "redis://host:port"])
def test_other_urls_are_refused_by_name(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^auth_store"):
        open_keyring(url)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def file(tmp_path: Path) -> SqliteRig:
    return SqliteRig(tmp_path)


class TestSqliteFile:
    """The file of private keys."""

    async def test_only_its_owner_reads_it_and_its_journal(self, file: SqliteRig) -> None:
        """Whatever the umask, and also where the file was there before, empty and open to all."""
        for exists in (False, True):
            file.path.unlink(missing_ok=True)
            former = os.umask(0)
            try:
                if exists:
                    file.path.touch(0o666)
                await change_keyring(open_keyring(file.url), adding("a"))
                assert mode_of(file.path) == 0o600
                with closing(sqlite3.connect(file.path)) as connection:
                    connection.execute("BEGIN")
                    connection.execute("UPDATE taskgate_keyring SET document = zeroblob(100000)")
                    assert mode_of(file.path.with_name("keys.db-journal")) == 0o600
            finally:
                os.umask(former)

    async def test_the_owner_may_open_it_to_others(self, file: SqliteRig) -> None:
        """A later change keeps the mode, such as for a group that the servers run as."""
        await change_keyring(open_keyring(file.url), adding("a"))
        file.path.chmod(0o640)
        await change_keyring(open_keyring(file.url), adding("b"))
        assert mode_of(file.path) == 0o640

    async def test_a_database_of_tasks_is_never_written(self, file: SqliteRig) -> None:
        """Neither Conductor's nor ours, however its path is spelt."""
        with closing(sqlite3.connect(file.path)) as connection, connection:
            connection.execute("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data TEXT)")
        before = file.path.read_bytes()
        store = open_keyring(f"sqlite:///{file.path.parent}/../{file.path.parent.name}/keys.db")
        with pytest.raises(StoreUnavailable, match="name a file of its own"):
            await change_keyring(store, adding("a"))
        assert file.path.read_bytes() == before

    async def test_a_change_that_was_killed_is_undone_by_the_next_reader(self, file: SqliteRig) -> None:
        """The killed process leaves a journal that must be played back."""
        store = open_keyring(file.url)
        await change_keyring(store, adding("a"))
        before = await store.read()
        script = (
            "import os, sqlite3, sys\n"
            "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "connection.execute('PRAGMA cache_size = 1')\n"
            "connection.execute('BEGIN IMMEDIATE')\n"
            "connection.execute('UPDATE taskgate_keyring SET revision = 9, document = zeroblob(500000)')\n"
            "connection.execute('CREATE TABLE other (x)')\n"
            "os.kill(os.getpid(), 9)\n"
        )
        command = [sys.executable, "-c", script, str(file.path)]
        done = await asyncio.to_thread(subprocess.run, command, check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL
        journal = file.path.with_name("keys.db-journal")
        assert journal.stat().st_size > 0
        assert file.path.stat().st_size > 100_000
        assert await store.read() == before
        assert not journal.exists()

    def test_killed_commands_leave_every_key_whole(self, file: SqliteRig) -> None:
        """``keys create`` at random points of its work: what it has shown is stored, and nothing by half.

        Each is killed some time after its first key. The processes fork from one that has loaded the modules, and hash
        cheaply: most of their time is the change.
        """
        script = (
            "import os, random, signal, sys, time\n"
            "from argon2 import PasswordHasher\n"
            "from taskgate.access.roles import Role\n"
            "from taskgate.base.settings import Settings\n"
            "from taskgate.commands import keys\n"
            "cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)\n"
            "keys.hash_secret = cheap.hash\n"
            "settings = Settings(auth_store=sys.argv[1])\n"
            "def create(name):\n"
            "    keys.run_create(settings, name, role=Role.READER, workflow_types=(), as_json=True)\n"
            "create('0.first')\n"
            "began = time.monotonic()\n"
            "create('0.second')\n"
            "usual = time.monotonic() - began\n"
            "sys.stdout.flush()\n"
            "for number in range(20):\n"
            "    created, creating = os.pipe()\n"
            "    child = os.fork()\n"
            "    if child == 0:\n"
            "        for count in range(1000):\n"
            "            create(f'{number}.{count}')\n"
            "            os.write(creating, b'.')\n"
            "    os.read(created, 1)\n"
            "    time.sleep(random.uniform(0, 7) * usual)\n"
            "    os.kill(child, signal.SIGKILL)\n"
            "    os.waitpid(child, 0)\n"
        )
        shown = subprocess.run(
            [sys.executable, "-c", script, file.url], check=True, timeout=100, capture_output=True, text=True
        ).stdout
        keyring = change(file.url)
        stored = {key.key_id for key in keyring.keys}
        ids = [line.split('"')[3] for line in shown.splitlines() if line.endswith("}")]
        assert len(ids) >= 20
        assert set(ids) <= stored
        assert len(stored) <= len(ids) + 20
        for key in keyring.keys:
            assert key.name.partition(".")[1]
            assert key.secret_hash.startswith("$argon2id$")
        assert taskgate("keys", "create", "after", "--auth-store", file.url).returncode == 0

    def test_a_full_disk_is_a_sentence_and_loses_nothing(self, file: SqliteRig) -> None:
        """The limit of a file's size stands for the disk's: the command cannot write all of the new keyring."""
        create_keys(file.url, **{f"key{number}": (Role.READER, None) for number in range(10)})
        before = change(file.url)

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

        command = [sys.executable, "-m", "taskgate", "keys", "create", "one-more", "--auth-store", file.url]
        done = subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=limit, timeout=60)
        assert done.returncode == 1
        assert done.stdout == ""
        assert "The store " in done.stderr
        assert "the disk" in done.stderr
        assert "Traceback" not in done.stderr
        assert change(file.url) == before
        assert len(change(file.url, adding("one-more")).keys) == 11


@pytest.mark.parametrize("columns", ["id int, task_id text, json_data text", "task_id text, x int, json_data text"])
def test_a_database_of_tasks_is_never_written(postgresql: PostgresqlServer, columns: str) -> None:
    """Neither Conductor's nor ours: the key goes nowhere, and the sentence says why. Another schema may be named."""
    rig = PostgresqlRig(postgresql)
    postgresql.execute(f"CREATE TABLE task ({columns})", database="keys")
    with pytest.raises(StoreUnavailable, match="it holds tasks in this schema"):
        change(rig.url, adding("a"))
    assert not rig.exists()
    postgresql.execute("CREATE SCHEMA taskgate", database="keys")
    assert change(f"{rig.url}?schema=taskgate", adding("a")).keys


@pytest.mark.needs("redis-server")
class TestRedisDatabase:
    """The database of tasks is never written."""

    @pytest.mark.parametrize("name", ["redis", "cluster"])
    def test_it_takes_no_keys(self, request: pytest.FixtureRequest, name: str) -> None:
        """Of either layout, under any prefix, however its URL is spelt. Other keys do no harm, nor do later tasks."""
        rig = RIGS[name](request.getfixturevalue(name))
        assert isinstance(rig, RedisRig | ClusterRig)
        with rig.client() as client:
            for number in range(1500):
                client.set(f"other:{number}", "")
            for key in ("taskgate.TASK.1", "conductor.test.TASK.65fc73fe", "TASK.1", "conductor.test.TASK_DEFS"):
                client.set(key, "{}")
                with pytest.raises(StoreUnavailable, match="it is a database of tasks; name another one"):
                    change(rig.url, adding("a"))
                assert not client.exists("TASKGATE_KEYRING")
                client.delete(key)
            change(rig.url, adding("a"))
            client.set("taskgate.TASK.1", "{}")
            assert len(change(rig.url, adding("b")).keys) == 2


def test_a_lost_connection_is_replaced(postgresql: PostgresqlServer) -> None:
    """A server that was restarted between two looks costs no failed look."""

    async def run() -> None:
        rig = PostgresqlRig(postgresql)
        store = open_keyring(rig.url)
        await change_keyring(store, adding("a"))
        postgresql.stop()
        postgresql.start()
        with pytest.raises(StoreUnavailable):
            await store.read()
        assert await store.read(1) is None
        await store.close()

    asyncio.run(run())

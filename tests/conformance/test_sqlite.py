"""SQLite against the suite, and what only a file can do."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from conformance.rig import Rig
from conformance.suite import ID, StoreSuite, WriterSuite, _excuse, assert_public, stored
from taskgate.errors import SettingsError, StoreUnavailable
from taskgate.stores import open_store, open_writer
from taskgate.stores.base import StoredTask, WriteCounts

__all__ = ["_excuse"]  # a fixture of the suite, for the classes below


class SqliteRig(Rig):
    """A file in a folder whose name has characters that mean something in URIs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "odd ?#%41 é")
        self.folder.mkdir()
        self.file = self.folder / "tasks.db"
        self.name = str(self.file)

    @property
    def url(self) -> str:
        escaped = str(self.file).replace("%", "%25").replace("?", "%3F").replace("#", "%23")
        return f"sqlite:///{escaped}"

    def connect(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self.file, timeout=10, isolation_level=None))

    def put(self, task_id: str, value: object) -> None:
        with self.connect() as connection:
            connection.execute("INSERT OR REPLACE INTO task (task_id, json_data) VALUES (?, ?)", (task_id, value))

    def stored(self) -> dict[str, bytes]:
        with self.connect() as connection:
            return {row[0]: row[1] for row in connection.execute("SELECT task_id, CAST(json_data AS BLOB) FROM task")}

    @contextmanager
    def away(self) -> Iterator[None]:
        elsewhere = self.folder / "elsewhere.db"
        self.file.rename(elsewhere)
        yield
        elsewhere.rename(self.file)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A copy without write-ahead log, exclusively locked, in the place of the file."""
        with self._instead() as instead, closing(sqlite3.connect(instead, isolation_level=None)) as connection:
            connection.execute("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data TEXT)")
            connection.execute("BEGIN EXCLUSIVE")
            yield

    @contextmanager
    def damaged(self) -> Iterator[None]:
        with self._instead() as instead:
            instead.write_bytes(b"SQLite format 3\0" + b"\xa5" * 8192)
            yield

    @contextmanager
    def _instead(self) -> Iterator[Path]:
        """A new file in the place of the database's."""
        with self.away():
            yield self.file
            self.file.unlink()

    def foreign(self) -> None:
        """As Conductor's migration makes it (contract section 3.1), with looser types to try odd values on."""
        with self.connect() as connection:
            connection.execute("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data, created_on, modified_on)")


@pytest.fixture
def rig(tmp_path: Path) -> SqliteRig:
    return SqliteRig(tmp_path)


class TestSqliteStore(StoreSuite):
    """Every "must" of TaskStore, and more."""

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda file: file.unlink(), "there is no such file"),
            (lambda file: (file.unlink(), file.mkdir()), "it is not a file"),
            (lambda file: file.write_bytes(b"x" * 10_000), "it is not a SQLite database, or is damaged"),
            (lambda file: file.write_bytes(b""), "it has no table 'task'"),
            (lambda file: os.truncate(file, 5000), "damaged"),
        ],
        ids=["missing", "folder", "garbage", "empty", "cut"],
    )
    async def test_reason_is_named(self, rig: SqliteRig, spoil: Any, reason: str) -> None:
        """Each state of the file has its own sentence."""
        with rig.open_writer() as writer:
            writer.write([stored(f"{n}", 1, b"x" * 1000) for n in range(100)])
        spoil(rig.file)
        store = rig.open_store()
        # A file that was cut short is found out by whichever read meets the missing pages.
        reads = await asyncio.gather(*(store.get_document(f"{n}") for n in range(100)), return_exceptions=True)
        refused = next(result for result in reads if isinstance(result, StoreUnavailable))
        assert_public(refused, rig)
        assert reason in refused.message
        await store.close()

    async def test_file_moved_over_the_old_one_is_picked_up(self, rig: SqliteRig) -> None:
        """No restart, no mix of both files, however often it happens."""
        rig.create()
        store = rig.open_store()
        for number in range(20):
            other = SqliteRig(rig.folder)
            with other.open_writer() as writer:
                writer.write([stored(document=f'{{"n":{number}}}'.encode())])
            other.file.rename(rig.file)
            shutil.rmtree(other.folder)
            assert await store.get_document(ID) == f'{{"n":{number}}}'.encode()
        await store.close()

    async def test_readers_in_many_processes_beside_one_writer(self, rig: SqliteRig) -> None:
        """Many reader processes beside one writer: every read is answered."""
        rig.create()
        rig.put(ID, "{}")
        program = (
            "import asyncio, sys\n"
            "from taskgate.stores import open_store\n"
            "async def main():\n"
            "    store = open_store(sys.argv[1])\n"
            "    for _ in range(300):\n"
            f"        assert await store.get_document({ID!r}) == b'{{}}'\n"
            "    await store.close()\n"
            "asyncio.run(main())\n"
        )
        readers = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", program, rig.url, stderr=subprocess.PIPE)
            for _ in range(6)
        ]
        finished = asyncio.gather(*(reader.communicate() for reader in readers))
        written = 0
        with rig.open_writer() as writer:
            while not finished.done():
                written += writer.write([stored(f"{written}-{n}", 1, b"x" * 2000) for n in range(200)]).added
                await asyncio.sleep(0)
        assert [error for _, error in await finished] == [b""] * 6
        assert {reader.returncode for reader in readers} == {0}
        assert written > 0


class TestSqliteWriter(WriterSuite):
    """Every "must" of TaskWriter, and more."""

    def test_write_ahead_log_is_on(self, rig: SqliteRig) -> None:
        rig.create()
        with rig.connect() as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    def test_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable, match=r"its folder does not exist"):
            open_writer(f"sqlite:///{tmp_path}/no/tasks.db")

    def test_file_removed_during_an_import_is_noticed(self, rig: SqliteRig) -> None:
        """Writing into a removed file would be lost without a word."""
        with rig.open_writer() as writer:
            writer.write([stored()])
            rig.file.unlink()
            with pytest.raises(StoreUnavailable, match="removed or replaced"):
                writer.write([stored()])


@pytest.mark.parametrize(
    "url",
    ["", "tasks.db", "sqlite:", "sqlite://", "sqlite:///", "sqlite://tasks.db", "sqlite:///:memory:", "oracle://x/y"],
)
def test_url_that_names_no_store_is_refused_by_key(url: str) -> None:
    """The sentence begins with the setting's name."""
    for opening in (open_store, open_writer):
        with pytest.raises(SettingsError, match=r"^store: "):
            opening(url)


task_ids = st.sampled_from(["a", "A", "b", "é", "c " * 50])
update_times = st.integers(0, 3)
documents = st.sampled_from([b"{}", b'{"a":1}', b'{"a": 1}', b'{"s":"\xc3\xa9"}'])


class StoreModel(RuleBasedStateMachine):
    """Random writes and reads against a dictionary, which shares no code with the store."""

    folder: Path
    count = 0

    @initialize()
    def open(self) -> None:
        StoreModel.count += 1
        folder = self.folder / str(StoreModel.count)
        folder.mkdir()
        self.url = f"sqlite:///{folder}/tasks.db"
        self.writer = open_writer(self.url)
        self.store = open_store(self.url)
        self.loop = asyncio.new_event_loop()
        self.model: dict[str, tuple[int, bytes]] = {}

    @rule(batch=st.lists(st.tuples(task_ids, update_times, documents), max_size=5))
    def write(self, batch: list[tuple[str, int, bytes]]) -> None:
        expected = WriteCounts()
        for task_id, update_time, document in batch:
            if task_id not in self.model:
                expected.added += 1
            elif self.model[task_id][0] > update_time:
                expected.older += 1
                continue
            elif self.model[task_id] == (update_time, document):
                expected.unchanged += 1
            else:
                expected.replaced += 1
            self.model[task_id] = (update_time, document)
        assert self.writer.write([StoredTask(*task) for task in batch]) == expected

    @rule()
    def write_with_a_new_writer(self) -> None:
        self.writer.close()
        self.writer = open_writer(self.url)
        assert not self.writer.created

    @rule(task_id=task_ids)
    def read(self, task_id: str) -> None:
        expected = self.model[task_id][1] if task_id in self.model else None
        assert self.loop.run_until_complete(self.store.get_document(task_id)) == expected

    @invariant()
    def answers(self) -> None:
        if hasattr(self, "store"):
            self.loop.run_until_complete(self.store.check())

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.loop.run_until_complete(self.store.close())
            self.loop.close()
            self.writer.close()


def test_store_behaves_like_a_dictionary(tmp_path: Path) -> None:
    """Any sequence of writes and reads gives what a dictionary with the same rules would."""
    StoreModel.folder = tmp_path
    run_state_machine_as_test(
        StoreModel, settings=settings(max_examples=25, stateful_step_count=15, deadline=None, derandomize=True)
    )

"""Run the suite against SQLite, and test what only a file can do."""

import asyncio
import itertools
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

from conformance.dictionary import check_like_a_dictionary
from conformance.rig import Rig
from conformance.suite import ID, StoreSuite, WriterSuite, assert_public, stored
from taskgate.base.errors import SettingsError, StoreUnavailable
from taskgate.stores import open_store, open_writer


class SqliteRig(Rig):
    """A file in a folder whose name has characters with a meaning in URIs."""

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
        """Replace the file by an exclusively locked copy without write-ahead log."""
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
        """Put a new file in the place of the database."""
        with self.away():
            yield self.file
            self.file.unlink()

    def foreign(self) -> None:
        """As Conductor's migration ``V1__initial_schema.sql`` makes it, with looser types to try odd values."""
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
        # A truncated file is detected by the first read that needs the missing pages.
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
        """A write into a removed file would be lost silently."""
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


def test_store_behaves_like_a_dictionary(tmp_path: Path) -> None:
    """Any sequence of writes and reads gives what a dictionary with the same rules would."""
    numbers = itertools.count()
    check_like_a_dictionary(lambda: f"sqlite:///{tmp_path}/{next(numbers)}.db")

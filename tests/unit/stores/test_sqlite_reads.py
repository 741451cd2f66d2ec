"""Where SQLite's reads happen: on the event loop or in a thread."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from taskgate.base.errors import DocumentUnreadable
from taskgate.stores.single_flight import HUGE_AT_ONCE, HUGE_DOCUMENT, LARGE_DOCUMENT
from taskgate.stores.sqlite import connections
from taskgate.stores.sqlite import store as sqlite
from taskgate.stores.sqlite.store import SqliteStore


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data)")
        connection.execute("INSERT INTO task VALUES ('a', '{}')")
        connection.execute("PRAGMA journal_mode = WAL")
    return path


async def happens_on_the_loop(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the next read does."""
    seen: list[threading.Thread] = []

    def noted(read: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any, **options: Any) -> Any:
            seen.append(threading.current_thread())
            return read(*arguments, **options)

        return noting

    with monkeypatch.context() as patch:
        for read in ("look_up", "fetch_one"):
            patch.setattr(store._connections, read, noted(getattr(store._connections, read)))
        assert await store.get_document("a") == b"{}"
    return seen[-1] is threading.current_thread()


@pytest.fixture(params=["SQLite's C interface", "the sqlite3 module"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What reads on the event loop; the module does where the other cannot be reached."""
    if request.param == "the sqlite3 module":
        monkeypatch.setattr(connections, "open_lookup", lambda _uri, _statement: None)
    return str(request.param)


@pytest.mark.usefixtures("reader")
async def test_only_the_first_read_of_a_task_needs_a_thread(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(str(database))
    assert not await happens_on_the_loop(store, monkeypatch)
    for _ in range(3):
        assert await happens_on_the_loop(store, monkeypatch)
    await store.close()


@pytest.mark.usefixtures("reader")
async def test_slow_read_on_the_loop_sends_the_next_ones_to_threads(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after a while they are tried on the loop again."""
    store = SqliteStore(str(database))
    await store.get_document("a")
    monkeypatch.setattr(sqlite, "_VERY_SLOW_READ", 0)
    monkeypatch.setattr(sqlite, "_LEAVE_FACTOR", 1e9)
    assert await happens_on_the_loop(store, monkeypatch)
    assert not await happens_on_the_loop(store, monkeypatch)
    store._in_threads_until = 0.0
    assert await happens_on_the_loop(store, monkeypatch)
    await store.close()


@pytest.mark.usefixtures("reader")
async def test_lock_sends_the_read_to_a_thread(database: Path) -> None:
    """The loop never waits for a lock; the read is answered when the lock is gone."""
    store = SqliteStore(str(database))
    with closing(sqlite3.connect(database)) as other:
        assert other.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    for _ in range(2):
        assert await store.get_document("a") == b"{}"
    locking = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    locking.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.3, locking.close)
    release.start()
    assert await store.get_document("a") == b"{}"
    release.join()
    await store.close()


async def test_reads_on_the_loop_follow_a_file_that_replaces_another(database: Path, tmp_path: Path) -> None:
    """Also where the path is a link, and then leads elsewhere."""
    paths = [tmp_path / "old.db", tmp_path / "new.db"]
    for path in paths:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data)")
            connection.execute("INSERT INTO task VALUES ('a', ?)", (path.stem,))
    link = tmp_path / "link.db"
    link.symlink_to(paths[0])
    plain, linked = SqliteStore(str(database)), SqliteStore(str(link))
    for _ in range(3):
        assert (await plain.get_document("a"), await linked.get_document("a")) == (b"{}", b"old")
    link.unlink()
    link.symlink_to(paths[1])
    paths[0].replace(database)
    for _ in range(3):
        assert (await plain.get_document("a"), await linked.get_document("a")) == (b"old", b"new")
    await plain.close()
    await linked.close()


async def test_huge_reads_that_are_stuck_hold_up_no_other_first_read(database: Path) -> None:
    """Those that wait for them have no thread, and no transaction: a writer can start its log over."""
    huge = [f"huge {number}" for number in range(40)]
    with closing(sqlite3.connect(database)) as writer, writer:
        rows = [(task_id, task_id + "x" * HUGE_DOCUMENT) for task_id in huge]
        rows += [(f"large {number}", "x" * (LARGE_DOCUMENT + 1)) for number in range(20)]
        writer.executemany("INSERT INTO task VALUES (?, ?)", rows)
    store = SqliteStore(str(database))
    for _ in range(HUGE_AT_ONCE):  # as reads that wait for the disk have them
        await store._cold._huge_turns.acquire()
    waiting = [asyncio.create_task(store.get_document(task_id)) for task_id in huge]
    async with asyncio.timeout(30):
        while len(store._cold._huge) < len(huge):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)
        assert await store.get_document("a") == b"{}"
        larges = await asyncio.gather(*(store.get_document(f"large {number}") for number in range(20)))
        assert {len(large or b"") for large in larges} == {LARGE_DOCUMENT + 1}
        with closing(sqlite3.connect(database, timeout=0)) as writer:
            assert writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        for _ in range(HUGE_AT_ONCE):
            store._cold._huge_turns.release()
        assert await asyncio.gather(*waiting) == [document.encode() for _, document in rows[: len(huge)]]
    await store.close()


LARGE = '{"text":"' + "ä" * LARGE_DOCUMENT + '"}'

VIEW = """
CREATE TABLE stored (id TEXT, document TEXT);
CREATE VIEW task AS SELECT id AS task_id, document AS json_data FROM stored;
CREATE TRIGGER store INSTEAD OF INSERT ON task BEGIN INSERT INTO stored VALUES (NEW.task_id, NEW.json_data); END
"""


@pytest.mark.parametrize(
    ("layout", "value", "found"),
    [
        ("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data TEXT)", LARGE, LARGE),
        ("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data BLOB)", LARGE.encode(), LARGE),
        ("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data TEXT) WITHOUT ROWID", LARGE, LARGE),
        (VIEW, LARGE, LARGE),
        ("PRAGMA encoding = 'UTF-16'; CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data TEXT)", LARGE, LARGE),
        ("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data)", None, None),
        ("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data)", 42, None),
    ],
    ids=["text", "blob", "without rowid", "view", "UTF-16", "null", "integer"],
)
@pytest.mark.usefixtures("reader")
async def test_first_and_later_reads_find_the_same_in_every_kind_of_table(
    tmp_path: Path, layout: str, value: object, found: str | None
) -> None:
    """Threads read a value in its place, where it has one."""
    path = tmp_path / "tasks.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(layout)
        connection.execute("INSERT INTO task VALUES ('a', ?)", (value,))
    store = SqliteStore(str(path))
    for _ in range(2):
        if found is None:
            with pytest.raises(DocumentUnreadable):
                await store.get_document("a")
        else:
            assert await store.get_document("a") == found.encode()
        assert await store.get_document("b") is None
    await store.close()

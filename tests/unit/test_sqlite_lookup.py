"""Reads on the event loop: by SQLite's C interface, and when they are left to threads."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from taskgate.stores import sqlite
from taskgate.stores.sqlite import SqliteStore
from taskgate.stores.sqlite_lookup import Lookup, LookupFailed, open_lookup

STATEMENT = "SELECT json_data FROM task WHERE task_id = ?"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE task (task_id TEXT PRIMARY KEY, json_data)")
        rows = [
            ("text", '{"é":1}'),
            ("blob", b"\x00\xff"),
            ("number", 1),
            ("null", None),
            ("empty", ""),
            ("a\x00b", "x"),
        ]
        connection.executemany("INSERT INTO task VALUES (?, ?)", rows)
        connection.execute("PRAGMA journal_mode = WAL")
    return path


@pytest.fixture
def lookup(database: Path) -> Lookup:
    opened = open_lookup(f"{database.as_uri()}?mode=ro", STATEMENT)
    assert opened is not None, "this interpreter's SQLite cannot be reached by ctypes"
    return opened


@pytest.mark.parametrize(
    ("key", "value"),
    [("text", '{"é":1}'.encode()), ("blob", b"\x00\xff"), ("empty", b""), ("a\x00b", b"x"), ("a", None), ("", None)],
)
def test_value_is_found_as_stored(lookup: Lookup, key: str, value: bytes | None) -> None:
    assert lookup.find(key) == value
    lookup.close()


@pytest.mark.parametrize("key", ["number", "null"])
def test_value_of_another_type_is_left_to_the_module(lookup: Lookup, key: str) -> None:
    with pytest.raises(LookupFailed):
        lookup.find(key)
    assert lookup.find("empty") == b""
    lookup.close()


def test_later_writes_are_seen(lookup: Lookup, database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        for value in ("one", "two"):
            connection.execute("INSERT OR REPLACE INTO task VALUES ('new', ?)", (value,))
            connection.commit()
            assert lookup.find("new") == value.encode()
    lookup.close()


def test_moved_file_is_noticed(lookup: Lookup, database: Path) -> None:
    assert not lookup.moved()
    database.rename(database.with_name("elsewhere"))
    assert lookup.moved()
    lookup.close()
    lookup.close()


def test_database_that_cannot_be_opened_gives_none(tmp_path: Path) -> None:
    assert open_lookup(f"{(tmp_path / 'nothing.db').as_uri()}?mode=ro", STATEMENT) is None


async def reading_thread(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> threading.Thread:
    """The thread that the next read of ``store`` happens in."""
    seen: list[threading.Thread] = []
    read_at_once, read = store._read_at_once, store._read

    def at_once(task_id: str) -> bytes | None:
        seen.append(threading.current_thread())
        return read_at_once(task_id)

    def patiently(task_id: str) -> bytes | None:
        seen.append(threading.current_thread())
        return read(task_id)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_read_at_once", at_once)
        patch.setattr(store, "_read", patiently)
        await store.get_document("text")
    return seen[-1]


async def test_quick_reads_happen_on_the_loop(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(str(database))
    for _ in range(3):
        assert await reading_thread(store, monkeypatch) is threading.current_thread()
    await store.close()


@pytest.mark.parametrize("limit", ["_SLOW_READ", "_LARGE_DOCUMENT"])
async def test_slow_read_or_large_document_sends_the_next_reads_to_threads(
    database: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """And after a while they are tried on the loop again."""
    store = SqliteStore(str(database))
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, limit, 0)
        await store.get_document("text")
    assert await reading_thread(store, monkeypatch) is not threading.current_thread()
    store._in_threads_until = 0.0
    assert await reading_thread(store, monkeypatch) is threading.current_thread()
    await store.close()


async def test_lock_sends_the_read_to_a_thread(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop never waits for a lock; the read is answered when the lock is gone."""
    other = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("DELETE FROM task WHERE task_id = 'nobody'")
    store = SqliteStore(str(database))
    release = threading.Timer(0.3, other.close)
    release.start()
    assert await store.get_document("text") == '{"é":1}'.encode()
    release.join()
    await store.close()


async def test_without_the_library_the_module_does_it_all(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "open_lookup", lambda _uri, _statement: None)
    store = SqliteStore(str(database))
    for _ in range(3):
        assert await store.get_document("text") == '{"é":1}'.encode()
    await store.close()

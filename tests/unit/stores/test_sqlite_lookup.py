"""One statement by SQLite's C interface."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from taskgate.stores.sqlite.lookup import Lookup, LookupFailed, open_lookup

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

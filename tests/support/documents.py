"""Task documents for tests, made from the documented one."""

import json
import sqlite3
from importlib.resources import files
from pathlib import Path
from typing import Any

DOCUMENTED = files("taskgate").joinpath("demo/task.json").read_bytes()
"""The task in the documentation of Orkes' API, exactly as printed there."""

DOCUMENTED_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7fe"

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
"""A well-formed ID that no store has."""


def compact(value: Any) -> bytes:
    """JSON without whitespace, as an import stores it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


DOCUMENTED_COMPACT = compact(json.loads(DOCUMENTED))


def task(task_id: str, **changes: Any) -> bytes:
    """The documented task under another ID, with some keys changed."""
    return compact(json.loads(DOCUMENTED) | {"taskId": task_id} | changes)


def put_row(database: Path, task_id: str, document: object) -> None:
    """Write a row directly into the store, with any content."""
    connection = sqlite3.connect(database, timeout=10)
    with connection:
        connection.execute("INSERT OR REPLACE INTO task (task_id, json_data) VALUES (?, ?)", (task_id, document))
    connection.close()

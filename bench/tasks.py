"""The tasks that are measured with: Conductor's documented one, and as many like it as asked for."""

import json
import uuid
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

DOCUMENTED_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7fe"

_NAMESPACE = uuid.UUID("6f5ddc2e-7b0e-5f0e-8f63-2f5a0c1d9a10")


def documented_task() -> bytes:
    """The documented task (1.9 KB) as an import stores it and REST returns it: without insignificant whitespace."""
    return _compact(json.loads(_sample()))


def write_tasks(path: Path, count: int) -> int:
    """Write ``count`` tasks of one size, a line each, the documented one last; returns the file's size in bytes.

    The IDs are random in order and the same in every run.
    """
    with path.open("wb") as lines:
        lines.writelines(line + b"\n" for line in _tasks(count))
    return path.stat().st_size


def _tasks(count: int) -> Iterator[bytes]:
    document = documented_task()
    for number in range(count - 1):
        yield document.replace(DOCUMENTED_ID.encode(), str(uuid.uuid5(_NAMESPACE, str(number))).encode())
    yield document


def _sample() -> bytes:
    return files("taskgate").joinpath("demo/task.json").read_bytes()


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

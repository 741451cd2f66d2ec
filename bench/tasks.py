"""Make the tasks of the benchmark: Conductor's documented one, the same with more output, and rows of 200 bytes."""

import functools
import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

DOCUMENTED_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7fe"

_CONDUCTOR_KEEPS = {"callbackAfterMs": 0, "idempotent": False, "notifications": {}, "asyncComplete": False}
"""Members of Conductor's rows that its answers lack."""

ROW_BYTES = 200
"""Size of the documents of which there are up to ten million."""

_NAMESPACE = uuid.UUID("6f5ddc2e-7b0e-5f0e-8f63-2f5a0c1d9a10")
_NOTE = "The quick brown fox jumps over the lazy dog while the workflow waits for its next task to be polled. "


@dataclass(frozen=True, slots=True)
class Document:
    """A task by the ``name`` of its size; ``least_bytes`` is its least size, 0 for the documented task."""

    name: str
    task_id: str
    least_bytes: int

    @property
    def body(self) -> bytes:
        """The document as an import stores it and REST returns it: without insignificant whitespace."""
        return _body(self.task_id, self.least_bytes)


SMALL = Document("2 KB", DOCUMENTED_ID, 0)
MIDDLE = Document("100 KB", str(uuid.uuid5(_NAMESPACE, "100 KB")), 100_000)
LARGE = Document("10 MB", str(uuid.uuid5(_NAMESPACE, "10 MB")), 10_000_000)

DOCUMENTS = (SMALL, MIDDLE, LARGE)


@functools.cache
def _body(task_id: str, least_bytes: int) -> bytes:
    task = json.loads(files("taskgate").joinpath("demo/task.json").read_bytes())
    if least_bytes:
        task["taskId"] = task_id
        task["outputData"]["response"]["body"]["items"] = _items(least_bytes)
    return _compact(task)


def _items(least_bytes: int) -> list[dict[str, object]]:
    """Make records like the response of an HTTP task: ten values, of all kinds, for each 300 bytes."""
    items: list[dict[str, object]] = []
    size = 0
    while size < least_bytes:
        number = len(items)
        item = {
            "id": number,
            "name": f"order-{number:07d}",
            "hostName": "orkes-api-sampler-67dfc8cf58-q2hhh",
            "score": number / 4,
            "ok": number % 3 == 0,
            "tags": [f"tag-{number % 17}", f"zone-{number % 5}"],
            "parent": None,
            "note": _NOTE + str(number * 7919),
        }
        items.append(item)
        size += len(_compact(item)) + 1
    return items


def write_tasks(path: Path, count: int, others: Iterable[Document] = ()) -> None:
    """Write ``count`` tasks of the documented size, a line each, the documented one last; then ``others``.

    The IDs are random in order and the same in every run.
    """
    with path.open("wb") as lines:
        lines.writelines(line + b"\n" for line in _tasks(count))
        lines.writelines(document.body + b"\n" for document in others)


def task_ids(count: int) -> list[str]:
    """Return the IDs of the tasks that ``write_tasks`` writes, without the others."""
    return [*(row_id(number) for number in range(count - 1)), DOCUMENTED_ID]


def conductor_rows(count: int) -> dict[str, str]:
    """Return the same tasks as Conductor keeps them, by ID."""
    text = _compact(json.loads(SMALL.body) | _CONDUCTOR_KEEPS).decode()
    return {task_id: text.replace(DOCUMENTED_ID, task_id) for task_id in task_ids(count)}


def write_rows(path: Path, count: int) -> None:
    """Write ``count`` tasks of ``ROW_BYTES``, a line each."""
    with path.open("wb") as lines:
        lines.writelines(row(number) + b"\n" for number in range(count))


def row(number: int) -> bytes:
    """Return task ``number`` of those of ``ROW_BYTES``."""
    head = (
        b'{"taskId":"%s","status":"COMPLETED","updateTime":1770621022078,"outputData":{"text":"'
        % row_id(number).encode()
    )
    return head.ljust(ROW_BYTES - 3, b"x") + b'"}}'


def row_id(number: int) -> str:
    """Return the ID of task ``number``."""
    return str(uuid.uuid5(_NAMESPACE, str(number)))


def _tasks(count: int) -> Iterator[bytes]:
    document = SMALL.body
    for task_id in task_ids(count):
        yield document.replace(DOCUMENTED_ID.encode(), task_id.encode())


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

"""Finding documents in streams of bytes: every shape, every fault, any chunking, flat memory."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO, Self, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taskgate.base.errors import StoreUnavailable
from taskgate.base.task_id import TaskIdFormat
from taskgate.importing import ImportSummary, Reject, Source, run_import
from taskgate.importing.importer import BATCH_TASKS
from taskgate.stores.base import StoredTask, WriteCounts

ANY = TaskIdFormat.ANY


class Memory:
    """A writer that only remembers."""

    created = True

    def __init__(self) -> None:
        self.total = WriteCounts()
        self.tasks: list[StoredTask] = []
        self.batches: list[int] = []

    def write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
        self.tasks += tasks
        self.batches.append(len(tasks))
        counts = WriteCounts(added=len(tasks))
        self.total += counts
        return counts

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class Chunks(io.RawIOBase):
    """A stream that gives at most ``size`` bytes at a time."""

    def __init__(self, content: bytes, size: int) -> None:
        self._content = io.BytesIO(content)
        self._size = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._content.read(min(size, self._size) if size >= 0 else self._size)


def load(
    content: bytes, *, chunk: int = 1 << 20, ids: TaskIdFormat = ANY
) -> tuple[Memory, list[Reject], ImportSummary]:
    memory, rejects = Memory(), list[Reject]()
    source = Source("file", lambda: cast("BinaryIO", Chunks(content, chunk)), len(content))
    summary = run_import([source], memory, ids, on_reject=rejects.append)
    assert summary.rejects == len(rejects)
    return memory, rejects, summary


def ids_of(memory: Memory) -> list[str]:
    return [task.task_id for task in memory.tasks]


def lines_of(rejects: list[Reject]) -> list[int | None]:
    return [reject.line for reject in rejects]


CHUNKS = (1, 5, 7, 1 << 20)
"""Bytes at a time."""

A, B, C = (f'{{"taskId":"{name}","updateTime":{number}}}'.encode() for number, name in enumerate("abc"))

SHAPES = {
    "one": (A, "a"),
    "one, laid out": (json.dumps(json.loads(A), indent=2).encode(), "a"),
    "two, laid out, one after the other": (
        b"\n".join(json.dumps(json.loads(d), indent=2).encode() for d in (A, B)),
        "ab",
    ),
    "lines": (b"\n".join((A, B, C)), "abc"),
    "lines with Windows ends": (b"\r\n".join((A, B, C, b"")), "abc"),
    "lines with empty ones": (b"\n\n  \n".join((A, B, C)), "abc"),
    "list": (b"[" + b",".join((A, B, C)) + b"]", "abc"),
    "list, laid out": (json.dumps([json.loads(d) for d in (A, B, C)], indent=4).encode(), "abc"),
    "list, an element a line": (b"[\n" + b",\n".join((A, B, C)) + b"\n]\n", "abc"),
    "empty list": (b"[]", ""),
    "nothing": (b"", ""),
    "white space": (b" \n\t\r\n", ""),
    "workflow": (b'{"workflowId":"w","tasks":[' + A + b"," + B + b'],"x":1}', "ab"),
    "workflow without tasks": (b'{"workflowId":"w","tasks":[]}', ""),
    "lines of workflows and lists": (b'{"tasks":[' + A + b"]}\n[" + B + b"]\n" + C, "abc"),
    "byte order mark": (b"\xef\xbb\xbf" + A + b"\n" + B, "ab"),
    "one element in a list of lines": (b"[\n" + A + b"\n]", "a"),
}


@pytest.mark.parametrize(("content", "expected"), SHAPES.values(), ids=SHAPES)
def test_every_shape_is_read_whatever_the_chunks(content: bytes, expected: str) -> None:
    for chunk in CHUNKS:
        memory, rejects, summary = load(content, chunk=chunk)
        assert rejects == [], chunk
        assert "".join(ids_of(memory)) == expected
        assert summary.complete
        assert summary.documents == len(expected)


FAULTS = {
    "bad line": (A + b"\n{bad}\n" + B, "ab", [2]),
    "bad first line": (b"{bad}\n" + A + b"\n" + B, "ab", [1]),
    "torn first line": (b'{"taskId":"x","y\n' + A + b"\n" + B, "ab", [1]),
    "torn last line": (A + b"\n" + B + b'\n{"taskId":"c', "ab", [3]),
    "line that is no object": (A + b"\n42\n" + B, "ab", [2]),
    "line that is not UTF-8": (A + b'\n{"taskId":"\xff"}\n' + B, "ab", [2]),
    "two documents on a line": (A + b"\n" + B + C + b"\n" + A, "aa", [2]),
    "no task ID": (A + b'\n{"x":1}\n' + B, "ab", [2]),
    "task ID of another type": (A + b'\n{"taskId":5}\n' + B, "ab", [2]),
    "updateTime of another type": (A + b'\n{"taskId":"x","updateTime":"1"}\n' + B, "ab", [2]),
    "updateTime with a fraction": (A + b'\n{"taskId":"x","updateTime":1.5}\n' + B, "ab", [2]),
    "updateTime beyond int64": (A + b'\n{"taskId":"x","updateTime":9223372036854775808}\n' + B, "ab", [2]),
    "element of a list": (b"[" + A + b',\n{"x":1},\n5,\n' + B + b"]", "ab", [2, 3]),
    "syntax in a list": (b"[\n" + A + b",\n" + B + b",\n{bad},\n" + C + b"]", "abc", [4]),
    "quotes that do not pair up in a list": (b"[\n" + A + b',\n{"x":"y},\n' + B + b"]", "a", [3]),
    "list without an end": (b"[" + A + b",\n" + B, "ab", [2]),
    "text": (b"this is no JSON", "", [1]),
    "NaN": (b'{"taskId":"a","x":NaN}\n' + B, "b", [1]),
}


@pytest.mark.parametrize(("content", "kept", "lines"), FAULTS.values(), ids=FAULTS)
def test_fault_is_a_reject_with_its_line_and_the_rest_is_kept(content: bytes, kept: str, lines: list[int]) -> None:
    for chunk in CHUNKS:
        memory, rejects, summary = load(content, chunk=chunk)
        assert "".join(ids_of(memory)) == kept, chunk
        assert lines_of(rejects) == lines
        assert all(reject.reason and "\n" not in reject.reason for reject in rejects)
        assert not summary.complete


def test_id_that_the_format_refuses_is_told_how_to_get_in() -> None:
    memory, rejects, _ = load(A, ids=TaskIdFormat.UUID)
    assert memory.tasks == []
    assert "--task-id-format any" in rejects[0].reason


def test_id_is_no_longer_than_columns_are() -> None:
    """Conductor's own, and those of an import into MySQL: 255 characters, each of up to four bytes."""
    memory, rejects, _ = load(b"".join(b'{"taskId":"%s"}' % ("😀" * length).encode() for length in (255, 256)))
    assert [len(task.task_id) for task in memory.tasks] == [255]
    assert [reject.reason for reject in rejects] == ["taskId has 256 characters, and at most 255 can be stored"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"null", 0), (b"5", 5), (b"5.0", 5), (b"1770621022078", 1770621022078), (b'1,"updateTime":7', 7)],
    ids=["null", "int", "integral float", "milliseconds", "last of duplicates"],
)
def test_update_time_is_read(text: bytes, expected: int) -> None:
    memory, rejects, _ = load(b'{"taskId":"a","updateTime":' + text + b"}")
    assert rejects == []
    assert memory.tasks[0].update_time == expected


def test_last_of_duplicate_task_ids_counts() -> None:
    memory, _, _ = load(b'{"taskId":"first","taskId":"last"}')
    assert ids_of(memory) == ["last"]


def test_documents_are_written_in_batches() -> None:
    memory, _, summary = load(b"\n".join(b'{"taskId":"%d"}' % n for n in range(10_000)))
    assert len(memory.batches) > 1
    assert max(memory.batches) == BATCH_TASKS
    assert summary.written == WriteCounts(added=10_000)


def test_store_that_fails_ends_the_import_with_a_true_count() -> None:
    class Failing(Memory):
        def write(self, tasks: Sequence[StoredTask]) -> WriteCounts:
            if self.batches:
                raise StoreUnavailable("the disk is full")
            return super().write(tasks)

    failing = Failing()
    content = b"\n".join(b'{"taskId":"%d"}' % n for n in range(3 * BATCH_TASKS))
    summary = run_import([Source("file", lambda: io.BytesIO(content), None)], failing, ANY)
    assert isinstance(summary.stopped_by, StoreUnavailable)
    assert summary.written == WriteCounts(added=BATCH_TASKS)
    assert not summary.complete


json_scalar = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8))
small_document = st.dictionaries(st.text(max_size=3), json_scalar, max_size=3)


@settings(deadline=None)
@given(
    documents=st.lists(small_document, max_size=6),
    layout=st.sampled_from(["lines", "list", "indented list", "indented sequence"]),
    chunk=st.integers(1, 40),
)
def test_any_documents_in_any_layout_and_chunks_are_found(
    documents: list[dict[str, Any]], layout: str, chunk: int
) -> None:
    """What is found does not depend on where the bytes are cut."""
    tasks = [document | {"taskId": f"t{number}", "updateTime": 0} for number, document in enumerate(documents)]
    content = {
        "lines": "\n".join(map(json.dumps, tasks)),
        "list": json.dumps(tasks),
        "indented list": json.dumps(tasks, indent=1),
        "indented sequence": "\n".join(json.dumps(task, indent=2) for task in tasks),
    }[layout]
    memory, rejects, _ = load(content.encode(), chunk=chunk)
    assert rejects == []
    assert [json.loads(task.document) for task in memory.tasks] == tasks


@settings(deadline=None)
@example(garbage=b"[]", chunk=1)
@given(garbage=st.binary(max_size=100), chunk=st.integers(1, 30))
def test_arbitrary_bytes_are_rejected_and_never_raise(garbage: bytes, chunk: int) -> None:
    load(garbage, chunk=chunk)
    between = garbage.replace(b"\n", b" ").replace(b"\r", b" ")
    memory, rejects, _ = load(A + b"\n" + between + b"\n" + B, chunk=chunk)
    assert ids_of(memory)[0] == "a"
    assert ids_of(memory)[-1] == "b"
    nothing = not re.sub(rb"\[\s*\]", b"", between).strip()  # an empty list holds no task, and is no mistake
    assert bool(rejects) or nothing or len(memory.tasks) > 2


MEMORY_PROGRAM = """
import sys
from taskgate.importing import Source, run_import
from taskgate.stores.base import WriteCounts
from taskgate.base.task_id import TaskIdFormat

class Nowhere:
    created = True
    total = WriteCounts()
    def write(self, tasks):
        self.total.added += len(tasks)
        return WriteCounts(added=len(tasks))

run_import([Source.of("-")], Nowhere(), TaskIdFormat.ANY)
print(Nowhere.total.added)
"""


@pytest.mark.parametrize(
    ("start", "separator", "end"),
    [(b"", b"\n", b""), (b"[", b",", b"]"), (b'{"workflowId":"w","tasks":[', b",", b"]}")],
    ids=["lines", "one list on one line", "one workflow on one line"],
)
def test_memory_is_flat(start: bytes, separator: bytes, end: bytes) -> None:
    """100 MB, in each shape, take the memory of 10 MB: a file of 10 GB will do."""
    document = b'{"taskId":"%d","outputData":{"text":"' + b"x" * 1900 + b'"}}'
    peaks = []
    for count in (5_000, 50_000):
        process = subprocess.Popen(
            [sys.executable, "-c", MEMORY_PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(start)
        for first in range(0, count, 1000):
            process.stdin.write(separator if first else b"")
            process.stdin.write(separator.join(document % number for number in range(first, first + 1000)))
        process.stdin.write(end)
        process.stdin.close()
        assert int(process.stdout.read()) == count
        process.stdout.close()
        _, status, used = os.wait4(process.pid, 0)  # of this process alone, not of all that tests have started
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(used.ru_maxrss)
    assert peaks[1] - peaks[0] < 20_000, f"KiB: {peaks}"

"""Imported files: the reader, decompression, the decision which documents are tasks, and which version is later."""

import gzip
import io

from fuzz.documents import accepted
from fuzz.target import JSON_WORDS, Choices, Target
from support.documents import DOCUMENTED, DOCUMENTED_COMPACT
from taskgate.base.printable import printable
from taskgate.base.task_id import TaskIdFormat
from taskgate.importing.reader import Fault, Found, Piece, Reader, read_workflow
from taskgate.importing.source import InputStream
from taskgate.importing.validation import RejectedDocument, validate_task
from taskgate.stores.writing.standing import standing_of


def _pieces(stream: InputStream) -> list[Piece]:
    return [piece for piece in Reader(stream.read).pieces() if piece is not None]


class _Dripping:
    """A stream that returns a few bytes at a time."""

    def __init__(self, content: bytes, most: int) -> None:
        self._stream, self._most = io.BytesIO(content), most

    def read(self, size: int) -> bytes:
        return self._stream.read(min(size, self._most))


def _validate(found: Found, tasks: list[bytes], *, nested: bool = False) -> None:
    try:
        task = validate_task(found.text, TaskIdFormat.ANY)
    except RejectedDocument as rejected:
        assert 0 < len(rejected.reason) < 1000
        assert printable(rejected.reason) == rejected.reason
        return
    if task is not None:
        assert accepted(task.document)
        assert -(2**63) < task.update_time < 2**63
        task.task_id.encode()
        tasks.append(task.document)
    elif not nested:
        for piece in read_workflow(found):
            if isinstance(piece, Found):
                assert piece.text in found.text
                _validate(piece, tasks, nested=True)


def import_any(data: bytes) -> None:
    """What is found are pieces of the stream, in order, wherever its bytes are cut; what is accepted can be served."""
    choices = Choices(data)
    most = choices.number(40) + 1
    content = choices.rest()
    stream = InputStream(io.BytesIO(content))
    pieces = _pieces(stream)
    assert pieces == _pieces(InputStream(_Dripping(content, most)))
    assert len(pieces) <= len(content) + 1 or stream.fault or content.startswith(b"\x1f\x8b")
    last = 0
    for piece in pieces:
        if isinstance(piece, Fault):
            assert piece.reason
            last = max(last, piece.line or 0)
            continue
        assert last <= piece.line
        last = piece.line
        assert content.startswith(b"\x1f\x8b") or piece.text in content
        _validate(piece, [])
    assert stream.fault is None or "cannot be read further" in stream.fault


def order_any(data: bytes) -> None:
    """Whatever a store holds has a place in the order of versions, also beside what is imported over it."""
    stored, given = standing_of(data), standing_of(_SMALL)
    assert stored == standing_of(data)
    assert (stored < given) + (stored == given) + (stored > given) == 1


_LINES = b"\n".join([DOCUMENTED_COMPACT] * 2)
_WORKFLOW = b'{"tasks":[' + DOCUMENTED_COMPACT + b',{"taskId":"b"}],"workflowId":"w"}'
_SMALL = b'{"taskId":"a","updateTime":1}'

TARGETS = (
    Target(
        "standing",
        order_any,
        [_SMALL, DOCUMENTED_COMPACT, b'{"status":"COMPLETED","endTime":1,"pollCount":2,"executed":true,"retried":1}'],
        (*JSON_WORDS, b'"status":', b'"endTime":', b'"pollCount":', b'"executed":', b'"COMPLETED"', b"-Infinity"),
        16_384,
    ),
    Target(
        "import",
        import_any,
        [
            *(
                b"\5" + text
                for text in (DOCUMENTED, _LINES, _WORKFLOW, _SMALL, b"[" + _SMALL + b"]", b"\xef\xbb\xbf" + _SMALL)
            ),
            *(b"\5" + gzip.compress(_SMALL, mtime=0), b"\1" + _SMALL + b"\n[" + _SMALL + b",\n" + _SMALL + b"]\n{"),
        ],
        (
            *(*JSON_WORDS, _SMALL, b'"taskId":"a"', b'"updateTime":', b'"tasks":[', b"\xff\xfe", b"\xef\xbb\xbf"),
            *(b"\x1f\x8b\x08\0", b"\r\n", b"\n\n", b'{"taskId":"c"}\n'),
        ),
        16_384,
    ),
)

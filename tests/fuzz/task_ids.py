"""Task IDs: the request that carries one, and the ID."""

import uuid

from fuzz.target import Target
from support.documents import DOCUMENTED_ID
from taskgate.base.errors import InvalidRequest, InvalidTaskId, TaskNotFound
from taskgate.base.printable import is_text, printable
from taskgate.base.task_id import TaskIdFormat, check_task_id
from taskgate.service.endpoints import decode_request
from taskgate.v1.task_service_pb2 import GetTaskRequest

_MOST_NAMED = 1024 + 3


def _accepts(task_id: str, task_id_format: TaskIdFormat) -> bool:
    try:
        check_task_id(task_id, task_id_format)
    except InvalidTaskId as refused:
        for text in (refused.message, refused.private):
            assert text.isprintable()
            assert is_text(text)
            assert len(text) < 1000
        return False
    return True


def check_id(data: bytes) -> None:
    """An ID is accepted or named in one short, printable sentence; accepted ones are safe to store, log and send."""
    for task_id in (
        data.decode(errors="surrogateescape"),
        data.decode("latin-1"),
        data.decode("utf-16-le", "surrogatepass") if len(data) % 2 == 0 else "",
    ):
        is_uuid, is_any = (_accepts(task_id, task_id_format) for task_id_format in TaskIdFormat)
        if is_uuid:
            assert is_any
            assert str(uuid.UUID(task_id)) == task_id.lower()
        if is_any:
            assert task_id
            assert is_text(task_id)
            assert not set(task_id) & {"\0", "\n", "\r", "\x1b", "\x85"}
            assert len(TaskNotFound(task_id).metadata["task_id"].encode()) <= _MOST_NAMED
        printable(task_id).encode()


def decode_id(data: bytes) -> None:
    """A request is a message, or refused as none; an ID in it is Unicode text."""
    try:
        asked = decode_request(GetTaskRequest, data)
    except InvalidRequest as refused:
        assert "GetTaskRequest" in refused.message
    else:
        assert is_text(asked.task_id)
        check_id(asked.task_id.encode())


def run(data: bytes) -> None:
    """Both."""
    check_id(data)
    decode_id(data)


_ASK = GetTaskRequest(task_id=DOCUMENTED_ID).SerializeToString()

TARGETS = (
    Target(
        "task_id",
        run,
        [
            b"",
            DOCUMENTED_ID.encode(),
            DOCUMENTED_ID.upper().encode(),
            b"a\0",
            "é".encode() * 600,
            _ASK,
            _ASK + b"\x12\1a",
        ],
        [DOCUMENTED_ID.encode(), b"-", b"\n", b"\x85", b"\xed\xa0\x80", b"\x0a\x24", b"\x0a\1a", "\U0001d7d8".encode()],
    ),
)

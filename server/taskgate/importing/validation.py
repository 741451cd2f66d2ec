"""Decide which documents are tasks that may be stored, and in what form."""

import json
import math
from typing import Any

import msgspec

from taskgate.base.errors import InvalidTaskId
from taskgate.base.task_id import TaskIdFormat, check_task_id
from taskgate.documents.document import MAX_DOCUMENT_BYTES, DocumentError, check_document, check_text, minify
from taskgate.stores.base import StoredTask


class RejectedDocument(Exception):
    """A document that is not stored; ``reason`` names the fault and quotes only the ID."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Head(msgspec.Struct, rename="camel"):
    """The members of a document that an import needs; decoding them checks the syntax of the whole document."""

    task_id: str | None = None
    update_time: int | None = None
    tasks: msgspec.Raw | None = None  # of a Workflow


_decode_head = msgspec.json.Decoder(_Head).decode

MAX_TASK_ID_CHARACTERS = 255
"""The width of the ``task_id`` column in Conductor's own databases, and in our layout in MySQL."""

_LARGEST_TIME = 2**63 - 1
_MOST_DIGITS = 400
"""A number of more digits is beyond any double; Python refuses to convert one of 5,000."""


def validate_task(text: bytes, task_id_format: TaskIdFormat) -> StoredTask | None:
    """Return the task that ``text`` is, or None if it is a Workflow with a list of ``tasks``.

    If a key comes twice, the last one counts, as in every parser that Conductor and its SDKs use.

    Raises:
        RejectedDocument: it is neither, or it is a task that could not be served.
    """
    try:
        check_text(text)
        head = _head(text)
    except DocumentError as error:
        raise RejectedDocument(str(error)) from error
    if head.task_id is None:
        if head.tasks is not None and bytes(head.tasks).startswith(b"["):
            return None
        raise RejectedDocument("it has no taskId, nor is it a Workflow with a list of tasks")
    _check_id(head.task_id, task_id_format)
    update_time = head.update_time or 0
    if not -_LARGEST_TIME <= update_time <= _LARGEST_TIME:
        raise RejectedDocument("updateTime is beyond 64 bits")
    document = minify(text)
    if len(document) > MAX_DOCUMENT_BYTES:
        raise RejectedDocument(f"it has {len(document)} bytes, and at most {MAX_DOCUMENT_BYTES} can be served")
    return StoredTask(head.task_id, update_time, document)


def _head(text: bytes) -> _Head:
    try:
        return _decode_head(text)
    except (msgspec.DecodeError, RecursionError):
        check_document(text)
    # It is a document, but it has a lone surrogate, or these keys have values of other types.
    values = json.loads(text, parse_int=_whole_number, parse_float=float)
    tasks = msgspec.Raw(b"[]") if isinstance(values.get("tasks"), list) else None
    return _Head(_checked_task_id(values.get("taskId")), _checked_update_time(values.get("updateTime")), tasks)


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else math.inf


def _checked_task_id(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise RejectedDocument("taskId is not a string")


def _checked_update_time(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or type(value) is int:
        return value
    raise RejectedDocument("updateTime is not a whole number")


def _check_id(task_id: str, task_id_format: TaskIdFormat) -> None:
    try:
        check_task_id(task_id, task_id_format)
    except InvalidTaskId as error:
        raise RejectedDocument(error.private) from error
    if len(task_id) > MAX_TASK_ID_CHARACTERS:
        raise RejectedDocument(
            f"taskId has {len(task_id)} characters, and at most {MAX_TASK_ID_CHARACTERS} can be stored"
        )

"""Validate task IDs. A malformed ID is refused without reading the store."""

import re
from enum import StrEnum

from taskgate.base.errors import InvalidTaskId

_UUID = re.compile(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_QUOTED_CHARACTERS = 64


class TaskIdFormat(StrEnum):
    """The format that task IDs must have."""

    UUID = "uuid"
    """A UUID in its usual 36 characters, any version, upper or lower case. Conductor generates these by default."""

    ANY = "any"
    """Any text without control characters, for installations with their own ID generator."""


def check_task_id(task_id: str, task_id_format: TaskIdFormat) -> None:
    """Raise InvalidTaskId, saying what is wrong and what is expected, unless ``task_id`` is well formed."""
    if task_id_format == TaskIdFormat.UUID:
        if not _UUID.fullmatch(task_id):
            message = (
                f"Invalid task ID {_quoted(task_id)}: expected a UUID such as 65fc73fe-0586-11f1-8b8d-6219b54da7fe"
            )
            hint = "" if _fault(task_id) else "; --task-id-format any takes other IDs"
            raise InvalidTaskId(message, private=message + hint)
    elif fault := _fault(task_id):
        raise InvalidTaskId(
            f"Invalid task ID {_quoted(task_id)}: {fault}; expected any text without control characters"
        )


def not_utf8(task_id: bytes) -> InvalidTaskId:
    """Return the error for an ID that is no text."""
    cut = "…" if len(task_id) > _QUOTED_CHARACTERS else ""
    return InvalidTaskId(f"Invalid task ID {repr(task_id[:_QUOTED_CHARACTERS])[1:]}{cut}: it is not UTF-8")


def _fault(task_id: str) -> str | None:
    if not task_id:
        return "it is empty"
    if found := _CONTROL.search(task_id):
        return f"it holds the control character U+{ord(found[0]):04X}"
    if _SURROGATE.search(task_id):
        return "it is not Unicode text (it holds half of a surrogate pair)"
    return None


def _quoted(task_id: str) -> str:
    """Quote the ID for a message; unprintable characters are escaped, a long ID is cut."""
    return repr(task_id[:_QUOTED_CHARACTERS]) + ("…" if len(task_id) > _QUOTED_CHARACTERS else "")

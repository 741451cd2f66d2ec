"""Which task IDs are well formed; anything else is refused before a store is asked."""

import re
from enum import StrEnum

from taskgate.errors import InvalidTaskId

MAX_TASK_ID_CHARACTERS = 255
"""The width of the ``task_id`` column in Conductor's own databases (contract section 3.1)."""

_UUID = re.compile(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}")
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_QUOTED_CHARACTERS = 64


class TaskIdFormat(StrEnum):
    """The rule that task IDs are held to."""

    UUID = "uuid"
    """A UUID in its usual 36 characters, any version, any case: what Conductor makes by default."""

    ANY = "any"
    """1 to 255 characters, none of them a control character: for installations with their own ID generator."""


def check_task_id(task_id: str, task_id_format: TaskIdFormat) -> None:
    """Raise InvalidTaskId, saying what is wrong, unless ``task_id`` is well formed."""
    if task_id_format is TaskIdFormat.UUID:
        if not _UUID.fullmatch(task_id):
            raise InvalidTaskId(
                f"Invalid task ID {_quoted(task_id)}: expected a UUID such as 65fc73fe-0586-11f1-8b8d-6219b54da7fe"
            )
    elif not task_id:
        raise InvalidTaskId("Invalid task ID: it is empty")
    elif len(task_id) > MAX_TASK_ID_CHARACTERS:
        raise InvalidTaskId(
            f"Invalid task ID {_quoted(task_id)}: {len(task_id)} characters, at most {MAX_TASK_ID_CHARACTERS} are allowed"
        )
    elif _UNUSABLE.search(task_id):
        raise InvalidTaskId(f"Invalid task ID {_quoted(task_id)}: control characters are not allowed")


def _quoted(task_id: str) -> str:
    """The ID for a message: escaped where it is not printable, cut where it is long."""
    cut = task_id[:_QUOTED_CHARACTERS]
    text = cut if cut.isprintable() else cut.encode("unicode_escape").decode("ascii")
    return f"'{text}{'…' if len(task_id) > _QUOTED_CHARACTERS else ''}'"

"""Which task IDs are well formed, and what the refusal of the others says."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskgate.base.errors import InvalidTaskId
from taskgate.base.task_id import TaskIdFormat, check_task_id

UUID = "65fc73fe-0586-11f1-8b8d-6219b54da7fe"


@given(value=st.uuids(), upper=st.booleans())
def test_uuid_of_any_version_and_case_is_well_formed(value: uuid.UUID, upper: bool) -> None:
    check_task_id(str(value).upper() if upper else str(value), TaskIdFormat.UUID)


@pytest.mark.parametrize(
    "task_id",
    [
        *("", " ", UUID[:-1], UUID + "a", " " + UUID, UUID + "\n", "g" + UUID[1:]),
        *(UUID.replace("-", ""), "{" + UUID + "}", "1-1-1-1-1", "urn:uuid:" + UUID),
        *("\u0666" + UUID[1:], UUID.replace("-", "\u2010"), "\ud800"),
    ],
    ids=ascii,
)
def test_anything_else_is_refused_as_uuid(task_id: str) -> None:
    """Short groups, other hyphens, other digits, Conductor's Java would take some of them: no task has them."""
    with pytest.raises(InvalidTaskId, match=r"^Invalid task ID '.*expected a UUID such as"):
        check_task_id(task_id, TaskIdFormat.UUID)


@pytest.mark.parametrize("task_id", ["x", "a b", "é😀", "x" * 100_000, "a/b", "..", "%00", UUID, "\u200b"], ids=ascii)
def test_any_takes_any_text(task_id: str) -> None:
    check_task_id(task_id, TaskIdFormat.ANY)


@pytest.mark.parametrize(
    ("task_id", "reason"),
    [
        ("", "empty"),
        ("a\0", "control"),
        ("\x7f", "control"),
        ("\x85", "control"),
        ("\udc00", "surrogate"),
    ],
    ids=ascii,
)
def test_any_refuses_with_the_reason(task_id: str, reason: str) -> None:
    with pytest.raises(InvalidTaskId, match=reason):
        check_task_id(task_id, TaskIdFormat.ANY)


@given(task_id=st.text(st.characters(), max_size=400), task_id_format=st.sampled_from(TaskIdFormat))
def test_message_is_printable_short_and_utf8(task_id: str, task_id_format: TaskIdFormat) -> None:
    """It goes into a gRPC status, a JSON body and a log, whatever the ID was."""
    message = refusal(task_id, task_id_format)
    assert len(message) < 800
    assert "\n" not in message
    assert "\0" not in message
    assert message.encode().decode() == message


def refusal(task_id: str, task_id_format: TaskIdFormat) -> str:
    try:
        check_task_id(task_id, task_id_format)
    except InvalidTaskId as refused:
        return refused.message
    return ""


@given(task_id=st.text(st.characters(), min_size=65, max_size=300), task_id_format=st.sampled_from(TaskIdFormat))
def test_message_quotes_64_characters_of_a_long_id(task_id: str, task_id_format: TaskIdFormat) -> None:
    message = refusal(task_id, task_id_format)
    if message:
        assert f"{task_id[:64]!r}…" in message


def test_format_may_come_as_plain_text() -> None:
    """``"uuid"`` must not pass for ``any``."""
    with pytest.raises(InvalidTaskId):
        check_task_id("1", "uuid")  # type: ignore[arg-type]

"""The projection against answers of a real Conductor, recorded by ``make conformance`` with the rows they came from."""

from pathlib import Path

import pytest

from support.recorded import ON_PURPOSE, RUN, SEEDED, Recorded, projection_unlike, read_recorded, unequal

RECORDINGS = sorted((Path(__file__).parents[2] / "data").glob("conductor-*.ndjson"))


def tasks_of(path: Path) -> list[Recorded]:
    return list(read_recorded(path))


def test_there_is_a_recording() -> None:
    assert RECORDINGS


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_projections_are_the_recorded_answers(recording: Path) -> None:
    """Byte for byte; refused where Conductor says 404 or 500."""
    tasks = tasks_of(recording)
    assert {task.name: unlike for task in tasks if (unlike := projection_unlike(task))} == {}
    assert sum(task.origin == RUN for task in tasks) > 80
    assert sum(task.status != 200 for task in tasks) > 100


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_differences_on_purpose_are_differences(recording: Path) -> None:
    """A row that is listed as one that taskgate answers otherwise is in the recording, and Conductor's is another."""
    statuses = {task.task: task.status for task in tasks_of(recording) if task.origin == SEEDED}
    assert all(statuses[name] != ours for name, (ours, _) in ON_PURPOSE.items())


def test_getters_have_no_order_and_everything_else_has() -> None:
    """A JVM lists getters in an order of its own; otherwise an answer is compared byte by byte."""
    answer = b'{"taskId":"a","seq":1,"executionMetadata":{"a":1,"empty":true,"executionDuration":null},'
    getters = b'"taskDefinition":{"x":[1]},"loopOverTask":false,"queueWaitTime":-5}'
    other_metadata = answer.replace(b'"empty":true,"executionDuration":null', b'"executionDuration":null,"empty":true')
    other_getters = b'"queueWaitTime":-5,"taskDefinition":{"x":[1]},"loopOverTask":false}'
    assert not unequal(answer + getters, other_metadata + other_getters, lambda: (0, 0))
    for unlike in (
        answer.replace(b'"taskId":"a","seq":1', b'"seq":1,"taskId":"a"') + other_getters,
        b'{"loopOverTask":false,' + answer[1:] + b'"queueWaitTime":-5,"taskDefinition":{"x":[1]}}',
        answer + other_getters.replace(b"[1]", b"[ 1]"),
        answer + other_getters.replace(b"-5", b"-6"),
        answer.replace(b",", b", ", 1) + other_getters,
        answer.replace(b'"a"', rb'"\u0061"') + other_getters,
    ):
        assert len(unequal(answer + getters, unlike, lambda: (0, 0))) == 1

"""The projection against answers of a real Conductor, recorded by ``make conformance`` with the rows they came from."""

from pathlib import Path

import pytest

from support.recorded import ON_PURPOSE, RUN, SEEDED, Recorded, projection_unlike, read_recorded

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

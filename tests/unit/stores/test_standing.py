"""Which version of a task an import keeps."""

import pytest
from hypothesis import given, settings

from support.histories import ENDED, History, expected_counts, histories, latest_versions
from taskgate.stores.base import StoredTask, WriteCounts
from taskgate.stores.writing.standing import Standing, standing_of
from taskgate.stores.writing.writer import compare
from taskgate.v1.task_pb2 import Task

IN_ORDER = (
    b'{"status":"IN_PROGRESS","pollCount":1}',
    b'{"status":"IN_PROGRESS","pollCount":2}',
    b'{"status":"COMPLETED","pollCount":0,"endTime":1770621022078}',
    b'{"status":"FAILED","pollCount":0,"endTime":1770621022079}',
    b'{"status":"COMPLETED","pollCount":3,"endTime":1770621022079}',
    b'{"status":"COMPLETED","pollCount":0,"endTime":1770621022079,"executed":true}',
    b'{"status":"COMPLETED","pollCount":0,"endTime":1770621022079,"executed":true,"retried":true}',
)


def test_order_within_one_update_time() -> None:
    """Terminal over not terminal, later endTime, executed or retried set over not, higher pollCount."""
    standings = [standing_of(document) for document in IN_ORDER]
    assert standings == sorted(standings)
    assert len(set(standings)) == len(standings)


def test_task_has_ended_in_these_states_and_in_no_other() -> None:
    states = [value.name for value in Task.DESCRIPTOR.enum_types_by_name["Status"].values]
    ended = [state for state in states if standing_of(b'{"status":"%s"}' % state.encode()).terminal]
    assert sorted(ended) == sorted(ENDED)


@pytest.mark.parametrize(
    "document",
    [
        b"not json",
        b"[]",
        b"\xff",
        b'{"status":"COMPLETED\xff"}',
        b'{"endTime":NaN,"pollCount":NaN}',
        b'{"status":["COMPLETED"],"endTime":"1","executed":1,"retried":"true","pollCount":true}',
        b'{"status":"\\ud800COMPLETED","endTime":null}',
        b'{"n":%s}' % (b"9" * 5000),
        b"[" * 100_000,
        b'{"a":' + b"[" * 100_000,
    ],
    ids=lambda document: ascii(document[:24]),
)
def test_what_conductor_does_not_write_counts_least(document: bytes) -> None:
    assert standing_of(document)[:4] == (False, 0, 0, 0)


def test_lone_surrogates_do_not_hide_the_rest() -> None:
    document = b'{"s":"\\ud800","status":"TIMED_OUT","endTime":3,"retried":true,"pollCount":2,"n":%s}' % (b"9" * 5000)
    assert standing_of(document)[:4] == (True, 3, 1, 2)


@settings(max_examples=5 * settings().max_examples)
@given(history=histories())
def test_any_order_leaves_the_latest_version(history: History) -> None:
    """As ``conformance`` has it for every store, over what all of them share."""
    stored: dict[str, StoredTask] = {}

    def standing_of_stored(task: StoredTask) -> Standing | None:
        document = stored[task.task_id].document
        return None if document == task.document else standing_of(document)

    counts = WriteCounts()
    for writes in history:
        for versions in writes:
            times = {task_id: task.update_time for task_id, task in stored.items()}
            tasks = [version.task(str(version.number)) for version in versions]
            done, changed = compare(tasks, times, standing_of_stored)
            counts += done
            stored |= {task.task_id: task for task in changed}
    assert counts == expected_counts(history)
    assert {int(task_id): task.document for task_id, task in stored.items()} == {
        number: version.task("").document for number, version in latest_versions(history).items()
    }

"""The workflow type of a stored value: the one that every reader of it would find, or none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.documents import DOCUMENTED
from taskgate.documents.workflow_type import workflow_type_of


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (DOCUMENTED.decode(), "DemoWorkflow"),
        ('{"workflowType":"a"}', "a"),
        (r'{"workflowType":"\u0061é\"","x":"\ud800"}', 'aé"'),
        (r'{"workflow\u0054ype":"a"}', "a"),
        ('{"workflowType":"a","workflowType":"a"}', "a"),
        ('{"workflowType":"a","inputData":{"workflowType":"b"}}', "a"),
        ('{"workflowType":"a"} and more', "a"),  # as Conductor reads a row
        ('{"workflowType":"a","workflowType":"b"}', None),
        (r'{"workflowType":"a","workflow\u0054ype":"b"}', None),
        ('{"workflowType":"a","workflowType":null}', None),
        ('{"inputData":{"workflowType":"b"}}', None),
        (r'{"inputData":"\"workflowType\":\"b\""}', None),
        ('{"WorkflowType":"a"}', None),
        ('{"workflowType":1}', None),
        ('{"workflowType":""}', None),
        ('{"workflowType":["a"]}', None),
        ('[{"workflowType":"a"}]', None),
        ('"workflowType"', None),
        ("null", None),
        ("", None),
        ('{"workflowType":"a', None),
        ('{"workflowType":"a","b":[}', None),
        ('{"workflowType":"a","b":' + "[" * 100_000, None),
    ],
)
def test_type_that_all_readers_find(stored: str, expected: str | None) -> None:
    assert workflow_type_of(stored.encode()) == expected


@given(
    st.binary(max_size=40),
    st.lists(
        st.tuples(st.sampled_from(["workflowType", "a"]), st.sampled_from(['"a"', '"b"', "1", '{"workflowType":"a"}']))
    ),
)
def test_any_bytes_are_judged(noise: bytes, members: list[tuple[str, str]]) -> None:
    """Other bytes raise nothing. Of an object, the type is what each of its values of that key says."""
    workflow_type_of(noise)
    workflow_type_of(b'{"workflowType":"a",' + noise)
    found = {json.loads(value) if value != '{"workflowType":"a"}' else None for key, value in members if key != "a"}
    expected = found.pop() if len(found) == 1 else None
    text = "{" + ",".join(f'"{key}":{value}' for key, value in members) + "}"
    assert workflow_type_of(text.encode()) == (expected if isinstance(expected, str) else None)

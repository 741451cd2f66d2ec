"""The schemas of ``gateway/openapi.json``, against every answer of a real Conductor that is recorded."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from support.full_task import FULL_TASK
from support.recorded import read_recorded

ROOT = Path(__file__).parents[3]
COMPONENTS: dict[str, Any] = json.loads((ROOT / "gateway/openapi.json").read_bytes())["components"]
RECORDINGS = sorted((ROOT / "tests/data").glob("conductor-*.ndjson"))
SCHEMAS = COMPONENTS["schemas"]


def closed() -> Draft202012Validator:
    """Judges tasks by the schema, and refuses members that it does not describe."""
    components = deepcopy(COMPONENTS)
    for schema in components["schemas"].values():
        if schema["type"] == "object":
            schema["additionalProperties"] = False
    return Draft202012Validator({"$ref": "#/components/schemas/Task", "components": components})


@pytest.mark.parametrize(
    "recording", sorted((ROOT / "tests/data").glob("conductor-*.ndjson")), ids=lambda path: path.stem
)
def test_every_answer_of_conductor_is_as_described(recording: Path) -> None:
    validator = closed()
    answers = {
        task.name: task.answer for task in read_recorded(recording) if task.taskgate_status == task.status == 200
    }
    assert len(answers) > 80
    for name, answer in answers.items():
        assert [fault.message for fault in validator.iter_errors(json.loads(answer))] == [], name


def test_every_key_of_conductors_is_described_and_no_other() -> None:
    closed().validate(FULL_TASK)
    assert FULL_TASK.keys() == SCHEMAS["Task"]["properties"].keys()


def test_integers_of_64_bits_are_numbers_and_what_may_be_absent_may_be_null() -> None:
    task = SCHEMAS["Task"]["properties"]
    assert (task["scheduledTime"]["type"], task["scheduledTime"]["format"]) == ("integer", "int64")
    assert (task["retryCount"]["type"], task["retryCount"]["format"]) == ("integer", "int32")
    assert task["correlationId"]["type"] == ["string", "null"]
    assert task["taskDefinition"]["anyOf"] == [{"$ref": "#/components/schemas/TaskDef"}, {"type": "null"}]
    assert SCHEMAS["TaskStatus"]["enum"][4] == "COMPLETED"
    branch = SCHEMAS["WorkflowTask"]["properties"]["forkTasks"]["items"]
    assert branch["type"] == ["array", "null"]
    assert branch["items"]["anyOf"] == [{"$ref": "#/components/schemas/WorkflowTask"}, {"type": "null"}]


def test_no_description_speaks_of_the_typed_message() -> None:
    text = json.dumps(SCHEMAS)
    for words in ("become doubles", "on the wire", "REST only", "gRPC then has", "_id`"):
        assert words not in text

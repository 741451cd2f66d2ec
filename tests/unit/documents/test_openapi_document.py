"""``gateway/openapi.json``: its schemas against each recorded answer of a real Conductor, its words, its errors."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from jsonschema import Draft202012Validator

from support.full_task import FULL_TASK
from support.recorded import read_recorded
from taskgate.base import errors
from tools import openapi_document
from tools.openapi_schemas import Protos

ROOT = Path(__file__).parents[3]
DOCUMENT: dict[str, Any] = json.loads((ROOT / "gateway/openapi.json").read_bytes())
COMPONENTS: dict[str, Any] = DOCUMENT["components"]
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


def test_integers_of_64_bits_are_numbers_and_each_member_of_a_task_may_be_null() -> None:
    task = SCHEMAS["Task"]["properties"]
    assert (task["scheduledTime"]["type"], task["scheduledTime"]["format"]) == (["integer", "null"], "int64")
    assert (task["retryCount"]["type"], task["retryCount"]["format"]) == (["integer", "null"], "int32")
    assert task["outputData"]["type"] == ["object", "null"]
    assert SCHEMAS["CreateTokenRequest"]["properties"]["keyId"]["type"] == "string"
    assert task["taskDefinition"]["anyOf"] == [{"$ref": "#/components/schemas/TaskDef"}, {"type": "null"}]
    assert SCHEMAS["TaskStatus"]["enum"][4] == "COMPLETED"
    branch = SCHEMAS["WorkflowTask"]["properties"]["forkTasks"]["items"]
    assert branch["type"] == ["array", "null"]
    assert branch["items"]["anyOf"] == [{"$ref": "#/components/schemas/WorkflowTask"}, {"type": "null"}]


def test_no_description_speaks_of_the_typed_message() -> None:
    """Nor of protobuf's JSON and of RPCs. The introduction alone says that gRPC is served, too."""
    text = json.dumps({name: part for name, part in DOCUMENT.items() if name != "info"})
    for words in (
        "become doubles",
        "on the wire",
        "REST only",
        "gRPC then has",
        "_id`",
        "`optional`",
        "Always set",
        "differs from REST",
        "message that the method",
        "made of it",
        "CreateToken` was",
        "TaskService",
        "TokenService",
    ):
        assert words not in text


@pytest.mark.parametrize("operation", ["getTask", "createToken"])
def test_an_error_that_an_operation_may_have_and_does_not_describe_is_found(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"getTask": "_TASK_ERRORS", "createToken": "_TOKEN_ERRORS"}[operation]
    kept = [error for error in getattr(openapi_document, name) if not isinstance(error, errors.TooManyAttempts)]
    monkeypatch.setattr(openapi_document, name, tuple(kept))
    with pytest.raises(ValueError, match=f"{operation} .*: TooManyAttempts$"):
        openapi_document.document(Protos(FileDescriptorSet()))


def test_a_response_says_which_of_its_errors_have_retry_after() -> None:
    """Where only some have; and each example has words for a person."""
    for method in DOCUMENT["paths"].values():
        for operation in method.values():
            for status, response in operation["responses"].items():
                says = [line for line in response["description"].splitlines() if line.endswith("With `retry-after`.")]
                assert len(says) == (status == "503" and "retry-after" in response["headers"])
                for example in response["content"]["application/json"].get("examples", {}).values():
                    assert example["summary"]

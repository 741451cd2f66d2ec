"""``task_from_document``: every field, every rule of the comment of ``Task`` in ``task.proto``, every refusal."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import ErrorInfo
from hypothesis import given
from hypothesis import strategies as st

from support.documents import DOCUMENTED, compact
from support.full_task import (
    CACHE_CONFIG,
    EXECUTION_METADATA,
    FULL_TASK,
    REST_ONLY,
    SUB_WORKFLOW_PARAM,
    TASK_DEFINITION,
    WORKFLOW_TASK,
    plain,
    plain_value,
)
from taskgate.base.errors import ERROR_DOMAIN, STATUS_OF, TaskNotRepresentable
from taskgate.documents.document import MAX_NESTING, DocumentError
from taskgate.documents.task_message import task_from_document
from taskgate.v1.error_reason_pb2 import ErrorReason
from taskgate.v1.task_definition_pb2 import TaskDef
from taskgate.v1.task_pb2 import ExecutionMetadata, Task
from taskgate.v1.task_service_pb2 import GetTaskResponse
from taskgate.v1.workflow_task_pb2 import CacheConfig, SubWorkflowParams, WorkflowTask

PROTOS = Path(__file__).resolve().parents[3] / "protos/taskgate/v1"

DOCUMENTS_BY_MESSAGE: dict[Any, dict[str, Any]] = {
    Task: FULL_TASK,
    ExecutionMetadata: EXECUTION_METADATA,
    WorkflowTask: WORKFLOW_TASK,
    SubWorkflowParams: SUB_WORKFLOW_PARAM,
    CacheConfig: CACHE_CONFIG,
    TaskDef: TASK_DEFINITION,
}


def convert(changes: dict[str, Any] | None = None, **more: Any) -> Task:
    """The smallest task, with ``changes``."""
    return task_from_document(compact({"status": "COMPLETED"} | (changes or {}) | more))


def response(message: Task) -> bytes:
    """``GetTaskResponse(task=message)`` as bytes. Made like that it would parse the task again, and limit its depth."""
    return BytesValue(value=message.SerializeToString()).SerializeToString()  # on the wire, field 1 and bytes as well


def refusal(document: bytes) -> TaskNotRepresentable:
    with pytest.raises(TaskNotRepresentable) as caught:
        task_from_document(document)
    return caught.value


def refused_path(**changes: Any) -> str:
    return refusal(compact({"status": "COMPLETED"} | changes)).metadata["path"]


def payload(json_value: str) -> bytes:
    """A document with this JSON text as ``outputData.x``."""
    return b'{"status":"COMPLETED","outputData":{"x":' + json_value.encode() + b"}}"


def nested(target: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of ``target`` with ``value`` at a dotted path."""
    changed: dict[str, Any] = json.loads(json.dumps(target))  # not deepcopy: parts that are one object must come apart
    *parents, last = path.split(".")
    inner = changed
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return changed


class TestFields:
    def test_every_field_of_every_message_is_set_from_its_key(self) -> None:
        assert plain(task_from_document(compact(FULL_TASK))) == FULL_TASK

    def test_the_full_document_leaves_no_field_out(self) -> None:
        """The test above is only as good as its document."""
        for message, document in DOCUMENTS_BY_MESSAGE.items():
            assert {field.json_name for field in message.DESCRIPTOR.fields} == set(document), message

    def test_json_names_are_conductors(self) -> None:
        """What protobuf derives from the field's name, so that every language's JSON agrees with Conductor's."""
        for message, document in DOCUMENTS_BY_MESSAGE.items():
            for field in message.DESCRIPTOR.fields:
                name = (
                    "additional_context_map" if field.name == "additional_context_copy" else field.name
                )  # see the proto
                derived = re.sub(r"_([a-z])", lambda found: found[1].upper(), name)
                assert field.json_name == derived
                assert field.json_name in document

    def test_rest_only_fields_and_no_others_have_numbers_from_1000_up(self) -> None:
        for message in DOCUMENTS_BY_MESSAGE:
            high = {field.json_name for field in message.DESCRIPTOR.fields if field.number >= 1000}
            assert high == REST_ONLY[message.DESCRIPTOR.name]

    def test_the_documented_task(self) -> None:
        document = json.loads(DOCUMENTED)
        message = task_from_document(DOCUMENTED)
        assert message.status == Task.COMPLETED
        assert message.update_time == 1770621022078
        assert message.executed is True
        assert not message.HasField("task_definition")
        assert plain_value(message.output_data["response"]) == document["outputData"]["response"]
        assert {key: plain_value(message.input_data[key]) for key in message.input_data} == document["inputData"]
        assert message.workflow_task.task_reference_name == "http_ref"
        assert message.workflow_task.retry_count == -1
        assert GetTaskResponse.FromString(response(message)).task == message

    @pytest.mark.parametrize("status", Task.Status.keys())
    def test_every_status(self, status: str) -> None:
        assert Task.Status.Name(convert(status=status).status) == status


OPTIONAL = [
    field for field in Task.DESCRIPTOR.fields if field.has_presence and not (field.message_type or field.enum_type)
]


class TestPresence:
    def test_missing_and_null_are_absent_and_empty_is_not(self) -> None:
        missing = convert()
        for field in OPTIONAL:
            assert not missing.HasField(field.name), field.name  # type: ignore[arg-type]
            assert not convert({field.json_name: None}).HasField(field.name), field.name  # type: ignore[arg-type]
            assert convert({field.json_name: ""}).HasField(field.name), field.name  # type: ignore[arg-type]

    def test_nullable_scalars_are_optional_and_the_others_are_not(self) -> None:
        """Those that Conductor leaves out when they are null (its ``Task``, ``WorkflowTask`` and ``TaskDef``)."""
        always = {
            "Task": "retryCount seq pollCount scheduledTime startTime endTime updateTime startDelayInSeconds"
            " retried executed callbackFromWorker responseTimeoutSeconds callbackAfterSeconds rateLimitPerFrequency"
            " rateLimitFrequencyInSeconds workflowPriority iteration subworkflowChanged firstStartTime queueWaitTime"
            " loopOverTask",
            "ExecutionMetadata": "",
            "WorkflowTask": "type startDelay optional asyncComplete permissive retryCount",
            "SubWorkflowParams": "",
            "CacheConfig": "ttlInSecond",
            "TaskDef": "retryCount timeoutSeconds retryDelaySeconds responseTimeoutSeconds"
            " rateLimitPerFrequency rateLimitFrequencyInSeconds backoffScaleFactor maxRetryDelaySeconds backoffJitterMs"
            " totalTimeoutSeconds taskStatusListenerEnabled createTime updateTime enforceSchema",
        }
        for message in DOCUMENTS_BY_MESSAGE:
            scalars = [field for field in message.DESCRIPTOR.fields if not field.message_type and not field.is_repeated]
            implicit = {field.json_name for field in scalars if not field.has_presence}
            assert implicit == set(always[message.DESCRIPTOR.name].split())

    def test_every_enum_is_shown_in_protobufs_json(self) -> None:
        """Also values whose number is 0, which protobuf's JSON leaves out of fields without presence."""
        enums = {"status": "IN_PROGRESS", "taskDefinition": {"timeoutPolicy": "RETRY", "retryLogic": "FIXED"}}
        shown = json_format.MessageToDict(convert(enums))
        assert shown["status"] == "IN_PROGRESS"
        assert shown["taskDefinition"]["timeoutPolicy"] == "RETRY"
        assert shown["taskDefinition"]["retryLogic"] == "FIXED"
        for message in DOCUMENTS_BY_MESSAGE:
            assert all(field.has_presence for field in message.DESCRIPTOR.fields if field.enum_type)

    def test_zero_and_false_are_kept_where_there_is_presence(self) -> None:
        step = convert(workflowTask={"rateLimited": False, "joinMode": "SYNC"}).workflow_task
        assert step.HasField("rate_limited")
        assert step.HasField("join_mode")
        definition = convert(taskDefinition={"concurrentExecLimit": 0}).task_definition
        assert definition.HasField("concurrent_exec_limit")
        assert not definition.HasField("poll_timeout_seconds")

    @pytest.mark.parametrize("name", ["workflowTask", "executionMetadata", "taskDefinition"])
    def test_an_empty_message_is_present_and_null_is_not(self, name: str) -> None:
        field = Task.DESCRIPTOR.fields_by_camelcase_name[name].name
        assert convert({name: {}}).HasField(field)  # type: ignore[arg-type]
        assert not convert({name: None}).HasField(field)  # type: ignore[arg-type]
        assert not convert().HasField(field)  # type: ignore[arg-type]

    @pytest.mark.parametrize("said", [{}, {"callbackFromWorker": None}])
    def test_callback_from_worker_is_true_unless_the_document_says_otherwise(self, said: dict[str, Any]) -> None:
        assert convert(said).callback_from_worker is True
        assert convert(callbackFromWorker=False).callback_from_worker is False

    @pytest.mark.parametrize("said", [{}, {"retryCount": None}])
    def test_retry_count_of_a_step_is_minus_one_unless_given(self, said: dict[str, Any]) -> None:
        steps = {"workflowTask": said | {"defaultCase": [said]}}
        assert convert(steps).workflow_task.retry_count == -1
        assert convert(steps).workflow_task.default_case[0].retry_count == -1
        assert convert(workflowTask={"retryCount": 0}).workflow_task.retry_count == 0
        assert convert().retry_count == 0

    @pytest.mark.parametrize("none", [{}, dict.fromkeys(TASK_DEFINITION)])
    def test_conductors_defaults_where_a_definition_says_nothing(self, none: dict[str, Any]) -> None:
        definition = convert(taskDefinition=none).task_definition
        assert definition == TaskDef(
            retry_count=3,
            timeout_policy=TaskDef.TIME_OUT_WF,
            retry_logic=TaskDef.FIXED,
            retry_delay_seconds=60,
            response_timeout_seconds=3600,
            rate_limit_frequency_in_seconds=1,
            backoff_scale_factor=1,
            task_status_listener_enabled=True,
        )
        assert convert(workflowTask=none).workflow_task.type == "SIMPLE"

    def test_zero_in_a_definition_is_zero(self) -> None:
        zero = {"retryCount": 0, "timeoutPolicy": "RETRY", "taskStatusListenerEnabled": False}
        definition = convert(taskDefinition=zero).task_definition
        assert (definition.retry_count, definition.timeout_policy) == (0, TaskDef.RETRY)
        assert definition.task_status_listener_enabled is False


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("9007199254740993", 9007199254740992.0),
            ("-9007199254740993", -9007199254740992.0),
            ("9007199254740995", 9007199254740996.0),
            ("123456789012345678901234567890", 123456789012345678901234567890.0),
            ("1" + "0" * 308, 1e308),
            ("1e-400", 0.0),
            ("0.1", 0.1),
            ("1E5", 100000.0),
            ("1.7976931348623157e308", 1.7976931348623157e308),
        ],
    )
    def test_payload_numbers_become_the_nearest_double(self, text: str, expected: float) -> None:
        assert task_from_document(payload(text)).output_data["x"].number_value == expected

    @pytest.mark.parametrize("text", ["1e400", "-1e400", "1" + "0" * 309, "-" + "9" * 310, "9" * 5000])
    def test_a_number_that_no_finite_double_is_near_is_refused(self, text: str) -> None:
        assert refusal(payload(text)).metadata == {"path": "outputData.x"}
        assert refusal(payload(f"[0,{text}]")).metadata == {"path": "outputData.x[1]"}

    @pytest.mark.parametrize("text", ["1e400", "9" * 5000, '"\\ud800"', "[" * 500 + "]" * 500])
    def test_what_does_not_fit_does_no_harm_under_an_unknown_key(self, text: str) -> None:
        message = task_from_document(b'{"status":"FAILED","seq":7,"unknown":' + text.encode() + b"}")
        assert message == Task(status=Task.FAILED, seq=7, callback_from_worker=True)

    @pytest.mark.parametrize("number", [2**31 - 1, -(2**31)])
    def test_int32_bounds(self, number: int) -> None:
        assert convert(seq=number).seq == number

    @pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 9007199254740993])
    def test_int64_is_exact(self, number: int) -> None:
        assert convert(updateTime=number).update_time == number

    @pytest.mark.parametrize(("text", "expected"), [("3.0", 3), ("1e3", 1000), ("-0.0", 0), ("-0", 0)])
    def test_whole_floats_fit_integer_fields(self, text: str, expected: int) -> None:
        assert task_from_document(f'{{"status":"FAILED","seq":{text}}}'.encode()).seq == expected

    @pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 1e10, 1.5, 1e300, 10**400])
    def test_int32_overflow_and_fractions_are_refused(self, number: float) -> None:
        assert refused_path(seq=number) == "seq"

    @pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 1e19, 0.5, 10**400])
    def test_int64_overflow_and_fractions_are_refused(self, number: float) -> None:
        assert refused_path(updateTime=number) == "updateTime"

    def test_infinity_in_an_integer_field_is_refused(self) -> None:
        assert refusal(b'{"status":"FAILED","seq":1e400}').metadata == {"path": "seq"}


def scalar_fields(descriptor: Descriptor, path: str) -> Iterator[tuple[str, FieldDescriptor]]:
    for field in descriptor.fields:
        if field.message_type is None and not field.is_repeated:
            yield f"{path}{field.json_name}", field


ALL_SCALARS = [
    *scalar_fields(Task.DESCRIPTOR, ""),
    *scalar_fields(ExecutionMetadata.DESCRIPTOR, "executionMetadata."),
    *scalar_fields(WorkflowTask.DESCRIPTOR, "workflowTask."),
    *scalar_fields(CacheConfig.DESCRIPTOR, "workflowTask.cacheConfig."),
    *scalar_fields(SubWorkflowParams.DESCRIPTOR, "workflowTask.subWorkflowParam."),
    *scalar_fields(TaskDef.DESCRIPTOR, "taskDefinition."),
    *scalar_fields(TaskDef.DESCRIPTOR, "workflowTask.taskDefinition."),
]
FITTING = {
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_BOOL: bool,
    FieldDescriptor.TYPE_ENUM: str,
    FieldDescriptor.TYPE_INT32: int,
    FieldDescriptor.TYPE_INT64: int,
}


def refused_at(path: str, value: Any) -> str | None:
    """The path that a refusal of the full task names with ``value`` at ``path``; None if it is taken."""
    try:
        task_from_document(compact(nested(FULL_TASK, path, value)))
    except TaskNotRepresentable as error:
        return error.metadata["path"]
    return None


class TestWrongTypes:
    def test_a_value_of_another_json_type_is_refused_in_every_scalar_field(self) -> None:
        """A bool is no integer and an integer no bool, although Python takes them for each other."""
        wrong = [
            (path, value)
            for path, field in ALL_SCALARS
            for value in ("1", True, 1, [], {}, [1], {"a": 1})
            if type(value) is not FITTING[field.type] or field.enum_type
        ]
        assert [case for case in wrong if refused_at(*case) != case[0]] == []

    def test_objects_and_lists_are_not_interchangeable(self) -> None:
        wrong: list[tuple[str, list[Any]]] = [
            ("inputData", [[], "x", 1, True]),
            ("outputData", [[], "x"]),
            ("runtimeMetadata", [[], "x"]),
            ("workflowTask", [[], "x", 1]),
            ("executionMetadata", [[], "x"]),
            ("taskDefinition", [[], "x"]),
            ("executionMetadata.additionalContext", [[], "x"]),
            ("workflowTask.inputParameters", [[], "x"]),
            ("workflowTask.decisionCases", [[], "x"]),
            ("workflowTask.defaultCase", [{}, "x"]),
            ("workflowTask.forkTasks", [{}, "x"]),
            ("workflowTask.joinOn", [{}, "x"]),
            ("workflowTask.loopOver", [{}, "x"]),
            ("workflowTask.subWorkflowParam", [[], "x"]),
            ("workflowTask.subWorkflowParam.taskToDomain", [[], "x"]),
            ("workflowTask.cacheConfig", [[], "x"]),
            ("workflowTask.taskDefinition.inputKeys", [{}, "x"]),
            ("inputMessage", [[], "x"]),
        ]
        assert [(path, value) for path, values in wrong for value in values if refused_at(path, value) != path] == []

    @pytest.mark.parametrize(
        ("changes", "path"),
        [
            ({"runtimeMetadata": {"a": "x", "b": 1}}, "runtimeMetadata.b"),
            ({"runtimeMetadata": {"b": None}}, "runtimeMetadata.b"),
            ({"workflowTask": {"joinOn": ["a", "b", None]}}, "workflowTask.joinOn[2]"),
            ({"workflowTask": {"joinOn": ["a", 1]}}, "workflowTask.joinOn[1]"),
            ({"workflowTask": {"defaultCase": [{}, {"startDelay": "1"}]}}, "workflowTask.defaultCase[1].startDelay"),
            ({"workflowTask": {"defaultCase": [None]}}, "workflowTask.defaultCase[0]"),
            ({"workflowTask": {"forkTasks": [[], [{}, {"name": 1}]]}}, "workflowTask.forkTasks[1][1].name"),
            ({"workflowTask": {"forkTasks": [[], None]}}, "workflowTask.forkTasks[1]"),
            ({"workflowTask": {"forkTasks": [{"tasks": []}]}}, "workflowTask.forkTasks[0]"),
            ({"workflowTask": {"decisionCases": {"a": None}}}, "workflowTask.decisionCases.a"),
            ({"workflowTask": {"decisionCases": {"a b": [{}, 1]}}}, 'workflowTask.decisionCases["a b"][1]'),
            ({"workflowTask": {"subWorkflowParam": {"version": 1.5}}}, "workflowTask.subWorkflowParam.version"),
        ],
    )
    def test_the_path_leads_to_the_value(self, changes: dict[str, Any], path: str) -> None:
        assert refused_path(**changes) == path

    @pytest.mark.parametrize(
        "status", [None, "", "completed", "UNKNOWN", "RUNNING", 4, "4", ["COMPLETED"], {}, True], ids=repr
    )
    def test_an_unknown_status_is_refused(self, status: Any) -> None:
        assert refused_path(status=status) == "status"

    def test_a_missing_status_is_refused(self) -> None:
        assert refusal(b"{}").metadata == {"path": "status"}

    @pytest.mark.parametrize(
        "path",
        [
            "workflowTask.joinMode",
            "workflowTask.subWorkflowParam.idempotencyStrategy",
            "taskDefinition.timeoutPolicy",
            "taskDefinition.retryLogic",
        ],
    )
    def test_other_unknown_enum_values_are_refused(self, path: str) -> None:
        for value in ("", "NEW_IN_A_LATER_VERSION", 0):
            assert refusal(compact(nested(FULL_TASK, path, value))).metadata == {"path": path}


class TestAny:
    def test_conductors_json(self) -> None:
        message = convert(inputMessage={"@type": "t/x", "@value": "AP8="})
        assert (message.input_message.type_url, message.input_message.value) == ("t/x", b"\x00\xff")
        assert not message.HasField("output_message")

    @pytest.mark.parametrize(
        ("value", "path"),
        [
            ({}, 'inputMessage["@type"]'),
            ({"@type": "t/x"}, 'inputMessage["@value"]'),
            ({"@value": "AA=="}, 'inputMessage["@type"]'),
            ({"@type": None, "@value": "AA=="}, 'inputMessage["@type"]'),
            ({"@type": "t/x", "@value": 1}, 'inputMessage["@value"]'),
            ({"@type": "t/x", "@value": "A"}, 'inputMessage["@value"]'),
            ({"@type": "t/x", "@value": "AA"}, 'inputMessage["@value"]'),
            ({"@type": "t/x", "@value": "AA==\n"}, 'inputMessage["@value"]'),
            ({"@type": "t/x", "@value": "é"}, 'inputMessage["@value"]'),
            ({"@type": "t/x", "value": "canonical JSON of protobuf"}, 'inputMessage["@value"]'),
        ],
    )
    def test_anything_else_is_refused(self, value: Any, path: str) -> None:
        assert refused_path(inputMessage=value) == path


class TestText:
    @pytest.mark.parametrize(
        ("document", "path"),
        [
            (payload(r'"\ud800"'), "outputData.x"),
            (payload(r'["a", "\udc00\ud800"]'), "outputData.x[1]"),
            (payload(r'{"a": {"\ud800": 1}}'), r'outputData.x.a["\ud800"]'),
            (rb'{"status":"FAILED","outputData":{"\udfff":1}}', r'outputData["\udfff"]'),
            (rb'{"status":"FAILED","taskType":"\ud800"}', "taskType"),
            (rb'{"status":"FAILED","runtimeMetadata":{"a":"\ud800"}}', "runtimeMetadata.a"),
            (rb'{"status":"FAILED","runtimeMetadata":{"\ud800":"a"}}', r'runtimeMetadata["\ud800"]'),
            (rb'{"status":"FAILED","workflowTask":{"joinOn":["a","\ud800"]}}', "workflowTask.joinOn[1]"),
            (
                rb'{"status":"FAILED","workflowTask":{"decisionCases":{"\ud800":[]}}}',
                r'workflowTask.decisionCases["\ud800"]',
            ),
            (rb'{"status":"FAILED","inputMessage":{"@type":"\ud800","@value":""}}', 'inputMessage["@type"]'),
            (rb'{"status":"FAILED","inputMessage":{"@type":"","@value":"\ud800"}}', 'inputMessage["@value"]'),
            (rb'{"status":"\ud800"}', "status"),
        ],
    )
    def test_a_lone_surrogate_is_refused_in_strings_and_keys(self, document: bytes, path: str) -> None:
        assert refusal(document).metadata == {"path": path}

    def test_a_reason_cut_within_a_pair_ends_as_conductors_own_message_does(self) -> None:
        """Seen in Conductor 3.32.3 (``make conformance``): REST ends in half a pair, gRPC in a question mark."""
        cut = task_from_document(rb'{"status":"FAILED","reasonForIncompletion":"no \ud83c"}')
        assert cut.reason_for_incompletion == "no ?"
        assert refusal(rb'{"status":"FAILED","reasonForIncompletion":"\ud83c no"}')

    def test_pairs_of_surrogates_and_nul_are_text(self) -> None:
        assert task_from_document(payload(r'"\ud83d\ude00\u0000"')).output_data["x"].string_value == "\U0001f600\0"

    def test_messages_name_the_place_and_never_the_value(self) -> None:
        error = refusal(compact({"status": "FAILED", "seq": "secret"}))
        assert error.message == (
            "The task cannot be expressed as taskgate.v1.Task: seq: expected a whole number."
            " GetTaskJson returns it exactly"
        )
        for document in (payload(r'"secret\ud800"'), payload('{"a":[{"b":"secret","c":1e400}]}')):
            assert "secret" not in refusal(document).message

    @pytest.mark.parametrize("key", ["k" * 1000, "ключ" * 1000, "\0\r\n\t\x1b" * 100, "\ud800" * 500, '"' * 500])
    def test_paths_fit_into_a_header_whatever_the_keys_are(self, key: str) -> None:
        value: Any = 10**400
        for _ in range(20):
            value = {key: value}
        error = refusal(json.dumps({"status": "FAILED", "outputData": value}).encode())
        assert len(error.message) < 700
        assert error.message.isascii()
        assert error.message.isprintable()
        assert error.metadata["path"] in error.message


class TestDocuments:
    def test_the_last_of_duplicate_keys_counts(self) -> None:
        first, last = b'"status":"bad","seq":"bad","outputData":{"a":"x"}', b'"seq":3,"outputData":{"a":1,"a":2}'
        message = task_from_document(b"{" + first + b',"status":"FAILED",' + last + b"}")
        assert (message.status, message.seq, message.output_data["a"].number_value) == (Task.FAILED, 3, 2)
        document = b'{"status":"FAILED","seq":3,"seq":null}'
        assert task_from_document(document).seq == 0

    def test_unknown_keys_are_left_out_at_every_level(self) -> None:
        message = convert(unknown=1, retry_count=5, workflowTask={"unknown": {}, "defaultCase": [{"unknown": "x"}]})
        assert message.retry_count == 0
        assert message.workflow_task.default_case == [WorkflowTask(type="SIMPLE", retry_count=-1)]

    @pytest.mark.parametrize("document", [b"", b"[]", b"1", b"null", b'"x"', b"{", b"{}{}", b'{"status":NaN}', b"\xff"])
    def test_what_is_no_document_is_not_a_matter_of_representation(self, document: bytes) -> None:
        with pytest.raises(DocumentError):
            task_from_document(document)

    @pytest.mark.parametrize("key", ["outputData", "unknown"])
    def test_nesting_beyond_the_limit_for_documents(self, key: str) -> None:
        text = "[" * MAX_NESTING + "]" * MAX_NESTING
        with pytest.raises(DocumentError):
            task_from_document(f'{{"status":"FAILED","{key}":{text}}}'.encode())

    def test_invalid_utf8_anywhere(self) -> None:
        with pytest.raises(DocumentError):
            task_from_document(b'{"status":"FAILED","unknown":"\xff"}')


def objects(depth: int, innermost: Any) -> Any:
    return {"k": objects(depth - 1, innermost)} if depth else innermost


def lists(depth: int, innermost: Any) -> Any:
    return [lists(depth - 1, innermost)] if depth else innermost


def cases(depth: int, innermost: Any) -> Any:
    return {"decisionCases": {"k": [cases(depth - 1, innermost)]}} if depth else innermost


def forks(depth: int, innermost: Any) -> Any:
    return {"forkTasks": [[forks(depth - 1, innermost)]]} if depth else innermost


def loops(depth: int, innermost: Any) -> Any:
    return {"loopOver": [loops(depth - 1, innermost)]} if depth else innermost


# Where the limit is, by what nests and what is innermost: (place, what nests, innermost, how many levels are accepted).
DEEPEST: list[tuple[str, Any, Any, int]] = [
    ("outputData", objects, None, 33),
    ("outputData", objects, {}, 33),
    ("outputData", lambda depth, innermost: {"k": lists(depth, innermost)}, 1, 48),
    ("outputData", lambda depth, innermost: {"k": lists(depth, innermost)}, [], 48),
    ("outputData", lambda depth, innermost: {"k": lists(depth, innermost)}, {}, 48),
    ("outputData", lambda depth, innermost: {"k": lists(depth, innermost)}, {"a": 1}, 47),
    ("workflowTask", loops, {}, 98),
    ("workflowTask", loops, {"inputParameters": {"a": 1}}, 96),
    ("workflowTask", loops, {"taskDefinition": {}}, 97),
    ("workflowTask", loops, {"subWorkflowParam": {"taskToDomain": {"a": "b"}}}, 96),
    ("workflowTask", loops, {"subWorkflowParam": {"taskToDomain": {}}}, 97),
    ("workflowTask", loops, {"subWorkflowParam": {"priority": 1}}, 96),
    ("workflowTask", loops, {"forkTasks": [[]]}, 97),
    ("workflowTask", loops, {"decisionCases": {"a": []}}, 96),
    ("workflowTask", forks, {}, 49),
    ("workflowTask", cases, {}, 32),
]


class TestNesting:
    @pytest.mark.parametrize(("place", "nest", "innermost", "levels"), DEEPEST)
    def test_the_deepest_that_parsers_accept_is_accepted_and_nothing_deeper(
        self, place: str, nest: Any, innermost: Any, levels: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is refused would indeed not be parsed: made at the end with the limit out of the way."""
        message = convert({place: nest(levels, innermost)})
        assert GetTaskResponse.FromString(response(message)).task == message
        assert "nested beyond" in refusal(compact({"status": "FAILED", place: nest(levels + 1, innermost)})).message
        for module in ("taskgate.documents.task_message", "taskgate.documents.value_message"):
            monkeypatch.setattr(f"{module}.MAX_LEVEL", 1000)
        message = convert({place: nest(levels + 1, innermost)})
        with pytest.raises(DecodeError):
            GetTaskResponse.FromString(response(message))

    def test_the_path_of_a_deep_value_is_cut(self) -> None:
        error = refusal(compact({"status": "FAILED", "outputData": objects(40, None)}))
        assert error.metadata["path"].startswith("outputData.k.k.k.")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KNOWN_KEYS = sorted({key for document in DOCUMENTS_BY_MESSAGE.values() for key in document})
odd_values = st.recursive(
    json_values | st.sampled_from(["COMPLETED", "ASYNC", "RETRY", 2**31, 1.5, "\ud800", "AA=="]),
    lambda inner: st.dictionaries(st.sampled_from(KNOWN_KEYS), inner, max_size=6) | st.lists(inner, max_size=3),
    max_leaves=20,
)


def as_doubles(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_doubles(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_doubles(item) for item in value]
    return float(value) if type(value) is int else value


class TestProperties:
    @given(st.dictionaries(st.text(), json_values, max_size=5))
    def test_any_payload_arrives_with_its_numbers_as_doubles(self, data: dict[str, Any]) -> None:
        message = convert(inputData=data)
        assert {key: plain_value(message.input_data[key]) for key in message.input_data} == as_doubles(data)

    @given(st.dictionaries(st.sampled_from(KNOWN_KEYS), odd_values))
    def test_any_object_is_parseable_or_refused(self, changes: dict[str, Any]) -> None:
        document = json.dumps({"status": "COMPLETED"} | changes).encode()
        with contextlib.suppress(TaskNotRepresentable):
            message = task_from_document(document)
            assert GetTaskResponse.FromString(response(message)).task == message

    @given(st.binary())
    def test_any_bytes_are_converted_or_refused(self, document: bytes) -> None:
        with pytest.raises((DocumentError, TaskNotRepresentable)):
            task_from_document(document)


def error_reason_comments() -> dict[str, str]:
    """The comment above each value of ErrorReason."""
    lines = (PROTOS / "error_reason.proto").read_text(encoding="utf-8").splitlines()
    comments: dict[str, str] = {}
    comment: list[str] = []
    for line in map(str.strip, lines):
        if line.startswith("//"):
            comment.append(line[3:])
        elif found := re.match(r"(ERROR_REASON_\w+) = \d+;", line):
            comments[found[1]] = "\n".join(comment)
            comment = []
        else:
            comment = []
    return comments


class TestErrorReasons:
    def test_the_enum_has_exactly_the_reasons_that_are_raised(self) -> None:
        raised = {status.reason for status in STATUS_OF.values()}
        assert set(ErrorReason.keys()) == raised | {"ERROR_REASON_UNSPECIFIED"}
        assert len(raised) == len(STATUS_OF)

    def test_every_raised_code_is_a_grpc_code(self) -> None:
        assert {status.grpc_code for status in STATUS_OF.values()} <= set(code_pb2.Code.keys())

    @pytest.mark.parametrize("status", STATUS_OF.values(), ids=lambda status: status.reason)
    def test_the_comment_gives_code_status_and_retry_as_the_table_has_them(self, status: Any) -> None:
        advice = "retry" if status.retryable else "do not retry"
        line = f"{status.grpc_code} · {status.http_status} · {advice}"
        assert re.search(rf"^{line}\b", error_reason_comments()[status.reason], re.MULTILINE)

    @pytest.mark.parametrize("status", STATUS_OF.values(), ids=lambda status: status.reason)
    def test_the_comment_has_a_valid_example(self, status: Any) -> None:
        comment = error_reason_comments()[status.reason]
        example = "\n".join(line for line in comment.splitlines() if line.startswith("    "))
        info = json_format.Parse(example, ErrorInfo())
        assert (info.reason, info.domain) == (status.reason, ERROR_DOMAIN)
        assert list(json.loads(example)) == ["reason", "domain", "metadata"]

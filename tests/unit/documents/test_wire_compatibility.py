"""Bytes of ``taskgate.v1`` read by Conductor's messages, and the reverse.

Conductor's messages are built here from its own protos (``model/task.proto``, ``workflowtask.proto``,
``taskdef.proto``), in a descriptor pool of their own: nothing of our protos goes into them.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import any_pb2, descriptor_pb2, json_format, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from support.documents import DOCUMENTED, compact
from support.full_task import FULL_TASK, REST_ONLY, plain
from taskgate.documents.task_message import task_from_document
from taskgate.service.endpoints import TYPES
from taskgate.transports.descriptors import descriptors
from taskgate.v1.task_definition_pb2 import TaskDef
from taskgate.v1.task_pb2 import ExecutionMetadata, Task
from taskgate.v1.task_service_pb2 import GetTaskRequest, GetTaskResponse
from taskgate.v1.workflow_task_pb2 import CacheConfig, SubWorkflowParams, WorkflowTask

OURS: dict[str, Any] = {
    "Task": Task,
    "ExecutionMetadata": ExecutionMetadata,
    "WorkflowTask": WorkflowTask,
    "WorkflowTask.WorkflowTaskList": WorkflowTask.WorkflowTaskList,
    "SubWorkflowParams": SubWorkflowParams,
    "CacheConfig": CacheConfig,
    "TaskDef": TaskDef,
    "GetTaskRequest": GetTaskRequest,
    "GetTaskResponse": GetTaskResponse,
}

ENUMS = {
    "Task.Status": "IN_PROGRESS CANCELED FAILED FAILED_WITH_TERMINAL_ERROR COMPLETED COMPLETED_WITH_ERRORS SCHEDULED"
    " TIMED_OUT SKIPPED",
    "WorkflowTask.JoinMode": "SYNC ASYNC",
    "TaskDef.TimeoutPolicy": "RETRY TIME_OUT_WF ALERT_ONLY",
    "TaskDef.RetryLogic": "FIXED EXPONENTIAL_BACKOFF LINEAR_BACKOFF",
}
"""Value names, numbered from 0."""

MESSAGES = {
    "Task": """
        string task_type=1; Task.Status status=2; map<Value> input_data=3; string reference_task_name=4;
        int32 retry_count=5; int32 seq=6; string correlation_id=7; int32 poll_count=8; string task_def_name=9;
        int64 scheduled_time=10; int64 start_time=11; int64 end_time=12; int64 update_time=13;
        int32 start_delay_in_seconds=14; string retried_task_id=15; bool retried=16; bool executed=17;
        bool callback_from_worker=18; int64 response_timeout_seconds=19; string workflow_instance_id=20;
        string workflow_type=21; string task_id=22; string reason_for_incompletion=23; int64 callback_after_seconds=24;
        string worker_id=25; map<Value> output_data=26; WorkflowTask workflow_task=27; string domain=28;
        Any input_message=29; Any output_message=30; int32 rate_limit_per_frequency=32;
        int32 rate_limit_frequency_in_seconds=33; string external_input_payload_storage_path=34;
        string external_output_payload_storage_path=35; int32 workflow_priority=36; string execution_name_space=37;
        string isolation_group_id=38; int32 iteration=40; string sub_workflow_id=41; bool subworkflow_changed=42;
        int64 first_start_time=43; ExecutionMetadata execution_metadata=44; string parent_task_id=45;
        map<string> runtime_metadata=46
    """,
    "ExecutionMetadata": """
        int64 server_send_time=1; int64 client_receive_time=2; int64 execution_start_time=3;
        int64 execution_end_time=4; int64 client_send_time=5; int64 poll_network_latency=6;
        int64 update_network_latency=7; map<Value> additional_context=8
    """,
    "WorkflowTask": """
        string name=1; string task_reference_name=2; string description=3; map<Value> input_parameters=4; string type=5;
        string dynamic_task_name_param=6; string case_value_param=7; string case_expression=8;
        map<WorkflowTask.WorkflowTaskList> decision_cases=9; string dynamic_fork_tasks_param=10;
        string dynamic_fork_tasks_input_param_name=11; repeated WorkflowTask default_case=12;
        repeated WorkflowTask.WorkflowTaskList fork_tasks=13; int32 start_delay=14;
        SubWorkflowParams sub_workflow_param=15; repeated string join_on=16; string sink=17; bool optional=18;
        TaskDef task_definition=19; bool rate_limited=20; repeated string default_exclusive_join_task=21;
        string script_expression=22; bool async_complete=23; string loop_condition=24;
        repeated WorkflowTask loop_over=25; int32 retry_count=26; string evaluator_type=27; string expression=28;
        string join_status=30;
        CacheConfig cache_config=31; bool permissive=32; string items=33; WorkflowTask.JoinMode join_mode=34;
        map<Value> metadata=35
    """,
    "WorkflowTask.WorkflowTaskList": "repeated WorkflowTask tasks=1",
    "SubWorkflowParams": """
        string name=1; int32 version=2; map<string> task_to_domain=3; Value workflow_definition=4
    """,
    "CacheConfig": "string key=1; int32 ttl_in_second=2",
    "TaskDef": """
        string name=1; string description=2; int32 retry_count=3; int64 timeout_seconds=4; repeated string input_keys=5;
        repeated string output_keys=6; TaskDef.TimeoutPolicy timeout_policy=7; TaskDef.RetryLogic retry_logic=8;
        int32 retry_delay_seconds=9; int64 response_timeout_seconds=10; int32 concurrent_exec_limit=11;
        map<Value> input_template=12; int32 rate_limit_per_frequency=14; int32 rate_limit_frequency_in_seconds=15;
        string isolation_group_id=16; string execution_name_space=17; string owner_email=18;
        int32 poll_timeout_seconds=19; int32 backoff_scale_factor=20; string base_type=21;
        int64 total_timeout_seconds=22; bool task_status_listener_enabled=23; int32 max_retry_delay_seconds=24;
        int32 backoff_jitter_ms=25
    """,
    "GetTaskRequest": "string task_id=1",
    "GetTaskResponse": "Task task=1",
}
"""``type name=number``; every map has string keys. The two of the service belong to another package of Conductor's,
which the wire does not show."""

PACKAGE = ".conductor.proto"
Proto = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "string": Proto.TYPE_STRING,
    "int32": Proto.TYPE_INT32,
    "int64": Proto.TYPE_INT64,
    "bool": Proto.TYPE_BOOL,
}


def conductor_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="conductor.proto",
        package=PACKAGE[1:],
        syntax="proto3",
        dependency=["google/protobuf/struct.proto", "google/protobuf/any.proto"],
    )
    by_name: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name, fields in MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        message = by_name[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=inner)
        by_name[name] = message
        for field in fields.split(";"):
            add_field(message, f"{PACKAGE}.{name}", *field.split())
    for name, values in ENUMS.items():
        outer, _, inner = name.rpartition(".")
        enum = by_name[outer].enum_type.add(name=inner)
        for number, value in enumerate(values.split()):
            enum.value.add(name=value, number=number)
    return file


def add_field(message: descriptor_pb2.DescriptorProto, full_name: str, *words: str) -> None:
    *labels, kind, assignment = words
    name, number = assignment.split("=")
    field = message.field.add(name=name, number=int(number), label=Proto.LABEL_OPTIONAL)
    if labels:
        field.label = Proto.LABEL_REPEATED
    if kind.startswith("map<"):
        entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=Proto.LABEL_OPTIONAL, type=Proto.TYPE_STRING)
        set_type(entry.field.add(name="value", number=2, label=Proto.LABEL_OPTIONAL), kind[4:-1])
        field.label = Proto.LABEL_REPEATED
        field.type = Proto.TYPE_MESSAGE
        field.type_name = f"{full_name}.{entry.name}"
    else:
        set_type(field, kind)


def set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    if kind in SCALARS:
        field.type = SCALARS[kind]
    elif kind in ("Value", "Any"):
        field.type, field.type_name = Proto.TYPE_MESSAGE, f".google.protobuf.{kind}"
    else:
        field.type = Proto.TYPE_ENUM if kind in ENUMS else Proto.TYPE_MESSAGE
        field.type_name = f"{PACKAGE}.{kind}"


def conductor_pool() -> DescriptorPool:
    pool = DescriptorPool()
    for google in (struct_pb2, any_pb2):
        pool.AddSerializedFile(google.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(conductor_file().SerializeToString())
    return pool


POOL = conductor_pool()


def descriptor(name: str) -> Descriptor:
    return POOL.FindMessageTypeByName(f"{PACKAGE[1:]}.{name}")


ConductorTask: Any = GetMessageClass(descriptor("Task"))
ConductorResponse: Any = GetMessageClass(descriptor("GetTaskResponse"))


def without_rest_only(value: Any, message: str = "Task") -> Any:
    """The document without the keys that Conductor's protos have no field for."""
    held = {
        "workflowTask": "WorkflowTask",
        "taskDefinition": "TaskDef",
        "executionMetadata": "ExecutionMetadata",
        "subWorkflowParam": "SubWorkflowParams",
    }
    kept = {key: item for key, item in value.items() if key not in REST_ONLY[message]}
    return {key: without_rest_only(item, held[key]) if key in held else item for key, item in kept.items()}


CONDUCTORS_PART = without_rest_only(FULL_TASK)


def as_proto_json(value: Any) -> Any:
    """REST's JSON as protobuf's: lists where protobuf allows none get their wrapper back."""
    if not isinstance(value, dict):
        return [as_proto_json(item) for item in value] if isinstance(value, list) else value
    changed = {key: as_proto_json(item) for key, item in value.items()}
    if "decisionCases" in changed:
        changed["decisionCases"] = {key: {"tasks": tasks} for key, tasks in changed["decisionCases"].items()}
    if "forkTasks" in changed:
        changed["forkTasks"] = [{"tasks": tasks} for tasks in changed["forkTasks"]]
    return changed


def conductor_task(document: dict[str, Any]) -> Any:
    """Conductor's own message for a document, made without any code of ours."""
    document = as_proto_json(document)
    messages = {field: document.pop(field, None) for field in ("inputMessage", "outputMessage")}
    task = json_format.ParseDict(document, ConductorTask())
    for field, any_json in messages.items():  # Conductor's JSON for Any is not protobuf's
        if any_json:
            target = getattr(task, descriptor("Task").fields_by_camelcase_name[field].name)
            target.type_url, target.value = any_json["@type"], base64.b64decode(any_json["@value"])
    return task


def unknown_numbers(message: Any) -> Iterator[int]:
    """The numbers of fields that are in the bytes and not in the schema, at every level of Conductor's messages."""
    unknown: Any = UnknownFieldSet(message)  # its stub does not know that it can be iterated
    yield from (field.field_number for field in unknown)
    for field, value in message.ListFields():
        if field.message_type is None or not field.message_type.full_name.startswith(PACKAGE[1:]):
            continue
        if field.message_type.GetOptions().map_entry:
            held = [value[key] for key in value if field.message_type.fields_by_name["value"].message_type]
        else:
            held = list(value) if field.is_repeated else [value]
        for item in held:
            yield from unknown_numbers(item)


def type_name(field: FieldDescriptor) -> str:
    """The message or enum that the field holds, without its package; empty for scalars."""
    held = field.message_type or field.enum_type
    return "" if held is None else held.full_name.removeprefix(f"{held.file.package}.")


class TestSchema:
    @pytest.mark.parametrize("name", MESSAGES)
    def test_every_field_of_conductors_is_ours_with_its_number_type_and_names(self, name: str) -> None:
        ours = {field.number: field for field in OURS[name].DESCRIPTOR.fields}
        for theirs in descriptor(name).fields:
            field = ours[theirs.number]
            assert (field.name, field.json_name) == (theirs.name, theirs.json_name)
            assert (field.type, field.is_repeated) == (theirs.type, theirs.is_repeated)
            assert type_name(field) == type_name(theirs)

    @pytest.mark.parametrize("name", MESSAGES)
    def test_below_1000_we_have_no_other(self, name: str) -> None:
        numbers = {field.number for field in OURS[name].DESCRIPTOR.fields if field.number < 1000}
        assert numbers == {field.number for field in descriptor(name).fields}

    @pytest.mark.parametrize("name", ENUMS)
    def test_enum_values_have_conductors_names_and_numbers(self, name: str) -> None:
        outer, _, inner = name.partition(".")
        ours = OURS[outer].DESCRIPTOR.enum_types_by_name[inner].values
        assert {value.name: value.number for value in ours} == {
            value: number for number, value in enumerate(ENUMS[name].split())
        }

    def test_numbers_that_conductor_withdrew_stay_free(self) -> None:
        for message, numbers in ((Task, (31, 39)), (WorkflowTask, (29,)), (TaskDef, (13,))):
            proto = descriptor_pb2.DescriptorProto()
            message.DESCRIPTOR.CopyToProto(proto)
            assert {number for area in proto.reserved_range for number in range(area.start, area.end)} == set(numbers)


class TestReflectedSchema:
    """Reflection describes Conductor's service and messages as Conductor's protos do."""

    def test_its_messages_have_conductors_fields_and_no_others(self) -> None:
        for name in MESSAGES:
            package = "conductor.grpc.tasks" if name.startswith("GetTask") else "conductor.proto"
            reflected = descriptors().FindMessageTypeByName(f"{package}.{name}")
            assert {shape(field) for field in reflected.fields} == {shape(field) for field in descriptor(name).fields}
            assert not reflected.oneofs
            assert {enum.full_name for enum in reflected.enum_types} == {
                f"{package}.{enum}" for enum in ENUMS if enum.rpartition(".")[0] == name
            }

    def test_its_service_is_the_one_that_is_served(self) -> None:
        service = descriptors().FindServiceByName("conductor.grpc.tasks.TaskService")
        served = [path.rpartition("/")[2] for path in TYPES if path.startswith(f"/{service.full_name}/")]
        assert [method.name for method in service.methods] == served
        (method,) = service.methods
        assert method.input_type.full_name == "conductor.grpc.tasks.GetTaskRequest"
        assert method.output_type.full_name == "conductor.grpc.tasks.GetTaskResponse"


def shape(field: FieldDescriptor) -> tuple[Any, ...]:
    """All that the wire and the names of generated code depend on."""
    values = [(value.name, value.number) for value in field.enum_type.values] if field.enum_type else []
    kind = (type_name(field), field.type, field.is_repeated, field.has_presence)
    return field.name, field.json_name, field.number, *kind, *values


class TestOurBytesInConductorsMessages:
    def test_every_value_is_found(self) -> None:
        theirs = ConductorTask.FromString(task_from_document(compact(FULL_TASK)).SerializeToString())
        assert plain(theirs) == CONDUCTORS_PART

    def test_the_test_leaves_no_field_of_conductors_out(self) -> None:
        theirs = ConductorTask.FromString(task_from_document(compact(FULL_TASK)).SerializeToString())
        step = theirs.workflow_task
        for message in (theirs, theirs.execution_metadata, step, step.sub_workflow_param, step.cache_config):
            assert len(message.ListFields()) == len(message.DESCRIPTOR.fields)
        assert len(step.task_definition.ListFields()) == len(step.task_definition.DESCRIPTOR.fields)

    def test_only_rest_only_fields_are_unknown_to_conductor(self) -> None:
        theirs = ConductorTask.FromString(task_from_document(compact(FULL_TASK)).SerializeToString())
        unknown = list(unknown_numbers(theirs))
        assert len(unknown) >= sum(map(len, REST_ONLY.values()))
        assert min(unknown) >= 1000

    def test_the_documented_task(self) -> None:
        document = json.loads(DOCUMENTED)
        ours = task_from_document(DOCUMENTED)
        theirs = ConductorResponse.FromString(GetTaskResponse(task=ours).SerializeToString()).task
        for field in descriptor("Task").fields:
            if field.message_type is None:
                value = getattr(theirs, field.name)
                shown = field.enum_type.values_by_number[value].name if field.enum_type else value
                assert shown == document.get(field.json_name, field.default_value), field.json_name
        assert plain(theirs)["inputData"] == document["inputData"]
        assert plain(theirs)["outputData"] == document["outputData"]
        assert theirs.workflow_task.retry_count == -1

    def test_presence_costs_conductors_stubs_nothing(self) -> None:
        """An empty string that is present reads as Conductor would have sent it: empty."""
        ours = task_from_document(
            b'{"status":"FAILED","taskType":"","domain":null,"workflowTask":{"rateLimited":false}}'
        )
        theirs = ConductorTask.FromString(ours.SerializeToString())
        assert (theirs.task_type, theirs.domain, theirs.workflow_task.rate_limited) == ("", "", False)


class TestConductorsBytesInOurMessages:
    def test_every_value_is_found(self) -> None:
        ours = Task.FromString(conductor_task(CONDUCTORS_PART).SerializeToString())
        assert plain(ours) == CONDUCTORS_PART

    def test_they_are_what_we_make_of_the_same_document(self) -> None:
        """Compared after a pass through Conductor's message, which keeps no presence of empty values."""
        theirs = conductor_task(CONDUCTORS_PART)
        ours = ConductorTask.FromString(task_from_document(compact(CONDUCTORS_PART)).SerializeToString())
        assert ours == theirs

    def test_requests_go_both_ways(self) -> None:
        conductor_request: Any = GetMessageClass(descriptor("GetTaskRequest"))
        assert GetTaskRequest.FromString(conductor_request(task_id="a").SerializeToString()).task_id == "a"
        assert conductor_request.FromString(GetTaskRequest(task_id="a").SerializeToString()).task_id == "a"

    def test_responses_hold_the_task(self) -> None:
        theirs = ConductorResponse(task=conductor_task(CONDUCTORS_PART)).SerializeToString()
        assert plain(GetTaskResponse.FromString(theirs).task) == CONDUCTORS_PART

"""Conductor's gRPC stub for GetTask as an existing client has it, without our protos.

Names, numbers and types are Conductor's (``grpc/task_service.proto``, ``model/task.proto``). They have a descriptor
pool of their own, so that one process can use both stubs. The stub knows some fields of every kind of
``conductor.proto.Task`` and ignores all others, as any protobuf client does.
"""

from typing import Any

import grpc
from google.protobuf import descriptor_pb2, struct_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

Proto = descriptor_pb2.FieldDescriptorProto

_STATUSES = (
    *("IN_PROGRESS", "CANCELED", "FAILED", "FAILED_WITH_TERMINAL_ERROR", "COMPLETED"),
    *("COMPLETED_WITH_ERRORS", "SCHEDULED", "TIMED_OUT", "SKIPPED"),
)
_STRINGS = {
    "task_type": 1,
    "reference_task_name": 4,
    "task_def_name": 9,
    "workflow_instance_id": 20,
    "task_id": 22,
    "worker_id": 25,
}
_INT64S = {"scheduled_time": 10, "start_time": 11, "end_time": 12, "update_time": 13}
_MAPS = {"input_data": 3, "output_data": 26}
_WORKFLOW_TASK = {"name": 1, "task_reference_name": 2}


def _models() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="model/task.proto",
        package="conductor.proto",
        syntax="proto3",
        dependency=["google/protobuf/struct.proto"],
    )
    task = file.message_type.add(name="Task")
    status = task.enum_type.add(name="Status")
    for number, name in enumerate(_STATUSES):
        status.value.add(name=name, number=number)
    _add(task, "status", 2, Proto.TYPE_ENUM, ".conductor.proto.Task.Status")
    _add(task, "workflow_task", 27, Proto.TYPE_MESSAGE, ".conductor.proto.WorkflowTask")
    for name, number in _STRINGS.items():
        _add(task, name, number, Proto.TYPE_STRING)
    for name, number in _INT64S.items():
        _add(task, name, number, Proto.TYPE_INT64)
    for name, number in _MAPS.items():
        _add_map(task, name, number)
    workflow_task = file.message_type.add(name="WorkflowTask")
    for name, number in _WORKFLOW_TASK.items():
        _add(workflow_task, name, number, Proto.TYPE_STRING)
    return file


def _service() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="grpc/task_service.proto",
        package="conductor.grpc.tasks",
        syntax="proto3",
        dependency=["model/task.proto"],
    )
    _add(file.message_type.add(name="GetTaskRequest"), "task_id", 1, Proto.TYPE_STRING)
    _add(file.message_type.add(name="GetTaskResponse"), "task", 1, Proto.TYPE_MESSAGE, ".conductor.proto.Task")
    return file


def _add(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: Any, type_name: str | None = None
) -> None:
    message.field.add(name=name, number=number, type=kind, type_name=type_name, label=Proto.LABEL_OPTIONAL)


def _add_map(message: descriptor_pb2.DescriptorProto, name: str, number: int) -> None:
    """Add a ``map<string, google.protobuf.Value>``, which protobuf represents as a list of entries."""
    entry = message.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
    entry.options.map_entry = True
    _add(entry, "key", 1, Proto.TYPE_STRING)
    _add(entry, "value", 2, Proto.TYPE_MESSAGE, ".google.protobuf.Value")
    type_name = f".conductor.proto.{message.name}.{entry.name}"
    message.field.add(
        name=name, number=number, type=Proto.TYPE_MESSAGE, type_name=type_name, label=Proto.LABEL_REPEATED
    )


_POOL = DescriptorPool()
_POOL.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
_POOL.Add(_models())
_POOL.Add(_service())


def conductor_get_task(channel: grpc.Channel, task_id: str) -> Any:
    """Get a ``conductor.proto.Task`` by ID, as Conductor's generated stub does."""
    request: Any = GetMessageClass(_POOL.FindMessageTypeByName("conductor.grpc.tasks.GetTaskRequest"))
    response: Any = GetMessageClass(_POOL.FindMessageTypeByName("conductor.grpc.tasks.GetTaskResponse"))
    call = channel.unary_unary(
        "/conductor.grpc.tasks.TaskService/GetTask",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    return call(request(task_id=task_id), timeout=10).task

"""Collect what reflection describes: the files of every service, of Conductor's too.

Conductor's schema is derived from ours, which has Conductor's fields under their own names, numbers and types, and
others from 1000 up. So the two cannot differ. It is no part of the published protos: a program that has Conductor's own
stubs could not load the same names a second time.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from taskgate.service.endpoints import CONDUCTOR_SERVICE
from taskgate.v1 import error_reason_pb2, task_service_pb2, token_service_pb2
from taskgate.v1.task_definition_pb2 import TaskDef
from taskgate.v1.task_pb2 import ExecutionMetadata, Task
from taskgate.v1.task_service_pb2 import GetTaskRequest, GetTaskResponse
from taskgate.v1.workflow_task_pb2 import CacheConfig, SubWorkflowParams, WorkflowTask

_OURS = Task.DESCRIPTOR.file.package
_MODEL = "conductor.proto"
"""Conductor's package for all messages but those of the service itself."""

_FILES: Mapping[str, Descriptor] = {
    "model/cacheconfig.proto": CacheConfig.DESCRIPTOR,
    "model/executionmetadata.proto": ExecutionMetadata.DESCRIPTOR,
    "model/subworkflowparams.proto": SubWorkflowParams.DESCRIPTOR,
    "model/taskdef.proto": TaskDef.DESCRIPTOR,
    "model/workflowtask.proto": WorkflowTask.DESCRIPTOR,
    "model/task.proto": Task.DESCRIPTOR,
}
"""Conductor's files and the message in each, after those that it imports."""

_SERVICE_FILE = "grpc/task_service.proto"

_WHERE = {f".{_MODEL}.{message.name}": file for file, message in _FILES.items()} | {
    ".google.protobuf.Any": "google/protobuf/any.proto",
    ".google.protobuf.Value": "google/protobuf/struct.proto",
}
"""Files by the messages that others use."""

_DESCRIBED = (
    *(task_service_pb2, token_service_pb2, health_pb2, reflection_pb2),
    *(
        error_details_pb2,
        error_reason_pb2,
    ),  # tools look up ErrorInfo to show an error's details, and people its reasons
)

_REST_ONLY_FROM = 1000
"""The first number of the fields that Conductor has in its REST documents only."""


class DescribedPool:
    """A DescriptorPool that also finds the file of a method, which protobuf's own does not."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - protobuf's name
        """Raises KeyError for an unknown symbol."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file


@cache
def descriptors() -> DescribedPool:
    """Return a pool of all files that tools may ask for."""
    pool = DescriptorPool()
    files: dict[str, FileDescriptorProto] = {}
    for module in _DESCRIBED:
        files.update(_with_imports(module.DESCRIPTOR))
    for file in (*files.values(), _reflection_v1(), *conductor_files()):
        pool.AddSerializedFile(file.SerializeToString())
    return DescribedPool(pool)


def conductor_files() -> Iterator[FileDescriptorProto]:
    """Yield the files of Conductor's service, each after its imports: ``GetTask``, and the messages that it needs."""
    for name, message in _FILES.items():
        yield _file(name, _MODEL, [_conductors(message)])
    package, _, service = CONDUCTOR_SERVICE.rpartition(".")
    messages = [_conductors(message.DESCRIPTOR) for message in (GetTaskRequest, GetTaskResponse)]
    file = _file(_SERVICE_FILE, package, messages)
    request, response = (f".{package}.{message.name}" for message in messages)
    file.service.add(name=service).method.add(name="GetTask", input_type=request, output_type=response)
    yield file


def _conductors(ours: Descriptor) -> DescriptorProto:
    """Return Conductor's message of the same name."""
    message = DescriptorProto()
    ours.CopyToProto(message)
    _make_conductors(message)
    return message


def _make_conductors(message: DescriptorProto) -> None:
    """Remove what Conductor's protos do not have: fields of REST only, the presence of scalars, options."""
    kept = [field for field in message.field if field.number < _REST_ONLY_FROM]
    fields = [
        FieldDescriptorProto(
            name=field.name,
            number=field.number,
            label=field.label,
            type=field.type,
            type_name=field.type_name.replace(f".{_OURS}.", f".{_MODEL}.") or None,
            json_name=field.json_name,
        )
        for field in kept
    ]
    used = {field.type_name.rpartition(".")[2] for field in fields}
    nested = [held for held in message.nested_type if held.name in used]
    for held in nested:
        _make_conductors(held)
    enums = [held for held in message.enum_type if held.name in used]
    reduced = DescriptorProto(name=message.name, field=fields, nested_type=nested, enum_type=enums)
    if message.options.map_entry:
        reduced.options.map_entry = True
    message.CopyFrom(reduced)


def _file(name: str, package: str, messages: Sequence[DescriptorProto]) -> FileDescriptorProto:
    """Make a file; its imports follow from the types of the fields."""
    used = set(_types_in(messages))
    imports = {file for held, file in _WHERE.items() if any(f"{kind}.".startswith(f"{held}.") for kind in used)}
    return FileDescriptorProto(
        name=name, package=package, syntax="proto3", message_type=messages, dependency=sorted(imports - {name})
    )


def _types_in(messages: Sequence[DescriptorProto]) -> Iterator[str]:
    for message in messages:
        yield from (field.type_name for field in message.field)
        yield from _types_in(message.nested_type)


def _with_imports(file: FileDescriptor) -> Iterator[tuple[str, FileDescriptorProto]]:
    """Yield the name and the content of a file, after those of its imports."""
    for imported in file.dependencies:
        yield from _with_imports(imported)
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    yield file.name, proto


def _reflection_v1() -> FileDescriptorProto:
    """Return the file of ``grpc.reflection.v1``, which grpcio-reflection lacks: v1alpha's with another package."""
    older = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(older)
    older.options.ClearField("deprecated")
    renamed = text_format.MessageToString(older).replace("v1alpha", "v1")
    return text_format.Parse(renamed, FileDescriptorProto())

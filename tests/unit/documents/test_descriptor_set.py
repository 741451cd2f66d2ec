"""``gateway/taskgate.binpb``, from which Envoy learns the schema."""

from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from taskgate.v1 import error_reason_pb2, task_definition_pb2, task_pb2, task_service_pb2, workflow_task_pb2

DESCRIPTOR_SET = Path(__file__).resolve().parents[3] / "gateway/taskgate.binpb"


@pytest.fixture
def pool() -> DescriptorPool:
    """What the file holds and nothing else; adding fails where an import is missing or comes too late."""
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def test_it_knows_error_details(pool: DescriptorPool) -> None:
    """Without ErrorInfo, Envoy cannot turn the details of a gRPC error into JSON."""
    assert pool.FindMessageTypeByName("google.rpc.ErrorInfo").fields_by_name["reason"].number == 1


@pytest.mark.parametrize(
    "module",
    [error_reason_pb2, task_definition_pb2, task_pb2, task_service_pb2, workflow_task_pb2],
    ids=lambda module: module.DESCRIPTOR.name,
)
def test_it_and_the_stubs_are_of_one_schema(pool: DescriptorPool, module: object) -> None:
    ours = module.DESCRIPTOR  # type: ignore[attr-defined] # modules have no common type
    theirs = pool.FindFileByName(ours.name)
    assert set(theirs.message_types_by_name) == set(ours.message_types_by_name)
    for name, message in ours.message_types_by_name.items():
        fields = {field.number: (field.name, field.type) for field in theirs.message_types_by_name[name].fields}
        assert fields == {field.number: (field.name, field.type) for field in message.fields}


def test_only_stream_task_json_has_a_rest_form_and_it_is_conductors_path() -> None:
    service = task_service_pb2.DESCRIPTOR.services_by_name["TaskService"]
    bindings = {method.name: method.GetOptions().Extensions[annotations_pb2.http] for method in service.methods}
    assert bindings.keys() == {"GetTask", "GetTaskJson", "StreamTaskJson"}
    assert bindings["GetTask"].WhichOneof("pattern") is bindings["GetTaskJson"].WhichOneof("pattern") is None
    assert bindings["StreamTaskJson"].get == "/api/tasks/{task_id}"
    assert not bindings["StreamTaskJson"].additional_bindings

"""Server reflection: by raw requests, as Kreya and Postman make them, and by grpcurl."""

import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from queue import Queue
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from support.documents import DOCUMENTED_ID, UNKNOWN_ID
from tools.parts import GRPCURL

VERSIONS = ["v1", "v1alpha"]

TASKS = ["taskgate.v1.TaskService", "conductor.grpc.tasks.TaskService"]
SERVED = {
    *TASKS,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}

HTTP_OPTION = 72295728
"""The number of ``google.api.http``, which extends ``google.protobuf.MethodOptions``."""

Ask = Callable[..., ServerReflectionResponse]


@pytest.fixture
def channel(target: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target) as opened:
        yield opened


@pytest.fixture(params=VERSIONS)
def ask(request: pytest.FixtureRequest, channel: grpc.Channel) -> Iterator[Ask]:
    """Asks question after question on one stream, each when the answer to the one before has come.

    The messages of both versions are the same on the wire.
    """
    asked: Queue[bytes | None] = Queue()
    method: Any = channel.stream_stream(f"/grpc.reflection.{request.param}.ServerReflection/ServerReflectionInfo")
    answers = method(iter(asked.get, None), timeout=30)

    def answer(**question: Any) -> ServerReflectionResponse:
        asked.put(ServerReflectionRequest(**question).SerializeToString())
        response = ServerReflectionResponse.FromString(next(answers))
        assert response.original_request == ServerReflectionRequest(**question)
        return response

    yield answer
    asked.put(None)
    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK


def described(ask: Ask, symbol: str) -> DescriptorPool:
    """What a tool learns about a symbol: its file, then each import by name that it has not got yet."""
    answer = ask(file_containing_symbol=symbol).file_descriptor_response
    files = {file.name: file for file in map(FileDescriptorProto.FromString, answer.file_descriptor_proto)}
    pool = DescriptorPool()

    def add(name: str) -> None:
        if name not in files:
            found = ask(file_by_filename=name).file_descriptor_response.file_descriptor_proto
            files.update({file.name: file for file in map(FileDescriptorProto.FromString, found)})
        for dependency in files[name].dependency:
            add(dependency)
        pool.AddSerializedFile(files[name].SerializeToString())

    for name in list(files):
        add(name)
    return pool


class TestRawRequests:
    def test_every_service_is_listed_and_described_whole(self, ask: Ask) -> None:
        """With nothing but the answers, all messages of each service can be built; each service has a health name."""
        listed = {service.name for service in ask(list_services="*").list_services_response.service}
        assert listed == SERVED
        for name in listed:
            service = described(ask, name).FindServiceByName(name)
            assert service.methods
            for method in service.methods:
                assert GetMessageClass(method.input_type)
                assert GetMessageClass(method.output_type)

    @pytest.mark.parametrize("service", TASKS)
    def test_a_tool_that_knows_only_the_answers_can_call(self, ask: Ask, channel: grpc.Channel, service: str) -> None:
        pool = described(ask, service)
        method = pool.FindMethodByName(f"{service}.GetTask")
        request: Any = GetMessageClass(method.input_type)(task_id=DOCUMENTED_ID)
        call: Any = channel.unary_unary(f"/{service}/GetTask")
        answer: Any = GetMessageClass(method.output_type).FromString(call(request.SerializeToString(), timeout=20))
        assert answer.task.task_id == DOCUMENTED_ID
        assert (
            answer.task.DESCRIPTOR.enum_types_by_name["Status"].values_by_number[answer.task.status].name == "COMPLETED"
        )
        assert answer.task.DESCRIPTOR.full_name in {"taskgate.v1.Task", "conductor.proto.Task"}

    def test_symbols_files_and_extensions(self, ask: Ask) -> None:
        """A message, a method and an enum value lead to their file, like its name; what nobody knows is NOT_FOUND."""
        for symbol in ("taskgate.v1.Task", "taskgate.v1.TaskService.GetTask", "conductor.proto.Task.Status"):
            assert ask(file_containing_symbol=symbol).HasField("file_descriptor_response"), symbol
        (first, *_) = ask(file_by_filename="taskgate/v1/task.proto").file_descriptor_response.file_descriptor_proto
        assert b"taskgate.v1" in first
        numbers = ask(all_extension_numbers_of_type="google.protobuf.MethodOptions").all_extension_numbers_response
        assert numbers.base_type_name == "google.protobuf.MethodOptions"
        assert HTTP_OPTION in numbers.extension_number
        extension = {"containing_type": "google.protobuf.MethodOptions", "extension_number": HTTP_OPTION}
        assert ask(file_containing_extension=extension).HasField("file_descriptor_response")
        for question in (
            {"file_containing_symbol": "no.such.Thing"},
            {"file_by_filename": "no/such.proto"},
            {"all_extension_numbers_of_type": "no.such.Thing"},
            {"file_containing_extension": {**extension, "extension_number": 1}},
        ):
            assert ask(**question).error_response.error_code == code_pb2.NOT_FOUND

    def test_a_tool_that_falls_back_meets_the_same_services(self, channel: grpc.Channel) -> None:
        """Tools ask v1 first and v1alpha where that is UNIMPLEMENTED, as is a version that does not exist."""
        question = [ServerReflectionRequest(list_services="").SerializeToString()]
        answers = []
        for version in ("v2", *VERSIONS):
            method: Any = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
            call = method(iter(question), timeout=20)
            if version == "v2":
                with pytest.raises(grpc.RpcError):
                    list(call)
                assert call.code() is grpc.StatusCode.UNIMPLEMENTED
            else:
                answers.append(list(call))
        assert answers[0] == answers[1]
        assert len(answers[0]) == 1


def test_every_service_has_a_health(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", *SERVED):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20).status == 1, name
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=20)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined] # grpcio's errors are calls


@pytest.mark.needs("grpcurl")
@pytest.mark.parametrize("service", TASKS)
def test_grpcurl_lists_describes_and_calls(target: str, service: str) -> None:
    run = partial(subprocess.run, capture_output=True, text=True, timeout=60, check=False)

    def grpcurl(*arguments: str) -> str:
        done = run([GRPCURL, "-plaintext", *arguments])
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    assert set(grpcurl(target, "list").split()) == SERVED
    assert f"{service}.GetTask" in grpcurl(target, "list", service).split()
    for name in SERVED:
        assert f"{name} is a service" in grpcurl(target, "describe", name)
    message = "taskgate.v1.Task" if service.startswith("taskgate") else "conductor.proto.Task"
    assert "status = 2;" in grpcurl(target, "describe", message)
    ask = {"task_id": DOCUMENTED_ID}
    task = json.loads(grpcurl("-d", json.dumps(ask), target, f"{service}/GetTask"))["task"]
    assert (task["taskId"], task["status"]) == (DOCUMENTED_ID, "COMPLETED")
    failed = run([GRPCURL, "-plaintext", "-d", json.dumps({"task_id": UNKNOWN_ID}), target, f"{service}/GetTask"])
    assert failed.returncode
    assert "ERROR_REASON_TASK_NOT_FOUND" in failed.stderr, "the details are shown, as ErrorInfo is described too"

"""grpcio, the Python client: blocking and asyncio, every kind of call that the server answers."""

import asyncio
import gzip
import json
import random
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support.documents import DOCUMENTED, DOCUMENTED_COMPACT, DOCUMENTED_ID, UNKNOWN_ID
from support.running import System, running_system
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest, GetTaskRequest, GetTaskResponse

Metadata = Sequence[tuple[str, str | bytes]]

JSON = "/taskgate.v1.TaskService/GetTaskJson"
TYPED = "/taskgate.v1.TaskService/GetTask"
CONDUCTOR = "/conductor.grpc.tasks.TaskService/GetTask"
LARGE_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7f1"

ASK = GetTaskJsonRequest(task_id=DOCUMENTED_ID).SerializeToString()
LIMITS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", -1)]

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@dataclass
class Result:
    """How a call ended."""

    code: grpc.StatusCode
    details: str
    response: bytes | None
    initial: Metadata
    trailing: Metadata

    def trailer(self, name: str) -> list[str | bytes]:
        return [value for key, value in self.trailing if key == name]


Ask = Callable[..., Result]


def ask_blocking(target: str, path: str, request: bytes, *, options: Any = LIMITS, **call_options: Any) -> Result:
    """One call on a channel of its own."""
    with grpc.insecure_channel(target, options=options) as channel:
        method: Any = channel.unary_unary(path)
        response, code = None, grpc.StatusCode.OK
        future = method.future(request, **({"timeout": 20} | call_options))
        try:
            response = future.result()
        except grpc.RpcError:
            code = future.code()
        return Result(code, future.details() or "", response, future.initial_metadata(), future.trailing_metadata())


def ask_asyncio(target: str, path: str, request: bytes, *, options: Any = LIMITS, **call_options: Any) -> Result:
    """The same with grpc.aio."""

    async def ask() -> Result:
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            method: Any = channel.unary_unary(path)
            call = method(request, **({"timeout": 20} | call_options))
            response = None
            with suppress(grpc.aio.AioRpcError):
                response = await call
            return Result(
                await call.code(),
                await call.details() or "",
                response,
                tuple(await call.initial_metadata() or ()),
                tuple(await call.trailing_metadata() or ()),
            )

    return asyncio.run(ask())


@pytest.fixture(params=[ask_blocking, ask_asyncio], ids=["blocking", "asyncio"])
def ask(request: pytest.FixtureRequest, target: str) -> Ask:
    """One unary call, with either API."""

    def call(path: str, message: bytes, **options: Any) -> Result:
        result: Result = request.param(target, path, message, **options)
        return result

    return call


@pytest.fixture
def channel(target: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target, options=LIMITS) as opened:
        yield opened


def assert_document(result: Result) -> None:
    assert result.code is grpc.StatusCode.OK, result
    assert result.response is not None
    assert HttpBody.FromString(result.response).data == DOCUMENTED_COMPACT


def assert_too_late(stream: Any, route: str) -> None:
    """Envoy before grpcio resets a stream that has begun, which a client may take for INTERNAL if it is slower."""
    names = {"DEADLINE_EXCEEDED", *(["INTERNAL"] if route == "grpcio behind Envoy" else [])}
    assert stream.code().name in names


class TestUnary:
    def test_document(self, ask: Ask) -> None:
        assert_document(ask(JSON, ASK))

    @pytest.mark.parametrize("path", [TYPED, CONDUCTOR])
    def test_typed_task(self, ask: Ask, path: str) -> None:
        """Under our service's name and Conductor's."""
        result = ask(path, GetTaskRequest(task_id=DOCUMENTED_ID).SerializeToString())
        assert result.response is not None
        assert GetTaskResponse.FromString(result.response).task.task_id == DOCUMENTED_ID

    @pytest.mark.parametrize("path", ["/taskgate.v1.TaskService/Nope", "/no.such.Service/GetTask", "/", "/a/b/c"])
    def test_unknown_method_or_service_is_unimplemented(self, ask: Ask, path: str) -> None:
        assert ask(path, ASK).code is grpc.StatusCode.UNIMPLEMENTED

    def test_streaming_to_a_unary_method(self, channel: grpc.Channel, route: str) -> None:
        """A client that takes the method for a stream: one message is fine, none is not, a second may go unread."""
        method: Any = channel.stream_stream(JSON)
        (answer,) = list(method(iter([ASK]), timeout=20))
        assert HttpBody.FromString(answer).data == DOCUMENTED_COMPACT
        none = method(iter([]), timeout=20)
        with pytest.raises(grpc.RpcError):
            list(none)
        assert none.code() is grpc.StatusCode.UNIMPLEMENTED
        two = method(iter([ASK, ASK]), timeout=20)
        with suppress(grpc.RpcError):
            list(two)
        assert two.code().name in ({"OK", "UNIMPLEMENTED"} if route == "envoy" else {"OK"})

    def test_two_hundred_at_a_time_on_a_channel(self, channel: grpc.Channel) -> None:
        method: Any = channel.unary_unary(JSON)
        futures = [method.future(ASK, timeout=20) for _ in range(200)]
        assert {HttpBody.FromString(future.result()).data for future in futures} == {DOCUMENTED_COMPACT}

    def test_two_hundred_at_a_time_from_threads(self, channel: grpc.Channel) -> None:
        method: Any = channel.unary_unary(JSON)
        with ThreadPoolExecutor(50) as pool:
            answers = pool.map(lambda _: HttpBody.FromString(method(ASK, timeout=20)).data, range(200))
            assert set(answers) == {DOCUMENTED_COMPACT}

    async def test_two_hundred_at_a_time_with_asyncio(self, target: str) -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            method: Any = channel.unary_unary(JSON)
            answers = await asyncio.gather(*(method(ASK, timeout=20) for _ in range(200)))
        assert {HttpBody.FromString(answer).data for answer in answers} == {DOCUMENTED_COMPACT}


class TestErrors:
    @pytest.mark.parametrize(
        ("task_id", "code", "reason"),
        [
            (UNKNOWN_ID, grpc.StatusCode.NOT_FOUND, "ERROR_REASON_TASK_NOT_FOUND"),
            ("not a task: ä%\n", grpc.StatusCode.INVALID_ARGUMENT, "ERROR_REASON_INVALID_TASK_ID"),
        ],
    )
    def test_details_are_those_of_google_rpc(self, ask: Ask, task_id: str, code: grpc.StatusCode, reason: str) -> None:
        """``grpc-status-details-bin`` is a google.rpc.Status of the same code and message, with one ErrorInfo."""
        result = ask(JSON, GetTaskJsonRequest(task_id=task_id).SerializeToString())
        assert (result.code, result.response) == (code, None)
        (raw,) = result.trailer("grpc-status-details-bin")
        assert isinstance(raw, bytes)
        status = status_pb2.Status.FromString(raw)
        assert (status.code, status.message) == (code.value[0], result.details)
        info = error_details_pb2.ErrorInfo()
        (detail,) = status.details
        assert detail.Unpack(info)
        assert (info.domain, info.reason) == ("taskgate", reason)

    def test_message_of_other_alphabets_arrives_whole(self, ask: Ask) -> None:
        """Percent-encoded on the wire; the client shows what the server wrote."""
        details = ask(JSON, GetTaskJsonRequest(task_id="日本 %41 ü").SerializeToString()).details
        assert details.startswith("Invalid task ID ")
        assert "%41" in details

    def test_undecodable_request(self, ask: Ask) -> None:
        assert ask(JSON, b"\xff\xff\xff").code is grpc.StatusCode.INVALID_ARGUMENT


class TestMetadata:
    def test_request_id_comes_back(self, ask: Ask) -> None:
        result = ask(JSON, ASK, metadata=(("x-request-id", "caller:42"),))
        assert "caller:42" in {value for key, value in (*result.initial, *result.trailing) if key == "x-request-id"}

    def test_without_one_it_is_made(self, ask: Ask) -> None:
        result = ask(JSON, GetTaskJsonRequest(task_id=UNKNOWN_ID).SerializeToString())
        made = {value for key, value in (*result.initial, *result.trailing) if key == "x-request-id"}
        assert [len(value) for value in made] == [36]

    @pytest.mark.parametrize(
        "metadata",
        [
            (("x-own-bin", bytes(range(256))), ("x-own-bin", b""), ("x-own-bin", b"\xff")),
            (("x-own", "a"), ("x-own", "b"), ("x-own", "")),
            tuple((f"x-{number}", "value " * 10) for number in range(50)),
            (("x-long-bin", bytes(6_000)),),
            (("grpc-trace-bin", bytes(29)), ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
            (("authorization", "Bearer " + "x" * 4_000),),
        ],
        ids=["binary", "repeated", "many", "long", "tracing", "token"],
    )
    def test_any_metadata_is_taken(self, ask: Ask, metadata: Metadata) -> None:
        assert_document(ask(JSON, ASK, metadata=metadata))

    def test_more_metadata_than_is_taken_is_an_error_of_its_call(self, ask: Ask) -> None:
        """Envoy resets such a stream, grpcio answers RESOURCE_EXHAUSTED; neither hangs."""
        result = ask(JSON, ASK, metadata=(("x-long", "y" * 200_000),), timeout=20)
        assert result.code in {
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.UNKNOWN,
            grpc.StatusCode.UNAVAILABLE,
        }
        assert_document(ask(JSON, ASK))


class TestDeadline:
    def test_that_has_passed(self, ask: Ask) -> None:
        """Asked for what takes long: a client that notices late may have had a small answer."""
        request = GetTaskRequest(task_id=LARGE_ID).SerializeToString()
        assert ask(TYPED, request, timeout=0).code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert_document(ask(JSON, ASK))

    def test_that_is_far_away(self, ask: Ask) -> None:
        assert_document(ask(JSON, ASK, timeout=86_400 * 365))

    def test_none(self, ask: Ask) -> None:
        assert_document(ask(JSON, ASK, timeout=None))

    def test_ends_a_watch(self, channel: grpc.Channel, route: str) -> None:
        grpc.channel_ready_future(channel).result(20)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=1)
        began = time.monotonic()
        with pytest.raises(grpc.RpcError):
            list(watch)
        assert_too_late(watch, route)
        assert 0.8 < time.monotonic() - began < 10


class TestCompression:
    @pytest.mark.parametrize("algorithm", list(grpc.Compression))
    def test_request_of_any(self, ask: Ask, algorithm: grpc.Compression) -> None:
        assert_document(ask(JSON, ASK, compression=algorithm))

    def test_of_a_channel_and_a_large_request(self, channel: grpc.Channel) -> None:
        """64,000 characters of task ID, 100 bytes on the wire, are read and refused; 8 MB are not even unpacked."""
        method: Any = channel.unary_unary(JSON)
        for characters, code in (
            (64_000, grpc.StatusCode.INVALID_ARGUMENT),
            (8_000_000, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            request = GetTaskJsonRequest(task_id="x" * characters).SerializeToString()
            future = method.future(request, timeout=20, compression=grpc.Compression.Gzip)
            assert future.code() is code

    def test_what_is_named_but_wrong(self, ask: Ask) -> None:
        """A message that is compressed by the caller's own code stays a message."""
        assert ask(JSON, gzip.compress(ASK)).code is grpc.StatusCode.INVALID_ARGUMENT


class TestLargeMessages:
    def test_answer_of_10_mb(self, ask: Ask) -> None:
        result = ask(JSON, GetTaskJsonRequest(task_id=LARGE_ID).SerializeToString())
        assert result.response is not None
        assert len(json.loads(HttpBody.FromString(result.response).data)["outputData"]["text"]) == 10_000_000

    def test_typed_answer_of_10_mb(self, ask: Ask) -> None:
        result = ask(TYPED, GetTaskRequest(task_id=LARGE_ID).SerializeToString())
        assert result.response is not None
        assert len(result.response) > 10_000_000

    def test_more_than_the_client_takes(self, ask: Ask) -> None:
        """4 MiB without the option: the client gives up, and the next call is answered."""
        request = GetTaskJsonRequest(task_id=LARGE_ID).SerializeToString()
        assert ask(JSON, request, options=[]).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert_document(ask(JSON, ASK, options=[]))

    def test_several_at_a_time_on_a_channel(self, channel: grpc.Channel) -> None:
        method: Any = channel.unary_unary(JSON)
        request = GetTaskJsonRequest(task_id=LARGE_ID).SerializeToString()
        futures = [method.future(request, timeout=30) for _ in range(6)]
        small = [method.future(ASK, timeout=30) for _ in range(20)]
        assert {len(future.result()) > 10_000_000 for future in futures} == {True}
        assert {HttpBody.FromString(future.result()).data for future in small} == {DOCUMENTED_COMPACT}

    @pytest.mark.parametrize(
        ("size", "code"),
        [(65_000, grpc.StatusCode.INVALID_ARGUMENT), (33 << 20, grpc.StatusCode.RESOURCE_EXHAUSTED)],
    )
    def test_request_up_to_the_limit_and_over(self, ask: Ask, size: int, code: grpc.StatusCode) -> None:
        assert ask(JSON, GetTaskJsonRequest(task_id="x" * size).SerializeToString()).code is code


def address_for_later() -> str:
    """One that nothing listens on, and that the system gives to no program that asks it for a free port.

    Linux and macOS give out ports from 32768 on.
    """
    for _ in range(100):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return f"127.0.0.1:{port}"
    pytest.fail("no free port found")


@pytest.mark.parametrize("route", ["envoy", "grpcio"], indirect=True, scope="session")
class TestWaitForReady:
    """A server that is started after the call was made; the third route's server is not the one that is waited for."""

    def test_call_is_made_when_there_is_someone_to_take_it(self, transport: str, tmp_path: Path) -> None:
        address = address_for_later()
        options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.initial_reconnect_backoff_ms", 200)]
        with grpc.insecure_channel(address, options=options) as channel:
            method: Any = channel.unary_unary(JSON)
            impatient = method.future(ASK, timeout=20)
            assert impatient.code() is grpc.StatusCode.UNAVAILABLE
            patient = method.future(ASK, timeout=30, wait_for_ready=True)
            with running_system(tmp_path / "tasks.db", "--demo", "--grpc", address, transport=transport, workers=1):
                assert HttpBody.FromString(patient.result()).data == DOCUMENTED_COMPACT

    async def test_with_asyncio(self, transport: str, tmp_path: Path) -> None:
        address = address_for_later()
        options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.initial_reconnect_backoff_ms", 200)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            method: Any = channel.unary_unary(JSON)
            patient = method(ASK, timeout=30, wait_for_ready=True)
            await asyncio.sleep(0.1)
            assert not patient.done()
            starting = running_system(
                tmp_path / "tasks.db", "--demo", "--grpc", address, transport=transport, workers=1
            )
            await asyncio.to_thread(starting.__enter__)
            try:
                assert HttpBody.FromString(await patient).data == DOCUMENTED_COMPACT
            finally:
                await asyncio.to_thread(starting.__exit__, None, None, None)


class TestHealth:
    @pytest.mark.parametrize("service", ["", "taskgate.v1.TaskService", "conductor.grpc.tasks.TaskService"])
    def test_check(self, channel: grpc.Channel, service: str) -> None:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20).status == SERVING

    def test_check_of_an_unknown_service_is_not_found(self, channel: grpc.Channel) -> None:
        with pytest.raises(grpc.RpcError) as refused:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="x"), timeout=20)
        error: Any = refused.value
        assert error.code() is grpc.StatusCode.NOT_FOUND

    def test_watch_of_an_unknown_service_goes_on(self, channel: grpc.Channel, route: str) -> None:
        """SERVICE_UNKNOWN, and the stream stays open, as the protocol demands."""
        grpc.channel_ready_future(channel).result(20)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="x"), timeout=3)
        assert next(watch).status == SERVICE_UNKNOWN
        with pytest.raises(grpc.RpcError):
            next(watch)
        assert_too_late(watch, route)

    def test_watch_sees_the_store_go_and_come_back(self, channel: grpc.Channel, system: System) -> None:
        """Three watches on a channel, each told once of each change."""
        seen: list[Queue[int]] = [Queue() for _ in range(3)]
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=90) for _ in seen]
        readers = [
            threading.Thread(target=follow, args=(watch, told), daemon=True)
            for watch, told in zip(watches, seen, strict=True)
        ]
        for reader in readers:
            reader.start()
        try:
            assert [told.get(timeout=25) for told in seen] == [SERVING] * 3
            with store_away(system):
                assert [told.get(timeout=25) for told in seen] == [NOT_SERVING] * 3
            assert [told.get(timeout=25) for told in seen] == [SERVING] * 3
            assert all(told.empty() for told in seen)
        finally:
            for watch in watches:
                watch.cancel()
            for reader in readers:
                reader.join(5)
        assert not any(reader.is_alive() for reader in readers)

    async def test_watch_with_asyncio(self, target: str) -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            watch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watch.read()


def follow(watch: Any, told: "Queue[int]") -> None:
    """Put each status into ``told`` until the watch ends."""
    try:
        for response in watch:
            told.put(response.status)
    except grpc.RpcError:
        pass


@contextmanager
def store_away(system: System) -> Iterator[None]:
    """The SQLite file is somewhere else."""
    with closing(sqlite3.connect(system.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for suffix in ("-wal", "-shm"):
        Path(f"{system.database}{suffix}").unlink(missing_ok=True)
    elsewhere = system.database.with_suffix(".elsewhere")
    system.database.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(system.database)


class TestReflection:
    def test_one_stream_answers_question_after_question(self, channel: grpc.Channel) -> None:
        """Bidirectional: each question is sent when the answer to the one before has come."""
        asked: Queue[Any] = Queue()
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = stub.ServerReflectionInfo(iter(asked.get, None), timeout=20)

        def answer(**question: Any) -> Any:
            asked.put(reflection_pb2.ServerReflectionRequest(**question))
            return next(answers)

        services = {service.name for service in answer(list_services="*").list_services_response.service}
        assert {"taskgate.v1.TaskService", "grpc.health.v1.Health"} <= services
        for symbol in ("taskgate.v1.TaskService", "taskgate.v1.Task"):
            files = answer(file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto
            assert FileDescriptorProto.FromString(files[0]).package == "taskgate.v1"
        unknown = answer(file_containing_symbol="no.such.Thing")
        assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        by_name = answer(file_by_filename="taskgate/v1/task.proto").file_descriptor_response.file_descriptor_proto
        assert FileDescriptorProto.FromString(by_name[0]).name == "taskgate/v1/task.proto"
        asked.put(None)
        assert list(answers) == []
        assert answers.code() is grpc.StatusCode.OK

    def test_every_file_that_a_file_needs_is_there(self, channel: grpc.Channel) -> None:
        """A tool that starts from the service finds all imports by name."""
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)

        def file(**question: Any) -> FileDescriptorProto:
            request = reflection_pb2.ServerReflectionRequest(**question)
            (answer,) = list(stub.ServerReflectionInfo(iter([request]), timeout=20))
            return FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])

        known: dict[str, FileDescriptorProto] = {}
        first = file(file_containing_symbol="taskgate.v1.TaskService")
        wanted = [first.name]
        while wanted:
            name = wanted.pop()
            if name not in known:
                known[name] = file(file_by_filename=name)
                wanted += known[name].dependency
        assert "google/protobuf/struct.proto" in known

    async def test_with_asyncio(self, target: str) -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=20)
            for _ in range(3):
                await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
                assert (await stream.read()).list_services_response.service
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.OK


def test_typed_task_has_the_documents_values(channel: grpc.Channel) -> None:
    """Enough to know that the typed answer is the same task."""
    method: Any = channel.unary_unary(
        TYPED, request_serializer=GetTaskRequest.SerializeToString, response_deserializer=GetTaskResponse.FromString
    )
    task = method(GetTaskRequest(task_id=DOCUMENTED_ID), timeout=20).task
    document = json.loads(DOCUMENTED)
    assert (task.task_id, task.reference_task_name) == (document["taskId"], document["referenceTaskName"])

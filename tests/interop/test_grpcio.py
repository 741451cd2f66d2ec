"""grpcio, the Python client: what only many calls on a channel, large messages and streams of its own show.

Tests of single calls are in ``tests/api``, whose gRPC clients are this client, too.
"""

import asyncio
import random
import socket
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID
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


def code_of(target: str, path: str, request: bytes, *, options: Any = LIMITS, **call_options: Any) -> grpc.StatusCode:
    """How one call on a channel of its own ends."""
    with grpc.insecure_channel(target, options=options) as channel:
        method: Any = channel.unary_unary(path)
        code: grpc.StatusCode = method.future(request, **({"timeout": 20} | call_options)).code()
        return code


@pytest.fixture
def channel(target: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target, options=LIMITS) as opened:
        yield opened


def assert_too_late(stream: Any, route: str) -> None:
    """Envoy before grpcio resets a stream that has begun, which a client may take for INTERNAL if it is slower."""
    names = {"DEADLINE_EXCEEDED", *(["INTERNAL"] if route == "proxied via Envoy" else [])}
    assert stream.code().name in names


class TestUnary:
    def test_unary_method_called_as_a_stream_answers_its_one_message(self, channel: grpc.Channel, route: str) -> None:
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
        assert two.code().name in ({"OK", "UNIMPLEMENTED"} if route == "embedded" else {"OK"})

    def test_two_hundred_calls_at_a_time_on_a_channel(self, channel: grpc.Channel) -> None:
        method: Any = channel.unary_unary(JSON)
        futures = [method.future(ASK, timeout=20) for _ in range(200)]
        assert {HttpBody.FromString(future.result()).data for future in futures} == {DOCUMENTED_COMPACT}

    async def test_two_hundred_calls_at_a_time_with_asyncio(self, target: str) -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            method: Any = channel.unary_unary(JSON)
            answers = await asyncio.gather(*(method(ASK, timeout=20) for _ in range(200)))
        assert {HttpBody.FromString(answer).data for answer in answers} == {DOCUMENTED_COMPACT}


class TestLargeMessages:
    def test_typed_answer_of_10_mb_is_whole(self, channel: grpc.Channel) -> None:
        method: Any = channel.unary_unary(TYPED)
        answer = method(GetTaskRequest(task_id=LARGE_ID).SerializeToString(), timeout=30)
        task = GetTaskResponse.FromString(answer).task
        assert task.output_data["text"].string_value == "x" * 10_000_000

    def test_client_that_takes_less_gives_up_and_the_next_call_is_answered(self, target: str) -> None:
        """4 MiB without the option; and a deadline that passes while so much is on its way harms no other call."""
        large = GetTaskJsonRequest(task_id=LARGE_ID).SerializeToString()
        assert code_of(target, JSON, large, options=[]) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert code_of(target, JSON, ASK, options=[]) is grpc.StatusCode.OK
        assert code_of(target, TYPED, large, timeout=0) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert code_of(target, JSON, ASK) is grpc.StatusCode.OK

    def test_more_metadata_than_is_taken_is_an_error_of_its_call(self, target: str) -> None:
        """Envoy resets such a stream, grpcio answers RESOURCE_EXHAUSTED; neither hangs."""
        code = code_of(target, JSON, ASK, metadata=(("x-long", "y" * 200_000),))
        assert code.name in {"RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "UNAVAILABLE"}
        assert code_of(target, JSON, ASK) is grpc.StatusCode.OK

    def test_several_at_a_time_on_a_channel(self, channel: grpc.Channel) -> None:
        method: Any = channel.unary_unary(JSON)
        request = GetTaskJsonRequest(task_id=LARGE_ID).SerializeToString()
        futures = [method.future(request, timeout=30) for _ in range(6)]
        small = [method.future(ASK, timeout=30) for _ in range(20)]
        assert {len(future.result()) > 10_000_000 for future in futures} == {True}
        assert {HttpBody.FromString(future.result()).data for future in small} == {DOCUMENTED_COMPACT}


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


@pytest.mark.parametrize("route", ["embedded", "proxied direct"], indirect=True, scope="package")
class TestWaitForReady:
    """A server that is started after the call was made; the third route's server is not the one that is waited for."""

    def test_call_that_waits_is_made_when_the_server_is_there(self, mode: str, tmp_path: Path) -> None:
        address = address_for_later()
        options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.initial_reconnect_backoff_ms", 200)]
        with grpc.insecure_channel(address, options=options) as channel:
            method: Any = channel.unary_unary(JSON)
            impatient = method.future(ASK, timeout=20)
            assert impatient.code() is grpc.StatusCode.UNAVAILABLE
            patient = method.future(ASK, timeout=30, wait_for_ready=True)
            with running_system(tmp_path / "tasks.db", "--demo", "--grpc", address, mode=mode, workers=1):
                assert HttpBody.FromString(patient.result()).data == DOCUMENTED_COMPACT


class TestHealth:
    def test_watch_of_an_unknown_service_goes_on_to_its_deadline(self, channel: grpc.Channel, route: str) -> None:
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

    async def test_asyncio_watch_is_told_and_cancelled(self, target: str) -> None:
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

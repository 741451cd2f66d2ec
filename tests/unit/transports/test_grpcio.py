"""The grpc.aio server in this process, over a store that misbehaves as no real one would on request."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from taskgate.base.errors import StoreUnavailable
from taskgate.base.settings import Settings
from taskgate.service.calls import Call
from taskgate.transports import grpcio
from taskgate.transports.grpcio import GrpcServer
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest

TASK_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7fe"
SECRET = "dsn postgres://user:password@host"  # noqa: S105 - made up


class FaultyStore:
    """Raises ``fault`` for every document; ``check`` fails until ``ready``."""

    def __init__(self, fault: BaseException) -> None:
        self.fault = fault
        self.ready = False
        self.closed = False

    async def get_document(self, task_id: str) -> bytes | None:
        raise self.fault

    async def check(self) -> None:
        if not self.ready:
            raise StoreUnavailable("not yet")

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def serving(store: FaultyStore) -> AsyncIterator[grpc.aio.Channel]:
    server = GrpcServer(Settings(grpc="127.0.0.1:0", drain_delay=0, shutdown_grace=1), store)
    address = await server.start()
    async with grpc.aio.insecure_channel(str(address)) as channel:
        yield channel
    await server.stop()
    assert store.closed


async def test_unexpected_error_reaches_the_client_without_its_text() -> None:
    """INTERNAL with a request ID to look for in the log, and nothing of the exception."""
    async with serving(FaultyStore(ValueError(SECRET))) as channel:
        call = channel.unary_unary("/taskgate.v1.TaskService/GetTaskJson")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(GetTaskJsonRequest(task_id=TASK_ID).SerializeToString(), metadata=(("x-request-id", "my-id"),))
    error = refused.value
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "Internal error; the server's log has it under request ID my-id"
    trailing = dict(error.trailing_metadata())
    assert trailing["x-request-id"] == "my-id"
    assert SECRET not in str(error) + str(trailing)


async def test_health_is_not_serving_until_the_store_answers() -> None:
    """Overall and per service, for ``Check``; ``Watch`` tells of the change."""
    store = FaultyStore(StoreUnavailable("not yet"))
    async with serving(store) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "taskgate.v1.TaskService", "conductor.grpc.tasks.TaskService"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        store.ready = True
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
async def test_document_of_a_reader_that_is_too_slow_is_let_go_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, leaves: bool
) -> None:
    """Its call waits for Envoy's reset without it, then has a status that says so, and the log has no traceback."""
    monkeypatch.setattr("taskgate.transports.pace.GRACE_SECONDS", 0.2)
    document = b'{"a":"' + b"x" * 20_000_000 + b'"}'
    at_rest = sys.getrefcount(document)
    waits: asyncio.Future[tuple[int, float]] = asyncio.get_running_loop().create_future()
    end_slow_call = grpcio._end_slow_call

    async def watched(call: Call, context: Any, seconds: float) -> None:
        waits.set_result((sys.getrefcount(document), seconds))
        await end_slow_call(call, context, 60 if leaves else 0.1)

    class LargeStore(FaultyStore):
        async def get_document(self, task_id: str) -> bytes | None:
            return document

    monkeypatch.setattr(grpcio, "_end_slow_call", watched)
    caplog.set_level(logging.ERROR)
    async with serving(LargeStore(ValueError())) as channel:
        call = channel.unary_stream("/taskgate.v1.TaskService/StreamTaskJson")(
            GetTaskJsonRequest(task_id=TASK_ID).SerializeToString()
        )
        await call.read()
        assert sys.getrefcount(document) > at_rest
        references, seconds = await asyncio.wait_for(waits, 10)
        assert references == at_rest
        assert seconds > Settings().request_timeout + 2, "Envoy comes first"
        if leaves:
            call.cancel()
        else:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await read_all(call)
            assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert refused.value.details() == "The answer was read too slowly"
    assert caplog.records == []


async def read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


@pytest.mark.parametrize(
    ("connection", "header", "caller"),
    [
        ("ipv4:192.0.2.1:5", None, ("192.0.2.1", 5)),
        ("ipv6:%5B2001:db8::1%5D:5", None, ("2001:db8::1", 5)),
        ("ipv6:%5Bfe80::1%25eth0%5D:5", None, ("fe80::1%eth0", 5)),
        ("unix:", None, None),
        ("unix:", "token 192.0.2.1:5", ("192.0.2.1", 5)),
        ("unix:", "token [2001:db8::1]:0", ("2001:db8::1", 0)),
        ("ipv4:192.0.2.1:5", "192.0.2.9:9", ("192.0.2.1", 5)),
    ],
)
def test_a_caller_is_the_other_end_or_whom_our_envoy_names(connection: str, header: str | None, caller: object) -> None:
    """Addresses have no brackets, in whichever form gRPC and Envoy write them."""
    assert grpcio._peer(header, "token", SimpleNamespace(peer=lambda: connection)) == caller

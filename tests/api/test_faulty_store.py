"""Faults that no real store shows on request, over every front door: on both transports."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from support.doors import DOORS, Door, GrpcDoor, open_door
from support.faulty_store import AWAY, GIVEN_UP, SECRET, SLOW, UNEXPECTED, UNREADABLE, FaultyStore
from support.running import eventually
from taskgate.gateway import EnvoyProcess, GatewaySettings, InsideEnvoy
from taskgate.gateway.inside import EnvoyWithPython, module
from taskgate.reservations import Reservation
from taskgate.settings import Settings
from taskgate.transports.grpcio import GrpcServer
from taskgate.v1.task_service_pb2 import GetTaskRequest

# Server, Envoy and tests share one event loop; the doors block, and so are asked in threads.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Addresses:
    http: str
    grpc: str


SETTINGS = Settings(
    grpc="127.0.0.1:0", http="127.0.0.1:0", instance="test-node", request_timeout=0.5, drain_delay=0, shutdown_grace=1
)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["envoy", "grpcio"])
async def faulty_system(request: pytest.FixtureRequest) -> AsyncIterator[Addresses]:
    serve = inside_envoy if request.param == "envoy" else behind_envoy
    async with serve() as addresses:
        yield addresses


@asynccontextmanager
async def inside_envoy() -> AsyncIterator[Addresses]:
    grpc = Reservation(SETTINGS.grpc, key="grpc")
    inside = InsideEnvoy(module(), grpc.address, app="support.faulty_store:app")
    envoy = EnvoyWithPython(
        GatewaySettings(listen=SETTINGS.http, instance="test-node", inside=inside), SETTINGS, threads=1
    )
    listening = await envoy.start()
    yield Addresses(str(listening), str(grpc.address))
    await envoy.stop(1)
    grpc.close()


@asynccontextmanager
async def behind_envoy() -> AsyncIterator[Addresses]:
    server = GrpcServer(SETTINGS, FaultyStore())
    direct = await server.start()
    envoy = EnvoyProcess(GatewaySettings(listen=SETTINGS.http, upstreams=(direct,), instance="test-node"))
    listening = await envoy.start()
    yield Addresses(str(listening), str(direct))
    await envoy.stop(1)
    await server.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=DOORS)
async def faulty_door(request: pytest.FixtureRequest, faulty_system: Addresses) -> AsyncIterator[Door]:
    opened = await asyncio.to_thread(open_door, request.param, faulty_system.http, faulty_system.grpc)
    yield opened
    await asyncio.to_thread(opened.close)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["grpc", "grpc-envoy"])
async def faulty_grpc_door(request: pytest.FixtureRequest, faulty_system: Addresses) -> AsyncIterator[GrpcDoor]:
    opened = await asyncio.to_thread(open_door, request.param, faulty_system.http, faulty_system.grpc)
    assert isinstance(opened, GrpcDoor)
    yield opened
    opened.close()


ROWS = {
    UNEXPECTED: (500, "INTERNAL", "ERROR_REASON_INTERNAL", False),
    AWAY: (503, "UNAVAILABLE", "ERROR_REASON_STORE_UNAVAILABLE", True),
    UNREADABLE: (500, "DATA_LOSS", "ERROR_REASON_DOCUMENT_UNREADABLE", False),
    SLOW: (504, "DEADLINE_EXCEEDED", "ERROR_REASON_DEADLINE_EXCEEDED", True),
}
"""HTTP status, gRPC code, reason, and whether trying again may help, by task ID."""

MESSAGES = {
    UNEXPECTED: "Internal error; the server's log has it under request ID my-id",
    AWAY: "The store is away",
    UNREADABLE: f"The stored document of task {UNREADABLE} cannot be read",
    SLOW: "The call did not finish within 0.5 s",
}


@pytest.mark.parametrize("task_id", ROWS, ids=["unexpected", "away", "unreadable", "slow"])
async def test_each_fault_has_its_row_of_the_error_table(faulty_door: Door, task_id: str) -> None:
    """Same status and words everywhere; nothing of an exception that nobody foresaw reaches any caller."""
    status, code, reason, retryable = ROWS[task_id]
    outcome = await asyncio.to_thread(faulty_door.get_task_json, task_id, x_request_id="my-id")
    assert (status, MESSAGES[task_id]) == (outcome.status, outcome.message)
    assert outcome.headers["x-request-id"] == "my-id"
    assert SECRET not in str(outcome)
    if isinstance(faulty_door, GrpcDoor):
        assert (code, reason) == (outcome.code, outcome.reason)
    else:
        assert retryable is outcome.retryable


async def test_grpc_callers_deadline_ends_the_call(faulty_grpc_door: GrpcDoor) -> None:
    """A deadline shorter than the server's limit holds, through Envoy too.

    Named exception: REST callers have no way to state a deadline.
    """
    request = GetTaskRequest(task_id=SLOW).SerializeToString()
    began = asyncio.get_running_loop().time()
    outcome, _ = await asyncio.to_thread(faulty_grpc_door.call, "/taskgate.v1.TaskService/GetTask", request, {}, 0.1)
    assert outcome.code == "DEADLINE_EXCEEDED"
    assert asyncio.get_running_loop().time() - began < 0.45


async def test_cancelled_call_stops_the_work(faulty_grpc_door: GrpcDoor) -> None:
    """The store's read is given up soon after the caller has cancelled, long before the server's own limit."""
    request = GetTaskRequest(task_id=SLOW).SerializeToString()

    def cancel_one() -> None:
        method: Any = faulty_grpc_door.channel.unary_unary("/taskgate.v1.TaskService/GetTask")
        call = method.future(request, timeout=10)
        time.sleep(0.1)  # on purpose: the call has to be under way
        call.cancel()

    def given_up() -> list[float]:
        seconds: list[float] = json.loads(faulty_grpc_door.get_task_json(GIVEN_UP).document)["seconds"]
        return seconds

    before = len(await asyncio.to_thread(given_up))
    await asyncio.to_thread(cancel_one)
    after = await asyncio.to_thread(eventually, lambda: given_up()[before:], "the read given up")
    assert after[0] < 0.4  # request_timeout is 0.5


async def test_caller_that_hangs_up_stops_the_work(faulty_system: Addresses) -> None:
    """The same for a REST caller whose connection goes."""
    door = GrpcDoor("grpc", faulty_system.grpc)

    def given_up() -> list[float]:
        seconds: list[float] = json.loads(door.get_task_json(GIVEN_UP).document)["seconds"]
        return seconds

    before = len(await asyncio.to_thread(given_up))
    host, _, port = faulty_system.http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /api/tasks/{SLOW} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()
    after = await asyncio.to_thread(eventually, lambda: given_up()[before:], "the read given up")
    assert after[0] < 0.4
    del reader
    door.close()

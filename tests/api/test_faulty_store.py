"""Faults that no real store shows on request, over every front door: the server in this process, Envoy before it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from support.doors import DOORS, Door, GrpcDoor, open_door
from taskgate.addresses import Address
from taskgate.errors import DocumentUnreadable, StoreUnavailable
from taskgate.gateway import EnvoyProcess, GatewaySettings
from taskgate.settings import Settings
from taskgate.transports.grpcio import GrpcServer
from taskgate.v1.task_service_pb2 import GetTaskRequest

# Server, Envoy and tests share one event loop; the doors block, and so are asked in threads.
pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "dsn postgres://user:password@host"  # noqa: S105 - made up
UNEXPECTED, AWAY, UNREADABLE, SLOW = (f"00000000-0000-4000-8000-00000000000{number}" for number in range(4))


class FaultyStore:
    """Fails in a way that the task ID chooses."""

    async def get_document(self, task_id: str) -> bytes | None:
        match task_id:
            case _ if task_id == UNEXPECTED:
                raise ValueError(SECRET)
            case _ if task_id == AWAY:
                raise StoreUnavailable("The store is away")
            case _ if task_id == UNREADABLE:
                raise DocumentUnreadable(task_id)
        await asyncio.sleep(60)
        return None

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass


@dataclass
class Addresses:
    http: str
    grpc: str


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def faulty_system() -> AsyncIterator[Addresses]:
    settings = Settings(grpc="127.0.0.1:0", request_timeout=0.5, drain_delay=0, shutdown_grace=1)
    server = GrpcServer(settings, FaultyStore())
    direct = await server.start()
    envoy = EnvoyProcess(GatewaySettings(listen=Address("127.0.0.1", 0), upstreams=(direct,), instance="test-node"))
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

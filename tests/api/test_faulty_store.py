"""Faults that no real store shows on request, with every client and in both modes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from support.clients import CLIENTS, Client, GrpcClient, open_client
from support.edited_configuration import edited_configuration
from support.faulty_store import AWAY, COUNTS, FULL, SECRET, SLOW, UNEXPECTED, UNREADABLE, FaultyStore
from support.running import eventually
from taskgate.base.settings import Settings
from taskgate.processes.envoy import EmbeddedService, EnvoyProcess, GatewaySettings
from taskgate.processes.envoy.embedded import EnvoyWithPython, module
from taskgate.processes.reserved_ports import Reservation
from taskgate.transports.grpcio import GrpcServer
from taskgate.v1.task_service_pb2 import GetTaskRequest

# Server, Envoy and tests share one event loop; the clients block, so they run in threads.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Addresses:
    http: str
    grpc: str


Serving = Callable[[str, Settings], Awaitable[Addresses]]


def limited_to(seconds: float) -> Settings:
    return Settings(
        grpc="127.0.0.1:0",
        http="127.0.0.1:0",
        instance="test-node",
        request_timeout=seconds,
        drain_delay=0,
        shutdown_grace=1,
    )


HURRIED, PATIENT = limited_to(0.5), limited_to(300)
"""A limit for slow reads to reach, and one that tests never reach: another cause must end their calls."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def serving() -> AsyncIterator[Serving]:
    """Serve in a mode with a limit: start each pair once, and stop it at the end."""
    running: dict[tuple[str, float], Addresses] = {}
    async with AsyncExitStack() as stack:

        async def start(mode: str, settings: Settings) -> Addresses:
            key = (mode, settings.request_timeout)
            if key not in running:
                begin = embedded if mode == "embedded" else proxied
                running[key] = await stack.enter_async_context(begin(settings))
            return running[key]

        yield start


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["embedded", "proxied"])
async def faulty_system(request: pytest.FixtureRequest, serving: Serving) -> Addresses:
    return await serving(request.param, HURRIED)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["embedded", "proxied"])
async def patient_system(request: pytest.FixtureRequest, serving: Serving) -> Addresses:
    return await serving(request.param, PATIENT)


@asynccontextmanager
async def embedded(settings: Settings) -> AsyncIterator[Addresses]:
    grpc = Reservation(settings.grpc, key="grpc")
    service = EmbeddedService(module(), grpc.address)
    envoy = EnvoyWithPython(
        GatewaySettings(listen=settings.http, instance="test-node", embedded=service), settings, threads=1
    )
    with edited_configuration(("taskgate.processes.embedded_app:app", "support.faulty_store:app")):
        listening = await envoy.start()
    yield Addresses(str(listening), str(grpc.address))
    await envoy.stop(1)
    grpc.close()


@asynccontextmanager
async def proxied(settings: Settings) -> AsyncIterator[Addresses]:
    server = GrpcServer(settings, FaultyStore())
    direct = await server.start()
    envoy = EnvoyProcess(GatewaySettings(listen=settings.http, upstreams=(direct,), instance="test-node"))
    listening = await envoy.start()
    yield Addresses(str(listening), str(direct))
    await envoy.stop(1)
    await server.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=CLIENTS)
async def faulty_client(request: pytest.FixtureRequest, faulty_system: Addresses) -> AsyncIterator[Client]:
    opened = await asyncio.to_thread(open_client, request.param, faulty_system.http, faulty_system.grpc)
    yield opened
    await asyncio.to_thread(opened.close)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["grpc", "grpc-envoy"])
async def patient_grpc_client(request: pytest.FixtureRequest, patient_system: Addresses) -> AsyncIterator[GrpcClient]:
    opened = await asyncio.to_thread(open_client, request.param, patient_system.http, patient_system.grpc)
    assert isinstance(opened, GrpcClient)
    yield opened
    opened.close()


ROWS = {
    UNEXPECTED: (500, "INTERNAL", "ERROR_REASON_INTERNAL", False),
    AWAY: (503, "UNAVAILABLE", "ERROR_REASON_STORE_UNAVAILABLE", True),
    FULL: (503, "RESOURCE_EXHAUSTED", "ERROR_REASON_OVERLOADED", True),
    UNREADABLE: (500, "DATA_LOSS", "ERROR_REASON_DOCUMENT_UNREADABLE", False),
    SLOW: (504, "DEADLINE_EXCEEDED", "ERROR_REASON_DEADLINE_EXCEEDED", True),
}
"""HTTP status, gRPC code, reason, and whether a retry may help, by task ID."""

MESSAGES = {
    UNEXPECTED: "Internal error; the server's log has it under request ID my-id",
    AWAY: "The store is unavailable: it is away",
    FULL: "Overloaded: 1024 reads wait for the store; try again",
    UNREADABLE: f"The stored document of task {UNREADABLE} cannot be read",
    SLOW: "The call did not finish within 0.",  # 0.5 s, less the time that its message took to arrive
}


@pytest.mark.parametrize("task_id", ROWS, ids=["unexpected", "away", "full", "unreadable", "slow"])
async def test_each_fault_has_its_row_of_the_error_table(faulty_client: Client, task_id: str) -> None:
    """Same status and words everywhere; nothing of an unforeseen exception reaches any caller."""
    status, code, reason, retryable = ROWS[task_id]
    outcome = await asyncio.to_thread(faulty_client.get_task_json, task_id, x_request_id="my-id")
    assert outcome.status == status
    assert outcome.message.startswith(MESSAGES[task_id])
    assert len(outcome.message) <= len(MESSAGES[task_id]) + len("49 s") * (task_id == SLOW)
    assert outcome.headers["x-request-id"] == "my-id"
    assert SECRET not in str(outcome)
    if isinstance(faulty_client, GrpcClient):
        assert (code, reason) == (outcome.code, outcome.reason)
    else:
        assert retryable is outcome.retryable
        assert outcome.headers.get("retry-after") == ("1" if task_id == FULL else None)


async def test_grpc_callers_deadline_ends_the_call(patient_grpc_client: GrpcClient) -> None:
    """A deadline shorter than the server's limit holds, through Envoy too, and the store's read is cancelled.

    Named exception: REST callers have no way to state a deadline.
    """
    request = GetTaskRequest(task_id=SLOW).SerializeToString()
    before = await counts(patient_grpc_client)
    outcome, _ = await asyncio.to_thread(patient_grpc_client.call, GET_TASK, request, {}, 1)
    assert outcome.code == "DEADLINE_EXCEEDED"
    await given_up_as_often_as_begun(patient_grpc_client)
    assert (await counts(patient_grpc_client))["begun"] <= before["begun"] + 1


async def test_cancelled_call_stops_the_work(patient_grpc_client: GrpcClient) -> None:
    """The store's read is cancelled once the caller has cancelled, long before the server's own limit."""
    before = await counts(patient_grpc_client)
    method: Any = patient_grpc_client.channel.unary_unary(GET_TASK)
    call = method.future(GetTaskRequest(task_id=SLOW).SerializeToString(), timeout=300)
    await one_more_begun(patient_grpc_client, before)
    assert (await counts(patient_grpc_client))["given_up"] == before["given_up"]
    call.cancel()
    await given_up_as_often_as_begun(patient_grpc_client)


async def test_caller_that_hangs_up_stops_the_work(patient_system: Addresses) -> None:
    """The same for a REST caller whose connection closes."""
    client = GrpcClient("grpc", patient_system.grpc)
    before = await counts(client)
    host, _, port = patient_system.http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /api/tasks/{SLOW} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await writer.drain()
    await one_more_begun(client, before)
    assert (await counts(client))["given_up"] == before["given_up"]
    writer.close()
    await given_up_as_often_as_begun(client)
    del reader
    client.close()


GET_TASK = "/taskgate.v1.TaskService/GetTask"

Counts = dict[str, int]
"""The numbers of slow reads that the store has ``begun`` and ``given_up``."""


async def counts(client: Client) -> Counts:
    outcome = await asyncio.to_thread(client.get_task_json, COUNTS)
    told: Counts = json.loads(outcome.document)
    return told


async def wait_for(client: Client, condition: Callable[[Counts], bool], what: str) -> None:
    def look() -> bool:
        return condition(json.loads(client.get_task_json(COUNTS).document))

    await asyncio.to_thread(eventually, look, what, 30)


async def one_more_begun(client: Client, before: Counts) -> None:
    await wait_for(client, lambda now: now["begun"] == before["begun"] + 1, "a read begun")


async def given_up_as_often_as_begun(client: Client) -> None:
    await wait_for(client, lambda now: now["given_up"] == now["begun"], "the read given up")

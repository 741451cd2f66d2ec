"""Calls that stay open (watches, missing messages, vanished callers) take nothing that other calls need."""

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import h2.events
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.clients import CLIENTS, open_client
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID
from support.raw_grpc import GET_TASK_JSON, ConnectionLost, RawGrpc, framed, request_for
from support.running import System, eventually, running_system
from taskgate.transports.grpcio import MAX_CALLS_ON_A_CONNECTION

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
CONDUCTOR = "/conductor.grpc.tasks.TaskService/GetTask"

OK, DEADLINE_EXCEEDED = 0, 4
ON_A_CONNECTION = 100
"""Calls that one connection may hold, on each of our ports."""

MODES = pytest.mark.parametrize("mode", ["embedded", "proxied"])
PORTS = pytest.mark.parametrize("port", ["http", "grpc"])
"""Envoy's, and the server's own."""


@pytest.fixture(scope="module", params=["embedded", "proxied"])
def short_system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system where a call may take one second, in each mode."""
    database = tmp_path_factory.mktemp("short") / "tasks.db"
    arguments = ("--demo", "--request-timeout", "1")
    with running_system(database, *arguments, mode=request.param, workers=1) as system:
        yield system


@contextlib.contextmanager
def held(address: str, count: int, path: str, message: bytes, *, ends: bool) -> Iterator[list[RawGrpc]]:
    """``count`` calls of ``path`` that have sent ``message`` and wait, on as many connections as that takes."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(RawGrpc(address)) for _ in range(count // ON_A_CONNECTION)]
        for connection in connections:
            for _ in range(ON_A_CONNECTION):
                connection.data(connection.open(path), message, end=ends)
            for earlier in connections:  # answers Envoy's pings, however long the others take
                earlier.receive(0)
        yield connections


def assert_all_begun(connections: list[RawGrpc]) -> None:
    """Every call has received its first message."""
    for connection in connections:
        while any(not answer.body for answer in connection.answers.values()):
            assert all(answer.reset is None and not answer.ended for answer in connection.answers.values())
            connection.receive()


def assert_probes_are_answered(system: System, probes: int = 100) -> None:
    """To every client, with new connections and kept ones."""
    for name in CLIENTS:
        for _ in range(2):
            client = open_client(name, system.http, system.grpc)
            for _ in range(probes // 2):
                outcome = client.get_task_json(DOCUMENTED_ID)
                assert (outcome.status, outcome.document) == (200, DOCUMENTED_COMPACT), (name, outcome)
            client.close()
    for address in (system.http, system.grpc):
        with grpc.insecure_channel(address) as channel:
            status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30).status
            assert status == health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def patient_system(mode: str, lasting: Callable[..., System]) -> Iterator[System]:
    """A system where a call may take as long as a test does."""
    system = lasting(mode, "--request-timeout", "120", workers=1)
    yield system
    print("\n".join(line[:300] for line in system.log[-20:]))  # noqa: T201 - pytest shows it if the test fails


@pytest.mark.long_in("http-embedded", "grpc-proxied")
@MODES
@PORTS
def test_calls_are_answered_beside_watches_and_unfinished_calls(patient_system: System, port: str) -> None:
    """2,000 health watches and 2,000 calls whose message never comes: no probe fails, of any client."""
    address: str = getattr(patient_system, port)
    ask = request_for(DOCUMENTED_ID)
    with (
        held(address, 2000, WATCH, framed(b""), ends=True) as watches,
        held(address, 1000, GET_TASK_JSON, b"", ends=False),
        held(address, 500, CONDUCTOR, ask[:9], ends=False),
        held(address, 500, REFLECTION, b"", ends=False),
    ):
        assert_all_begun(watches)
        assert_probes_are_answered(patient_system)
        assert_all_begun(watches)
    assert_probes_are_answered(patient_system, probes=10)


@PORTS
@pytest.mark.parametrize("sent", [b"", request_for(DOCUMENTED_ID)[:9]], ids=["no message", "part of one"])
def test_call_whose_message_never_comes_ends(short_system: System, port: str, sent: bytes) -> None:
    """DEADLINE_EXCEEDED with a sentence once the time for any call is over; the connection stays usable."""
    with RawGrpc(getattr(short_system, port)) as connection:
        streams = [connection.open(path) for path in (GET_TASK_JSON, CONDUCTOR, CHECK, WATCH, REFLECTION)]
        for stream in streams:
            connection.data(stream, sent)
        for stream in streams:
            answer = connection.answer(stream, seconds=30)
            assert answer.grpc_status == DEADLINE_EXCEEDED, answer
            assert answer.message
        assert connection.call(request_for(DOCUMENTED_ID)).grpc_status == OK


def test_rest_request_whose_body_never_comes_ends(short_system: System) -> None:
    """408, and it may be retried."""
    host, _, number = short_system.http.rpartition(":")
    with socket.create_connection((host, int(number)), timeout=30) as caller:
        caller.sendall(f"GET /api/tasks/{DOCUMENTED_ID} HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n".encode())
        answer = caller.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"retryable":true' in answer


def cpu_seconds(system: System) -> float:
    """CPU time that the processes have used so far."""
    return sum(sum(member.cpu_times()[:2]) for member in system.family())


@pytest.mark.long
@MODES
def test_idle_watches_cost_nothing_to_speak_of(patient_system: System) -> None:
    """1,000 of them: 0.005 of a core inside Envoy, measured for ten seconds. The bound is for a busy machine."""
    with held(patient_system.grpc, 1000, WATCH, framed(b""), ends=True) as watches:
        assert_all_begun(watches)
        time.sleep(7)  # on purpose: new ones are checked more often
        before = cpu_seconds(patient_system)
        time.sleep(5)  # on purpose: the interval of the measurement
        assert (cpu_seconds(patient_system) - before) / 5 < 0.15  # of that, 0.02 without any watch


@MODES
@PORTS
def test_stop_does_not_wait_for_watches(tmp_path: Path, mode: str, port: str) -> None:
    """They end, and nothing waits for the grace period."""
    arguments = ("--demo", "--shutdown-grace", "35")
    with running_system(tmp_path / "tasks.db", *arguments, mode=mode, workers=1) as system:
        with held(getattr(system, port), 200, WATCH, framed(b""), ends=True) as watches:
            assert_all_begun(watches)
            began = time.monotonic()
            system.process.send_signal(signal.SIGTERM)
            for watch in watches:
                watch.ignore_goaway()
                with contextlib.suppress(ConnectionLost):
                    while any(not answer.ended and answer.reset is None for answer in watch.answers.values()):
                        watch.receive()
        assert system.wait() == 0
        assert time.monotonic() - began < 20  # two seconds on an idle machine


@pytest.mark.parametrize("path", [None, WATCH], ids=["no call", "an idle watch"])
@PORTS
def test_client_that_pings_is_not_cut_off(short_system: System, path: str | None, port: str) -> None:
    """Six keepalive pings, a little more than a second apart: grpcio's own rule is two hours, or five minutes."""
    with RawGrpc(getattr(short_system, port)) as connection:
        if path is not None:
            connection.data(connection.open(path), framed(b""), end=True)
        for _ in range(6):
            connection.h2.ping(b"keepaliv")
            connection.flush()
            deadline = time.monotonic() + 1.2
            while (left := deadline - time.monotonic()) > 0:
                connection.receive(left)
        assert connection.goaway is None
        assert connection.call(request_for(DOCUMENTED_ID)).grpc_status == OK


@pytest.mark.parametrize("short_system", ["proxied"], indirect=True)
def test_client_that_floods_with_pings_is_cut_off(short_system: System) -> None:
    with RawGrpc(short_system.grpc) as connection:
        for _ in range(20):
            connection.h2.ping(b"keepaliv")
        connection.flush()
        eventually(lambda: connection.lost or connection.receive(0.1) or connection.goaway, "GOAWAY")
        assert isinstance(connection.goaway, h2.events.ConnectionTerminated)
        assert connection.goaway.additional_data == b"too_many_pings"


@PORTS
def test_connection_holds_a_limited_number_of_calls(short_system: System, port: str) -> None:
    """100 in Envoy, more on a server's own port; clients learn it from SETTINGS and hold back further calls."""
    limits = {ON_A_CONNECTION, MAX_CALLS_ON_A_CONNECTION}
    with RawGrpc(getattr(short_system, port)) as connection:
        eventually(
            lambda: connection.receive(0.1) or connection.h2.remote_settings.max_concurrent_streams in limits,
            "the limit",
        )

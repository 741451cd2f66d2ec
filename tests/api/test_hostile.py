"""Bytes that no well-meaning client sends: each gets a defined answer, and the server survives."""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.clients import Client, GrpcClient, RestClient
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID
from support.running import System

# The system is shared on purpose: it must survive all examples. Examples are fixed, so that a failure repeats.
hostile = settings(
    max_examples=3 * settings().max_examples,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

JSON_KEYS = ["status", "message", "instance", "retryable"]


def exchange(address: str, request: bytes) -> bytes:
    """Send raw bytes on a new connection, and return everything that the server answers."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        received = b""
        while data := connection.recv(65536):
            received += data
            head, separator, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            if separator and length and len(body) >= int(length[1]):
                break
        return received


def assert_defined(answer: bytes) -> int:
    """One HTTP/1.1 answer: the document, or an error with the JSON body of all errors. Returns its status."""
    head, _, body = answer.partition(b"\r\n\r\n")
    match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) .*", head.partition(b"\r\n")[0])
    assert match, answer[:200]
    status = int(match[1])
    if status == 200:
        assert body == DOCUMENTED_COMPACT
        return status
    assert 400 <= status < 500, answer[:500]
    assert b"content-type: application/json" in head.lower()
    error = json.loads(body)
    assert list(error) == JSON_KEYS
    assert error["status"] == status
    return status


# Bytes that a request line may contain without ending.
raw_path = st.binary(min_size=1, max_size=200).map(lambda raw: re.sub(rb"[\x00-\x20\x7f]", b"%", raw))
encoded_path = st.binary(min_size=1, max_size=100).map(lambda raw: "".join(f"%{byte:02X}" for byte in raw).encode())


@hostile
@given(path=st.one_of(raw_path, encoded_path))
def test_any_path_after_tasks_gets_a_4xx(system: System, path: bytes) -> None:
    """Any bytes in the place of the task ID, raw or percent-encoded: a JSON 4xx."""
    request = b"GET /api/tasks/" + path + b" HTTP/1.1\r\nhost: x\r\n\r\n"
    assert_defined(exchange(system.http, request))


@hostile
@given(
    name=st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}", fullmatch=True),
    value=st.binary(max_size=200).map(lambda raw: re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"?", raw)),
)
def test_any_header_is_harmless(system: System, name: bytes, value: bytes) -> None:
    """A legal header of any name and content gives the document or a JSON 4xx."""
    if name.lower() in {b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect", b"host"}:
        name = b"x-" + name
    request = b"GET /api/tasks/%b HTTP/1.1\r\nhost: x\r\n%b: %b\r\n\r\n" % (DOCUMENTED_ID.encode(), name, value)
    assert_defined(exchange(system.http, request))


HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def tell(address: str, garbage: bytes) -> bytes:
    """All bytes that the server returns for bytes that may be no request at all."""
    host, _, port = address.rpartition(":")
    received = b""
    try:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                received += data
    except (ConnectionResetError, BrokenPipeError):
        pass
    return received


@hostile
@given(preface=st.sampled_from([b"", HTTP2_PREFACE]), garbage=st.binary(min_size=1, max_size=300))
def test_any_bytes_on_a_connection_leave_the_server_alive(system: System, preface: bytes, garbage: bytes) -> None:
    """Bytes that are not HTTP get a 400 or a closed connection, as HTTP permits, on Envoy's and the server's port."""
    received = tell(system.http, preface + garbage + b"\r\n\r\n")
    if received.startswith(b"HTTP/1.1 "):
        assert_defined(received)
    tell(system.grpc, preface + garbage)


def test_servers_live_after_all_that(system: System, client: Client) -> None:
    """The processes that received the bytes above are the ones that started, and every client is served."""
    assert_lives(system)
    assert client.get_task_json(DOCUMENTED_ID).document == DOCUMENTED_COMPACT


def as_task_id(raw: bytes) -> bytes:
    """A request message whose task ID is ``raw``, UTF-8 or not."""
    length = bytes([len(raw) & 0x7F | 0x80, len(raw) >> 7])
    return b"\x0a" + length + raw


@hostile
@given(request=st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(as_task_id)))
def test_any_grpc_message_gets_a_defined_status(system: System, grpc_client: GrpcClient, request: bytes) -> None:
    """Arbitrary bytes as request message: INVALID_ARGUMENT or NOT_FOUND, never a broken call."""
    for method in ("GetTask", "GetTaskJson"):
        outcome, _ = grpc_client.call(f"/taskgate.v1.TaskService/{method}", request, {})
        assert outcome.code in {"INVALID_ARGUMENT", "NOT_FOUND"}
        assert outcome.reason


def test_request_message_over_the_limit_is_refused(system: System) -> None:
    """48 MiB of request are RESOURCE_EXHAUSTED, from gRPC itself (64 KiB may come); the next call is answered."""
    options = [("grpc.max_send_message_length", -1)]
    for target in (system.grpc, system.http):
        with grpc.insecure_channel(target, options=options) as channel:
            call: Any = channel.unary_unary("/taskgate.v1.TaskService/GetTask")
            try:
                call(b"\x0a\x80\x80\x80\x18" + b"x" * (48 * 1024 * 1024), timeout=30)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017 - grpc raises a private class
            else:
                raise AssertionError("a request of 48 MiB was taken")
    assert_lives(system)


def test_large_headers_and_bodies_on_rest_are_4xx_or_ignored(system: System) -> None:
    """An over-long path or header is a JSON 4xx; a body on GET is no reason to fail."""
    start = b"GET /api/tasks/" + DOCUMENTED_ID.encode() + b" HTTP/1.1\r\nhost: x\r\n"
    assert assert_defined(exchange(system.http, start + b"x: " + b"y" * 100_000 + b"\r\n\r\n")) == 431
    assert_defined(exchange(system.http, b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n"))
    for body in (b"content-length: 5\r\n\r\nhello", b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"):
        assert_defined(exchange(system.http, start + body))


def test_abandoned_connections_do_not_stop_the_server(system: System) -> None:
    """Two thousand callers that close their connection in the middle of a request."""
    host, _, port = system.http.rpartition(":")

    def abandon(_: int) -> None:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"GET /api/tasks/" + DOCUMENTED_ID.encode())

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(abandon, range(2_000)))
    assert_lives(system)


def assert_lives(system: System) -> None:
    client = RestClient("rest", system.http)
    assert client.get_task_json(DOCUMENTED_ID).document == DOCUMENTED_COMPACT
    client.close()
    assert system.process.poll() is None
    assert not system.events("worker gone; replacing it")

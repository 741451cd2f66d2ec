"""A client for each protocol behind one interface, so that one test body covers all."""

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.rpc import error_details_pb2, status_pb2

from taskgate.v1.task_service_pb2 import GetTaskJsonRequest, GetTaskRequest, GetTaskResponse

MAX_MESSAGE = 64 * 1024 * 1024
TIMEOUT = 30

GRPC_TO_HTTP = {
    "OK": 200,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "UNAVAILABLE": 503,
    "RESOURCE_EXHAUSTED": 503,
    "DATA_LOSS": 500,
    "INTERNAL": 500,
}


@dataclass
class Outcome:
    """How a call ended, the same for every client: an HTTP status (or the gRPC one's counterpart) and a message."""

    status: int
    document: bytes = b""
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    """The gRPC status name; None over REST."""
    reason: str | None = None
    """``ErrorInfo.reason``; None over REST."""
    metadata: dict[str, str] = field(default_factory=dict)
    """``ErrorInfo.metadata``."""
    retryable: bool | None = None
    """From the error body; None over gRPC, where the code implies it."""
    error: str | None = None
    """The member ``error`` of a REST error body, which SDKs read after a 401."""


class Client(Protocol):
    """One client."""

    name: str

    def get_task_json(self, task_id: str, **headers: str) -> Outcome:
        """Ask for the document."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class GrpcClient:
    """A gRPC channel, to the server itself or through Envoy."""

    def __init__(self, name: str, target: str) -> None:
        self.name = name
        options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.enable_retries", 0)]
        self.channel = grpc.insecure_channel(target, options=options)

    def get_task_json(self, task_id: str, **headers: str) -> Outcome:
        outcome, response = self.call(
            "/taskgate.v1.TaskService/GetTaskJson", GetTaskJsonRequest(task_id=task_id).SerializeToString(), headers
        )
        if response is not None:
            body = HttpBody.FromString(response)
            assert body.content_type == "application/json"
            outcome.document = body.data
        return outcome

    def get_task(self, task_id: str, service: str = "taskgate.v1.TaskService", **headers: str) -> tuple[Outcome, Any]:
        """Ask for the typed task; the second part is None on failure."""
        request = GetTaskRequest(task_id=task_id).SerializeToString()
        outcome, response = self.call(f"/{service}/GetTask", request, headers)
        return outcome, None if response is None else GetTaskResponse.FromString(response).task

    def call(
        self, path: str, request: bytes, headers: dict[str, str], timeout: float = TIMEOUT
    ) -> tuple[Outcome, bytes | None]:
        """Send one unary call of raw bytes."""
        method: Any = self.channel.unary_unary(path)
        metadata = tuple((key.replace("_", "-"), value) for key, value in headers.items())
        try:
            response, call = method.with_call(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            return _refused(error), None
        return Outcome(200, code="OK", headers=_metadata(call.trailing_metadata())), response

    def close(self) -> None:
        self.channel.close()


def _metadata(pairs: Any) -> dict[str, str]:
    return {key: value for key, value in pairs or () if isinstance(value, str)}


def _refused(error: Any) -> Outcome:
    code = error.code().name
    outcome = Outcome(GRPC_TO_HTTP.get(code, 0), code=code, message=error.details() or "")
    outcome.headers = _metadata(error.trailing_metadata())
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if details is not None:
        status = status_pb2.Status.FromString(details)
        assert (status.message, status.code) == (outcome.message, error.code().value[0])
        info = error_details_pb2.ErrorInfo()
        (detail,) = [detail for detail in status.details if detail.Is(info.DESCRIPTOR)]
        assert detail.Unpack(info)
        assert info.domain == "taskgate"
        outcome.reason, outcome.metadata = info.reason, dict(info.metadata)
        if outcome.reason in _WAIT:
            outcome.status = 429
    return outcome


_WAIT = {"ERROR_REASON_TOO_MANY_ATTEMPTS"}
"""Reasons of RESOURCE_EXHAUSTED for which the caller is to blame, not a full server."""


def _rest_outcome(method: str, status: int, headers: dict[str, str], body: bytes) -> Outcome:
    outcome = Outcome(status, headers=headers)
    assert headers["content-type"] == "application/json"
    leaked = [name for name in headers if name.startswith("grpc-")]
    assert not leaked
    if method == "HEAD":
        assert body == b""
        return outcome
    if status == 200:
        outcome.document = body
        return outcome
    error = json.loads(body)
    assert list(error) == ["status", "message", "instance", "retryable"] + ["error"] * (status == 401)
    assert error["status"] == status
    assert error["instance"] == "test-node"
    assert error["retryable"] is (status in {429, 503, 504})
    assert error["message"]
    outcome.message, outcome.retryable, outcome.error = error["message"], error["retryable"], error.get("error")
    return outcome


def percent_encode(task_id: str) -> str:
    """Encode every byte that is not unreserved, as SDKs do."""
    return quote(task_id, safe="")


class RestClient:
    """REST over HTTP/1.1, on one kept-alive connection."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self._connection = http.client.HTTPConnection(address, timeout=TIMEOUT)

    def get_task_json(self, task_id: str, **headers: str) -> Outcome:
        return self.get(f"/api/tasks/{percent_encode(task_id)}", **headers)

    def get(self, path: str, method: str = "GET", **headers: str) -> Outcome:
        """Send any GET request."""
        return self._send(path, method, headers)

    def post(self, path: str, body: bytes | Iterable[bytes], **headers: str) -> Outcome:
        """Send any POST request; a body in parts is chunked."""
        return self._send(path, "POST", {"content_type": "application/json", **headers}, body)

    def _send(
        self, path: str, method: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None = None
    ) -> Outcome:
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        self._connection.request(method, path, body, names)
        response = self._connection.getresponse()
        body = response.read()
        received = {key.lower(): value for key, value in response.getheaders()}
        return _rest_outcome(method, response.status, received, body)

    def close(self) -> None:
        self._connection.close()


class Http2Client:
    """REST over HTTP/2 in clear text, with prior knowledge; one connection, one request at a time."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        host, _, port = address.rpartition(":")
        self._authority = address
        self._socket = socket.create_connection((host, int(port)), timeout=TIMEOUT)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(MAX_MESSAGE)
        self._flush()

    def get_task_json(self, task_id: str, **headers: str) -> Outcome:
        return self.get(f"/api/tasks/{percent_encode(task_id)}", **headers)

    def get(self, path: str, method: str = "GET", **headers: str) -> Outcome:
        """Send any GET request."""
        return self._send(path, method, headers)

    def post(self, path: str, body: bytes, **headers: str) -> Outcome:
        """Send any POST request whose body fits the window of a new stream, 64 KiB."""
        return self._send(path, "POST", {"content_type": "application/json", **headers}, body)

    def _send(self, path: str, method: str, headers: Mapping[str, str], body: bytes = b"") -> Outcome:
        stream = self._h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":path", path), (":scheme", "http"), (":authority", self._authority)]
        extra = [(key.replace("_", "-"), value) for key, value in headers.items()]
        self._h2.send_headers(stream, pseudo + extra, end_stream=not body)
        for begin in range(0, len(body), self._h2.max_outbound_frame_size):
            part = body[begin : begin + self._h2.max_outbound_frame_size]
            self._h2.send_data(stream, part, end_stream=begin + len(part) == len(body))
        self._h2.increment_flow_control_window(MAX_MESSAGE, stream)
        self._flush()
        return self._read(stream, method)

    def _read(self, stream: int, method: str) -> Outcome:
        received: dict[str, str] = {}
        body = bytearray()
        while True:
            for event in self._h2.receive_data(self._received()):
                if getattr(event, "stream_id", stream) != stream:
                    continue
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    received |= {_text(key): _text(value) for key, value in event.headers}
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                    self._h2.acknowledge_received_data(event.flow_controlled_length, stream)
                elif isinstance(event, h2.events.StreamEnded):
                    self._flush()
                    status = int(received.pop(":status"))
                    return _rest_outcome(method, status, received, bytes(body))
                elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    pytest.fail(f"Envoy broke the stream: {event}")
            self._flush()

    def _received(self) -> bytes:
        data = self._socket.recv(1 << 20)
        assert data, "Envoy closed the connection"
        return data

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


CLIENTS = ("grpc", "grpc-envoy", "rest", "rest-h2")


def open_client(name: str, http_address: str, grpc_address: str) -> Client:
    """The client called ``name``."""
    if name == "grpc":
        return GrpcClient(name, grpc_address)
    if name == "grpc-envoy":
        return GrpcClient(name, http_address)
    if name == "rest":
        return RestClient(name, http_address)
    return Http2Client(name, http_address)

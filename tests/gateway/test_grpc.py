"""gRPC callers on the same port: their calls pass unchanged, and every error is a genuine gRPC one."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.rpc import error_details_pb2, status_pb2

from gateway.channels import METHODS, method, open_channel
from gateway.running import Gateway, StubServer, most_calls
from gateway.stub_server import DOCUMENT, MESSAGE
from gateway.wire import Answer, Http1, Http2
from support.raw_grpc import RawGrpc
from taskgate.base.addresses import Address
from taskgate.transports.grpc_wire import timeout_seconds
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest

NO_SERVER = "No server could take the call; try again"


@pytest.fixture
def channel(gateway: Gateway) -> Iterator[grpc.Channel]:
    with open_channel(gateway.address) as opened:
        yield opened


def call(channel: grpc.Channel, task_id: str, path: str = METHODS[0], **options: Any) -> tuple[HttpBody, Any]:
    """One call: the answer and the grpc.Call."""
    request = GetTaskJsonRequest(task_id=task_id).SerializeToString()
    response, done = method(channel, path).with_call(request, timeout=options.pop("timeout", 30), **options)
    return HttpBody.FromString(response), done


def refusal(channel: grpc.Channel, task_id: str, path: str = METHODS[0], **options: Any) -> Any:
    """The error that ends a call."""
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, task_id, path, **options)
    return caught.value


class TestCalls:
    def test_metadata_passes_both_ways(self, channel: grpc.Channel) -> None:
        """With underscores too, and trailers. Headers of the protocol itself, and binary ones, do not."""
        sent = (("foo-bin", b"\x01\x02"), ("under_score", "1"), ("x-request-id", "caller:42"))
        for path in METHODS:
            body, done = call(channel, "a", path, metadata=sent)
            got = dict(json.loads(body.data)["metadata"])
            assert (got["under_score"], got["x-request-id"]) == ("1", "caller:42")
            assert not {"foo-bin", "x-taskgate-protocol"} & set(got)
            assert ("x-request-id", "caller:42") in [(key, value) for key, value in done.initial_metadata()]
            assert dict(done.trailing_metadata())["x-trailer"] == "seen"

    def test_callers_cannot_steer_envoy(self, channel: grpc.Channel) -> None:
        steering = (("x-envoy-upstream-rq-timeout-ms", "100"), ("x-envoy-max-retries", "9"))
        assert call(channel, "stub.sleep.0.3", metadata=steering)[0].data == DOCUMENT

    def test_no_deadline_is_invented(self, channel: grpc.Channel) -> None:
        request = GetTaskJsonRequest(task_id="a").SerializeToString()
        body = HttpBody.FromString(method(channel)(request))
        description = json.loads(body.data)
        assert description["remaining"] is None
        assert "x-taskgate-timeout" not in dict(description["metadata"])

    def test_the_callers_deadline_reaches_the_service(self, channel: grpc.Channel) -> None:
        """In a header of its own, so that grpcio does not end the call; a caller cannot name two."""
        sent = (("x-taskgate-timeout", "1S"),)
        for metadata in ((), sent):
            description = json.loads(call(channel, "a", timeout=7, metadata=metadata)[0].data)
            assert description["remaining"] is None
            (passed,) = [value for key, value in description["metadata"] if key == "x-taskgate-timeout"]
            assert 6 < timeout_seconds(passed.encode()) <= 7.01

    def test_more_calls_than_streams_on_a_connection(self, channel: grpc.Channel) -> None:
        """Envoy allows a hundred at a time; a client queues the others, and none fails."""
        request = GetTaskJsonRequest(task_id="stub.sleep.0.1").SerializeToString()
        futures = [method(channel).future(request, timeout=30) for _ in range(250)]
        assert {HttpBody.FromString(future.result()).data for future in futures} == {DOCUMENT}


class TestErrorsFromTheServer:
    def test_every_code_passes_with_its_details(self, channel: grpc.Channel, subtests: pytest.Subtests) -> None:
        for code in grpc.StatusCode:
            if code is not grpc.StatusCode.OK:
                with subtests.test(code.name):
                    error = refusal(channel, f"stub.error.{code.value[0]}")
                    assert (error.code(), error.details()) == (code, MESSAGE)
                    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
                    info = error_details_pb2.ErrorInfo()
                    assert status.details[0].Unpack(info)
                    assert info.metadata == {"code": str(code.value[0])}

    def test_calls_to_paths_of_rest_are_unimplemented(self, channel: grpc.Channel, subtests: pytest.Subtests) -> None:
        """The server refuses them: no route of REST takes a gRPC call."""
        for path in ("/no.such.Service/Nope", "/api/tasks/a", "/healthz", "/api/token", "/", "/a//b"):
            with subtests.test(path):
                error = refusal(channel, "a", path)
                assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


class TestErrorsFromEnvoy:
    def test_no_server_is_unavailable(self, start_gateway: Callable[..., Gateway]) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            gateway = start_gateway(Address("127.0.0.1", bound.getsockname()[1]))
            with open_channel(gateway.address) as channel:
                for path in (*METHODS, "/api/tasks/a"):
                    error = refusal(channel, "a", path)
                    told = (path, error.code(), error.details())
                    assert told == (path, grpc.StatusCode.UNAVAILABLE, NO_SERVER)

    def test_server_that_dies_during_the_call_is_unavailable(
        self, start_stub: Callable[..., StubServer], start_gateway: Callable[..., Gateway]
    ) -> None:
        with open_channel(start_gateway(start_stub()).address) as channel:
            error = refusal(channel, "stub.exit")
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, NO_SERVER)

    def test_request_that_never_ends_does_not_reach_the_server(
        self, stub: StubServer, start_gateway: Callable[..., Gateway]
    ) -> None:
        """Envoy ends it a second after the longest time of a call, whatever deadline the caller named."""
        with RawGrpc(str(start_gateway(stub, request_timeout=0.5).address)) as connection:
            streams = [connection.open(METHODS[0], ("grpc-timeout", "100m")) for _ in range(2)]
            connection.data(streams[1], frame("a"))
            began = time.monotonic()
            for stream in streams:
                answer = connection.answer(stream)
                assert (answer.one("content-type"), answer.grpc_status) == ("application/grpc", 4)
                assert answer.message == "The request took too long to arrive; try again"
            assert time.monotonic() - began > 1

    def test_calls_over_the_limit_are_unavailable_at_once(
        self, stub: StubServer, start_gateway: Callable[..., Gateway]
    ) -> None:
        request = GetTaskJsonRequest(task_id="stub.sleep.2.0").SerializeToString()
        gateway = start_gateway(stub, changes=[most_calls(2)])
        with open_channel(gateway.address) as channel:
            futures = [method(channel).future(request, timeout=10) for _ in range(4)]
            codes = sorted(future.code().name for future in futures)
        assert codes == ["OK", "OK", "UNAVAILABLE", "UNAVAILABLE"]

    def test_first_call_on_a_connection_keeps_its_status(
        self, stub: StubServer, start_gateway: Callable[..., Gateway], subtests: pytest.Subtests
    ) -> None:
        """Of headers that gRPC's library refuses: its refusal, as the first answer, would break Envoy's connection."""
        for name, value, status in (
            ("grpc-timeout", "bad", "0"),  # the service refuses it
            ("grpc-timeout", "1n", "0"),  # the service ends the call
            ("grpc-encoding", "br", "12"),
            ("grpc-previous-rpc-attempts", "bad", "0"),
            ("grpc-retry-pushback-ms", "bad", "0"),
            ("grpc-internal-encoding-request", "bad", "0"),
            ("grpc-status", "bad", "0"),
            ("own-bin", "!!! not base64", "0"),
        ):
            with subtests.test(name), Http2(start_gateway(stub).address) as connection:
                answer = raw_call(connection, "stub.document", (name, value))
                found = dict((*answer.headers, *answer.trailers))
                assert found["grpc-status"] == status, answer
                assert status != "12" or found["grpc-accept-encoding"] == "identity, deflate, gzip"

    def test_unknown_compression_is_refused_on_every_route(
        self, stub: StubServer, start_gateway: Callable[..., Gateway], subtests: pytest.Subtests
    ) -> None:
        """Also on those that settings add: of tokens, and of gRPC-Web."""
        settings = {"token_endpoint": True, "cors_origins": ("http://page.test",)}
        with Http2(start_gateway(stub, **settings).address) as connection:
            for path in (
                METHODS[0],
                "/taskgate.v1.TokenService/CreateToken",
                "/grpc.health.v1.Health/Watch",
                "/no/Such",
            ):
                for content_type in ("application/grpc", "application/grpc-web+proto"):
                    with subtests.test(path, content_type=content_type):
                        headers = [("content-type", content_type), ("te", "trailers"), ("grpc-encoding", "br")]
                        answer = connection.ask(path, "POST", headers, frame("a"))
                        assert dict(answer.headers)["grpc-status"] == "12", answer

    def test_grpc_over_http1_is_refused_clearly(self, gateway: Gateway) -> None:
        """The trailers that carry gRPC's status would be lost."""
        with Http1(gateway.address) as connection:
            answer = connection.ask(METHODS[0], "POST", [("content-type", "application/grpc")], frame("a"))
        assert (answer.status, answer.body) == (200, b"")
        assert answer.header("grpc-status") == "12"
        assert answer.header("grpc-message") == "gRPC needs POST over HTTP/2"

    def test_ambiguous_grpc_paths_are_internal_errors_of_grpc(self, gateway: Gateway) -> None:
        for path in ("/a%2Fb", "/taskgate.v1.TaskService%2FGetTask"):
            with Http2(gateway.address) as connection:
                answer = raw_call(connection, "a", path=path)
            assert answer.status == 200
            assert answer.header("grpc-status") == "13"
            assert answer.header("grpc-message") == "The gateway could not pass the call on"


def frame(task_id: str) -> bytes:
    """A request message as gRPC frames it."""
    message = GetTaskJsonRequest(task_id=task_id).SerializeToString()
    return b"\x00" + len(message).to_bytes(4, "big") + message


def raw_call(connection: Http2, task_id: str, *headers: tuple[str, str], path: str = METHODS[0]) -> Answer:
    sent = [("content-type", "application/grpc"), ("te", "trailers"), *headers]
    return connection.ask(path, "POST", sent, frame(task_id))

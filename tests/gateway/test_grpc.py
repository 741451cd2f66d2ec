"""gRPC callers on the same port: their calls pass as they are, and every error is a genuine gRPC one."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.channels import METHODS, method, open_channel
from gateway.running import Gateway, StubServer
from gateway.stub_server import DOCUMENT, MESSAGE
from gateway.wire import Answer, Http1, Http2
from taskgate.addresses import Address
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
    """The error that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, task_id, path, **options)
    return caught.value


class TestCalls:
    @pytest.mark.parametrize("path", METHODS)
    def test_reach_the_server(self, channel: grpc.Channel, path: str) -> None:
        body, done = call(channel, "stub.document", path)
        assert (body.content_type, body.data) == ("application/json", DOCUMENT)
        assert dict(done.trailing_metadata())["x-trailer"] == "seen"

    def test_metadata_passes_both_ways(self, channel: grpc.Channel) -> None:
        """Binary and with underscores too; what marks the protocol does not."""
        sent = (("foo-bin", b"\x01\x02"), ("under_score", "1"), ("x-request-id", "caller:42"))
        body, done = call(channel, "a", metadata=sent)
        got = dict(json.loads(body.data)["metadata"])
        assert (got["foo-bin"], got["under_score"], got["x-request-id"]) == ("0102", "1", "caller:42")
        assert "x-taskgate-protocol" not in got
        assert ("x-request-id", "caller:42") in [(key, value) for key, value in done.initial_metadata()]

    def test_callers_cannot_steer_envoy(self, channel: grpc.Channel) -> None:
        steering = (("x-envoy-upstream-rq-timeout-ms", "100"), ("x-envoy-max-retries", "9"))
        assert call(channel, "stub.sleep.0.3", metadata=steering)[0].data == DOCUMENT

    def test_no_deadline_is_invented(self, channel: grpc.Channel) -> None:
        request = GetTaskJsonRequest(task_id="a").SerializeToString()
        body = HttpBody.FromString(method(channel)(request))
        assert json.loads(body.data)["remaining"] is None

    def test_the_callers_deadline_reaches_the_server(self, channel: grpc.Channel) -> None:
        """The client sends it in hundredths of a second, rounded up."""
        assert 6 < json.loads(call(channel, "a", timeout=7)[0].data)["remaining"] <= 7.01

    def test_health_and_its_watch(self, channel: grpc.Channel) -> None:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(iter(watch)).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()

    def test_reflection(self, channel: grpc.Channel) -> None:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        [answer] = list(stub.ServerReflectionInfo(requests, timeout=10))
        assert "grpc.health.v1.Health" in [service.name for service in answer.list_services_response.service]

    def test_more_calls_than_streams_on_a_connection(self, channel: grpc.Channel) -> None:
        """Envoy allows a hundred at a time; a client waits for its turn, and none fails."""
        request = GetTaskJsonRequest(task_id="stub.sleep.0.1").SerializeToString()
        futures = [method(channel).future(request, timeout=30) for _ in range(250)]
        assert {HttpBody.FromString(future.result()).data for future in futures} == {DOCUMENT}


class TestErrorsFromTheServer:
    @pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
    def test_every_code_with_its_details(self, channel: grpc.Channel, code: grpc.StatusCode) -> None:
        error = refusal(channel, f"stub.error.{code.value[0]}")
        assert (error.code(), error.details()) == (code, MESSAGE)
        status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert info.metadata == {"code": str(code.value[0])}

    @pytest.mark.parametrize(
        "path",
        [
            "/taskgate.v1.TaskService/Nope",
            "/no.such.Service/Nope",
            "/api/tasks/a",
            "/healthz",
            "/api/token",
            "/",
            "/a//b",
        ],
    )
    def test_unknown_methods_are_unimplemented(self, channel: grpc.Channel, path: str) -> None:
        error = refusal(channel, "a", path)
        assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    def test_undecodable_request(self, channel: grpc.Channel) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            method(channel)(b"\x0a\x02\xff\xff", timeout=10)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


class TestErrorsFromEnvoy:
    @pytest.mark.parametrize("path", [*METHODS, "/api/tasks/a"])
    def test_server_away(self, start_gateway: Callable[..., Gateway], path: str) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            gateway = start_gateway(Address("127.0.0.1", bound.getsockname()[1]))
            with open_channel(gateway.address) as channel:
                error = refusal(channel, "a", path)
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, NO_SERVER)

    def test_server_dies_during_the_call(
        self, start_stub: Callable[..., StubServer], start_gateway: Callable[..., Gateway]
    ) -> None:
        with open_channel(start_gateway(start_stub()).address) as channel:
            error = refusal(channel, "stub.exit")
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, NO_SERVER)

    def test_deadline(self, channel: grpc.Channel) -> None:
        started = time.monotonic()
        assert refusal(channel, "stub.sleep.10.0", timeout=0.4).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started < 3

    def test_deadline_of_a_caller_that_only_names_it(self, gateway: Gateway) -> None:
        """Grpcio gives up by itself; here Envoy or the server has to."""
        with Http2(gateway.address) as connection:
            answer = raw_call(connection, "stub.sleep.10.0", ("grpc-timeout", "400m"))
        assert dict((*answer.headers, *answer.trailers))["grpc-status"] == "4"

    def test_too_many_calls_at_a_time(self, stub: StubServer, start_gateway: Callable[..., Gateway]) -> None:
        request = GetTaskJsonRequest(task_id="stub.sleep.2.0").SerializeToString()
        with open_channel(start_gateway(stub, max_concurrent_requests=2).address) as channel:
            futures = [method(channel).future(request, timeout=10) for _ in range(4)]
            codes = sorted(future.code().name for future in futures)
        assert codes == ["OK", "OK", "UNAVAILABLE", "UNAVAILABLE"]

    @pytest.mark.parametrize(("name", "bad", "good"), [("grpc-timeout", "bad", "9876m"), ("x-a-bin", "!", "YQ")])
    def test_malformed_header_of_one_caller_spoils_no_other(
        self, gateway: Gateway, name: str, bad: str, good: str
    ) -> None:
        """A server refuses a header name for good once a value of it in its compression table was malformed."""
        for value, fine in ((bad, False), (good, True)):
            with Http2(gateway.address) as connection:
                answer = raw_call(connection, "stub.document", (name, value))
            found = dict((*answer.headers, *answer.trailers))["grpc-status"]
            assert (found == "0") is fine, (value, answer)

    def test_over_http1_it_is_refused_clearly(self, gateway: Gateway) -> None:
        """The trailers that carry gRPC's status would be lost."""
        with Http1(gateway.address) as connection:
            answer = connection.ask(METHODS[0], "POST", [("content-type", "application/grpc")], frame("a"))
        assert (answer.status, answer.body) == (200, b"")
        assert answer.header("grpc-status") == "12"
        assert answer.header("grpc-message") == "gRPC needs POST over HTTP/2"

    @pytest.mark.parametrize("path", ["/a%2Fb", "/taskgate.v1.TaskService%2FGetTask"])
    def test_paths_that_envoy_refuses(self, gateway: Gateway, path: str) -> None:
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

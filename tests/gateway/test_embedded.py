"""The gateway in mode embedded: the same tests of REST, of Envoy's own answers and of malformed requests.

Left out are tests of servers behind Envoy (retries, metadata, servers that die), which this mode has not, and of what
Envoy does before it chooses a route, which both modes have from the same lines of envoy.yaml.
"""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from gateway import test_errors, test_rest
from gateway.running import Gateway
from gateway.stub_server import DOCUMENT, MESSAGE
from gateway.wire import Ask, Headers, Http1, Http2, ask_over, assert_error
from support.running import eventually
from taskgate.base.addresses import Address
from taskgate.base.settings import Settings
from taskgate.processes.envoy import EmbeddedService, GatewaySettings
from taskgate.processes.envoy.embedded import EnvoyWithPython, module
from taskgate.processes.reserved_ports import Reservation
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest

PATH = "/api/tasks/"
ANY = Address("127.0.0.1", 0)


class GatewayWithPython(Gateway):
    """An Envoy with ``stub_app.py`` inside."""

    def __init__(self) -> None:
        super().__init__(ANY, changes=[("taskgate.processes.embedded_app:app", "gateway.stub_app:app")])
        self.grpc = Reservation(ANY, key="grpc")
        service = EmbeddedService(module(), self.grpc.address)
        self.envoy = EnvoyWithPython(
            GatewaySettings(listen=ANY, instance="test-node", embedded=service),
            Settings(instance="test-node"),
            on_log=lambda level, text: self.log.append((level, text)),
            threads=1,
        )

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.grpc.close()


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayWithPython]:
    """Replaces the one in front of servers, for every test of this module."""
    with GatewayWithPython() as running:
        yield running
        assert [text for _, text in running.log if "Traceback" in text or "xception" in text] == []


def announced(protocol: str, body: bytes) -> Headers:
    """The header that announces ``body``; over HTTP/1.1 the client sends it anyway."""
    return [("content-length", str(len(body)))] if protocol == "http2" else []


class TestSuccess(test_rest.TestSuccess):
    pass


class TestOnlyThePathNamesTheTask(test_rest.TestOnlyThePathNamesTheTask):
    """Named exception: over HTTP/2, a body without a content-length. See gateway/embedded.yaml."""

    def test_body_changes_nothing(self, ask: Ask, subtests: pytest.Subtests, protocol: str) -> None:
        for body in test_rest.BODIES:
            with subtests.test(repr(body[:20])):
                assert ask(f"{PATH}THIS", body=body, headers=announced(protocol, body)).json == {"task_id": "THIS"}

    def test_chunked_body_changes_nothing_and_leaves_the_connection_clean(self, gateway: Gateway) -> None:
        """Or Envoy announces that it closes it: the answer may be ready before Envoy has seen the end of the body."""
        with Http1(gateway.address) as connection:
            connection.send(b"GET /api/tasks/THIS HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            connection.send(b'12\r\n{"taskId":"OTHER"}\r\n0\r\n\r\n')
            answer = connection.answer()
            assert answer.json == {"task_id": "THIS"}
            if answer.header("connection") != "close":
                assert connection.ask(f"{PATH}NEXT").json == {"task_id": "NEXT"}

    def test_unannounced_body_is_refused_or_changes_nothing(self, gateway: Gateway, subtests: pytest.Subtests) -> None:
        for body in (b'{"taskId":"OTHER"}', b"[1]", b"x" * 100_000):
            with subtests.test(repr(body[:20])), Http2(gateway.address) as connection:
                answer = connection.ask(f"{PATH}THIS", body=body)
                if answer.status == 200:
                    assert answer.json == {"task_id": "THIS"}
                else:
                    assert_error(answer, answer.status)
                    assert answer.status in {400, 413}

    def test_large_body_is_refused(self, ask: Ask, protocol: str) -> None:
        for size in (100_000, 3_000_000):
            body = b"x" * size
            answer = ask(f"{PATH}THIS", body=body, headers=announced(protocol, body))
            assert_error(answer, 413, "The request body is too large")


class TestTaskIds(test_rest.TestTaskIds):
    def test_invalid_utf8_is_refused_by_the_server(self, ask: Ask, subtests: pytest.Subtests) -> None:
        for written, shown in zip(test_rest.NO_UTF8, (r"\xff", r"a\xc3", r"\xed\xa0\x80"), strict=True):
            with subtests.test(written):
                assert_error(ask(PATH + written), 400, f"Invalid task ID '{shown}': it is not UTF-8")


class TestMethods(test_rest.TestMethods):
    pass


class TestOtherPaths(test_rest.TestOtherPaths):
    pass


class TestHealth(test_rest.TestHealth):
    pass


class TestMalformed(test_errors.TestMalformed):
    pass


class TestRequestId(test_rest.TestRequestId):
    """Named exception: this mode has no metadata to compare with."""

    def test_callers_request_id_is_kept(self, ask: Ask) -> None:
        assert ask(f"{PATH}x", headers=[("x-request-id", "caller:42")]).header("x-request-id") == "caller:42"

    def test_call_without_a_request_id_gets_one(self, ask: Ask) -> None:
        assert len(ask(f"{PATH}x").header("x-request-id") or "") == 36


class TestHeaders:
    def test_no_header_speaks_to_grpc_or_to_the_service(self, ask: Ask, subtests: pytest.Subtests) -> None:
        """Each of these could set a deadline, break the call, or name another task."""
        for name, value in (
            ("grpc-timeout", "1n"),
            ("grpc-encoding", "gzip"),
            ("grpc-status", "5"),
            ("foo-bin", "!!! not base64"),
            ("x-envoy-original-path", "/api/tasks/OTHER"),
            ("x-envoy-original-method", "POST"),
            ("x-envoy-upstream-rq-timeout-ms", "1"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ):
            with subtests.test(name):
                answer = ask(f"{PATH}THIS", headers=[(name, value)])
                assert (answer.status, answer.json) == (200, {"task_id": "THIS"})

    def test_grpc_caller_cannot_pass_for_a_rest_call(self, gateway: GatewayWithPython) -> None:
        """No caller can set the header that names the task of a transcoded call, on either port."""
        for address in (gateway.address, gateway.grpc.address):
            with grpc.insecure_channel(str(address)) as channel:
                method: Any = channel.unary_unary("/taskgate.v1.TaskService/GetTaskJson")
                request = GetTaskJsonRequest(task_id="THIS").SerializeToString()
                answer = method(request, metadata=(("x-envoy-original-path", "/api/tasks/OTHER"),), timeout=10)
            assert answer.endswith(b'{"task_id": "THIS"}')


class TestErrors:
    def test_message_of_any_text_is_json(self, ask: Ask) -> None:
        assert_error(ask(f"{PATH}stub.error.5"), 404, MESSAGE)

    def test_failed_call_leaves_the_next_alone(self, gateway: Gateway) -> None:
        with Http1(gateway.address) as connection:
            assert connection.ask(f"{PATH}stub.error.5").status == 404
            assert connection.ask(f"{PATH}stub.document").body == DOCUMENT


class TestGrpc:
    def test_over_http1_it_is_refused_clearly(self, gateway: Gateway) -> None:
        headers = [("content-type", "application/grpc"), ("te", "trailers")]
        with Http1(gateway.address) as connection:
            answer = connection.ask("/taskgate.v1.TaskService/GetTask", method="POST", headers=headers, body=b"")
        assert answer.status == 200
        assert answer.header("grpc-status") == "12"
        assert "gRPC needs POST over HTTP/2" in (answer.header("grpc-message") or "")

    def test_rest_is_served_on_the_second_port_too(self, gateway: GatewayWithPython) -> None:
        """It is the same listener."""
        with Http1(gateway.grpc.address) as connection:
            assert connection.ask(f"{PATH}stub.document").body == DOCUMENT


class TestDraining:
    def test_health_fails_and_calls_are_answered(self) -> None:
        with GatewayWithPython() as running:
            ask = ask_over("http1", running.address)
            assert ask("/healthz").status == 200
            with grpc.insecure_channel(str(running.grpc.address)) as channel:
                watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
                assert next(watch) == b"\x08\x01"
                draining = running.begin(running.envoy.drain(60))
                assert next(watch) == b"\x08\x02"  # NOT_SERVING, without waiting for the next probe of the store
                watch.cancel()
            eventually(lambda: ask("/healthz").status == 503, "Envoy's own health fails")
            assert_error(ask("/healthz"), 503, retryable=True)
            assert ask(f"{PATH}stub.document").body == DOCUMENT
            draining.cancel()

"""Every error body over REST has one shape, whichever part made it, and reveals nothing behind the gateway."""

import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from gateway.running import Gateway, StubServer, largest_answer, largest_heap, most_calls
from gateway.stub_server import MESSAGE, PAUSE
from gateway.wire import Ask, Http1, Http2, HungUp, ask_over, assert_error
from support.running import eventually
from taskgate.base.addresses import Address
from taskgate.base.errors import STATUS_OF, TooManyAttempts
from taskgate.processes.envoy.probes import ask_admin

PATH = "/api/tasks/"

HTTP_STATUS = {
    1: 499,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    13: 500,
    14: 503,
    15: 500,
    16: 401,
}
"""gRPC codes and their HTTP status by ``google.rpc.Code``."""

RETRYABLE = {4, 8, 14}


MALFORMED = (
    b"nonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n",  # TLS at the plain port
    b"get /api/tasks/a HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET * HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /api/tasks/a HTTP/1.1\r\n\r\n",  # no host
    b"GET /api/tasks/a HTTP/1.1\r\nhost: a\r\nbad name: x\r\n\r\n",
    b"GET /api/tasks/a HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n",
    b"GET /api/tasks/a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
    b"GET /api/tasks/a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /api/tasks/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
    b"GET /api/tasks/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: unknown\r\n\r\n",
    b"GET /api/tasks/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST /api/tasks/a HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
    b"CONNECT /api/tasks/a HTTP/1.1\r\nhost: a\r\n\r\n",
)
"""Malformed HTTP/1.1."""


@pytest.fixture
def unused() -> Iterator[Address]:
    """An address that is bound without a listener: connections are refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield Address("127.0.0.1", bound.getsockname()[1])


class TestFromTheServer:
    def test_every_grpc_code_has_its_http_status(self, ask: Ask, subtests: pytest.Subtests) -> None:
        for code, status in HTTP_STATUS.items():
            with subtests.test(f"gRPC code {code}"):
                assert_error(ask(f"{PATH}stub.error.{code}"), status, MESSAGE, retryable=code in RETRYABLE)

    def test_every_taskgate_error_has_its_status_and_retry_after(self, ask: Ask, subtests: pytest.Subtests) -> None:
        """REST callers get the status in ``STATUS_OF``: Envoy's own tables agree with it."""
        for kind, row in STATUS_OF.items():
            with subtests.test(kind.__name__):
                answer = ask(f"{PATH}stub.kind.{kind.__name__}")
                assert_error(answer, row.http_status, MESSAGE, retryable=row.retryable, error=row.rest_error)
                seconds = PAUSE if kind is TooManyAttempts else row.retry_after
                assert answer.header("retry-after") == (None if seconds is None else str(seconds))

    def test_error_body_is_these_bytes(self, ask: Ask) -> None:
        message = json.dumps("The request cannot be decoded")
        expected = f'{{"status":400,"message":{message},"instance":"test-node","retryable":false}}'
        assert ask(f"{PATH}%FF").body == expected.encode()

    def test_length_of_an_error_is_right(self, gateway: Gateway) -> None:
        """The Lua filter replaces the body; a stale length would break the connection."""
        with Http1(gateway.address) as connection:
            answer = connection.ask(f"{PATH}stub.error.5")
            assert answer.header("content-length") == str(len(answer.body))
            assert connection.leftover() == b""

    def test_details_of_an_unknown_type_lose_only_the_decoding(self, ask: Ask) -> None:
        """The transcoder does not convert such an error; what gRPC escapes in headers stays escaped."""
        answer = ask(f"{PATH}stub.unknown-detail")
        escaped = 'quote " backslash \\ newline %0A accent %C3%A9 separator %E2%80%A8 {"message":"x"}'
        assert_error(answer, 404, escaped)

    def test_error_without_a_message_gets_one(self, ask: Ask) -> None:
        """SDKs show only the message, so it is never empty."""
        assert_error(ask(f"{PATH}stub.no-message"), 404, "No reason was given")

    def test_error_after_initial_metadata_is_whole(self, ask: Ask) -> None:
        answer = ask(f"{PATH}stub.after-metadata")
        assert_error(answer, 404, "after initial metadata")
        assert answer.header("x-early") == "yes"

    def test_retry_after_is_kept(self, ask: Ask) -> None:
        answer = ask(f"{PATH}stub.retry-after")
        assert_error(answer, 429, "Slowly", retryable=True)
        assert answer.header("retry-after") == "7"

    def test_a_failed_call_leaves_the_next_alone(self, gateway: Gateway) -> None:
        with Http2(gateway.address) as connection:
            streams = {code: connection.send(f"{PATH}stub.error.{code}") for code in HTTP_STATUS}
            for code, stream in streams.items():
                assert connection.answer(stream).status == HTTP_STATUS[code]


class TestFromEnvoy:
    def test_no_server_is_503_retryable(
        self, protocol: str, unused: Address, start_gateway: Callable[..., Gateway]
    ) -> None:
        ask = ask_over(protocol, start_gateway(unused).address)
        assert_error(ask(f"{PATH}a"), 503, "No server could take the call; try again", retryable=True)
        assert_error(ask("/healthz"), 503, "No server could take the call; try again", retryable=True)
        assert_error(ask("/nope"), 404, "No such route")

    def test_server_that_dies_during_the_call_is_503(
        self, protocol: str, start_stub: Callable[..., StubServer], start_gateway: Callable[..., Gateway]
    ) -> None:
        ask = ask_over(protocol, start_gateway(start_stub()).address)
        assert_error(ask(f"{PATH}stub.exit"), 503, "No server could take the call; try again", retryable=True)

    def test_server_that_does_not_answer_is_504(self, stub: StubServer, start_gateway: Callable[..., Gateway]) -> None:
        """When its time is over, and not before."""
        gateway = start_gateway(stub, request_timeout=0.5)
        for protocol in ("http1", "http2"):
            started = time.monotonic()
            answer = ask_over(protocol, gateway.address)(f"{PATH}stub.sleep.60.0")
            assert_error(answer, 504, "No server answered in time; try again", retryable=True)
            assert time.monotonic() - started > 0.4

    def test_server_that_is_not_grpc_is_504(self, protocol: str, start_gateway: Callable[..., Gateway]) -> None:
        """HTTP/1.1 instead of HTTP/2: another program has the port."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0.1)
            gateway = start_gateway(Address("127.0.0.1", listener.getsockname()[1]), request_timeout=0.5)
            answer = ask_over(protocol, gateway.address)(f"{PATH}a")
        assert_error(answer, 504, "No server answered in time; try again", retryable=True)

    def test_answer_over_the_limit_is_500(self, stub: StubServer, start_gateway: Callable[..., Gateway]) -> None:
        gateway = start_gateway(stub, changes=[largest_answer(100_000)])
        for protocol in ("http1", "http2"):
            ask = ask_over(protocol, gateway.address)
            assert ask(f"{PATH}stub.size.100000").status == 200
            assert_error(ask(f"{PATH}stub.size.110000"), 500, "The answer is too large to be passed on")

    def test_calls_over_the_limit_are_503_at_once(
        self, stub: StubServer, start_gateway: Callable[..., Gateway]
    ) -> None:
        gateway = start_gateway(stub, changes=[most_calls(2)])
        with Http2(gateway.address) as connection:
            streams = [connection.send(f"{PATH}stub.sleep.2.0") for _ in range(4)]
            answers = [connection.answer(stream) for stream in streams]
        assert sorted(answer.status for answer in answers) == [200, 200, 503, 503]
        refused = next(answer for answer in answers if answer.status == 503)
        assert_error(refused, 503, "No server could take the call; try again", retryable=True)

    def test_full_memory_is_503_retryable(
        self, protocol: str, stub: StubServer, start_gateway: Callable[..., Gateway]
    ) -> None:
        """The last resort, before a route is chosen: in JSON, under the caller's ID; Envoy itself goes on."""
        gateway = start_gateway(stub, changes=[largest_heap(1 << 20)])
        ask = ask_over(protocol, gateway.address)
        refused = lambda: ask(f"{PATH}a", headers=[("x-request-id", "my-id")]).status == 503  # noqa: E731
        eventually(refused, "Envoy has looked at its memory")
        for path in (f"{PATH}a", "/healthz", "/other"):
            answer = ask(path, headers=[("x-request-id", "my-id")])
            assert_error(answer, 503, "No server could take the call; try again", retryable=True)
            assert answer.header("x-request-id") == "my-id"
        made = ask(f"{PATH}a", headers=[("x-request-id", "not usable")]).header("x-request-id")
        assert made not in {None, "not usable"}
        assert ask_admin(gateway.admin, "GET", "/ready") == (200, "LIVE\n")

    def test_websocket_upgrade_is_403(self, gateway: Gateway) -> None:
        with Http1(gateway.address) as connection:
            answer = connection.ask(f"{PATH}a", headers=[("connection", "Upgrade"), ("upgrade", "websocket")])
        assert_error(answer, 403, "The gateway could not pass the request on")

    def test_headers_that_trickle_in_are_408(self, gateway: Gateway) -> None:
        """408 after five seconds, so that no connection is held for ever."""
        with Http1(gateway.address) as connection:
            connection.send(b"GET /api/tasks/a HTTP/1.1\r\nhost: a\r\nx-slow: ")
            answer = connection.answer()
        assert_error(answer, 408, "The request took too long to arrive; try again", retryable=True)
        assert answer.header("x-request-id")


class TestMalformed:
    """Malformed HTTP/1.1; each gets an answer and not just a closed connection."""

    def test_malformed_http1_is_400_in_json(self, gateway: Gateway, subtests: pytest.Subtests) -> None:
        for request in MALFORMED:
            with subtests.test(repr(request)), Http1(gateway.address) as connection:
                connection.send(request)
                assert_error(answer := connection.answer(), 400)
                assert answer.header("x-request-id")

    def test_requests_that_come_together_are_all_answered(self, gateway: Gateway, subtests: pytest.Subtests) -> None:
        """HTTP/1.1 pipelining in one packet, with answers from Envoy or the server; the connection stays usable."""
        for request_line, status in (
            ("GET /api/tasks/stub.document", 200),
            ("GET /api/tasks/stub.error.5", 404),
            ("GET /healthz", 200),
            ("GET /no/such/route", 404),
            ("GET /api/tasks/search", 404),
            ("PUT /api/tasks/a", 405),
            ("PUT /healthz", 405),
        ):
            for count in (2, 50):
                with subtests.test(request_line, count=count), Http1(gateway.address) as connection:
                    connection.send(f"{request_line} HTTP/1.1\r\nhost: a\r\n\r\n".encode() * count)
                    assert {connection.answer().status for _ in range(count)} == {status}
                    assert connection.ask("/api/tasks/stub.document").status == 200

    def test_too_many_headers_are_431(self, gateway: Gateway) -> None:
        for headers in ([(f"h{n}", "x") for n in range(200)], [("h", "x" * 70_000)]):
            with Http1(gateway.address) as connection:
                assert_error(connection.ask(f"{PATH}a", headers=headers), 431, "The request headers are too large")

    def test_malformed_http2_call_ends_and_the_others_go_on(self, gateway: Gateway, subtests: pytest.Subtests) -> None:
        for malformed in (
            ("Upper", "x"),
            ("bad name", "x"),
            ("x", "a\x00b"),
            ("connection", "close"),
            (":path", "/again"),
        ):
            with subtests.test(malformed[0]), Http2(gateway.address) as connection:
                other = connection.send(f"{PATH}stub.sleep.0.3")
                with pytest.raises(HungUp, match="stream reset"):
                    connection.ask(f"{PATH}a", headers=[malformed])
                assert connection.answer(other).status == 200

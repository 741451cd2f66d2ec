"""The protocol frame by frame: what impolite, slow, hurried and broken gRPC clients send, and what they get."""

import binascii
import contextlib
import functools
import gzip
import itertools
import re
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import h2.errors
import h2.events
import h2.settings
import psutil
import pytest
from google.api.httpbody_pb2 import HttpBody

from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID
from support.lateness import in_time
from support.raw_grpc import GET_TASK_JSON, ConnectionLost, RawAnswer, RawGrpc, framed, request_for
from support.running import System, eventually
from taskgate.service.calls import usable_request_id

OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 3, 4, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

ASK = request_for(DOCUMENTED_ID)
PLAIN = ASK[5:]
LARGE_ID = "65fc73fe-0586-11f1-8b8d-6219b54da7f1"
LIST_SERVICES = framed(b"\x3a\x01*")

VIA_ENVOY = "proxied via Envoy"
MAX_CONNECTION_SECONDS = 3.1
"""A little more than ``max_connection_duration`` in ``gateway/envoy.yaml``."""

NOT_VIA_ENVOY = pytest.mark.parametrize("route", ["embedded", "proxied direct"], indirect=True, scope="package")
"""For what Envoy, which terminates HTTP/2 on the third route, answers by itself or makes good on the way."""


@pytest.fixture
def connection(target: str) -> Iterator[RawGrpc]:
    with RawGrpc(target) as opened:
        yield opened


def assert_document(answer: RawAnswer) -> None:
    """The documented task, in one message, with every header and trailer that gRPC wants."""
    assert answer.reset in {None, h2.errors.ErrorCodes.NO_ERROR}
    assert (answer.one(":status"), answer.one("content-type")) == ("200", "application/grpc")
    assert [value for key, value in answer.trailers if key == "grpc-status"] == ["0"]
    (message,) = answer.messages
    body = HttpBody.FromString(message)
    assert (body.content_type, body.data) == ("application/json", DOCUMENTED_COMPACT)


def assert_refused_by_grpcio(
    connection: RawGrpc, route: str, status: int, message: bytes, *headers: tuple[str, str]
) -> None:
    """Check that a message is refused with ``status``; through Envoy, at the latest once its own connection is in use.

    A refusal that is the first answer on Envoy's connection is UNAVAILABLE (gateway/README.md, "Limits"). When Envoy
    opens another one depends on time, so the caller asks again behind a call that is answered.
    """
    answer = connection.call(message, GET_TASK_JSON, *headers)
    if route == VIA_ENVOY and answer.grpc_status == UNAVAILABLE:
        assert_goes_on(connection)
        answer = connection.call(message, GET_TASK_JSON, *headers)
    assert_status(answer, status)


def assert_status(answer: RawAnswer, status: int) -> None:
    """A genuine gRPC error: HTTP 200, a status, a sentence, no message."""
    assert (answer.one(":status"), answer.one("content-type")) == ("200", "application/grpc"), answer
    assert answer.grpc_status == status, answer
    assert answer.message
    assert answer.messages == []


def assert_goes_on(connection: RawGrpc) -> None:
    """The same connection still answers."""
    assert_document(connection.call(ASK))


class TestEndOfTheRequest:
    def test_half_close_may_come_late(self, connection: RawGrpc) -> None:
        """The message first, END_STREAM half a second later."""
        stream = connection.open()
        connection.data(stream, ASK)
        connection.receive(0.5)
        connection.end(stream)
        assert_document(connection.answer(stream))
        assert_goes_on(connection)

    @NOT_VIA_ENVOY
    def test_half_close_may_never_come(self, connection: RawGrpc) -> None:
        """The message is enough; the caller may be told that the rest is not needed.

        Envoy before a server does wait for it (tests/gateway/test_grpc.py).
        """
        stream = connection.open(GET_TASK_JSON)
        connection.data(stream, ASK)
        assert_document(connection.answer(stream))
        assert_goes_on(connection)

    def test_request_without_a_message_is_refused(self, connection: RawGrpc, subtests: pytest.Subtests) -> None:
        """UNIMPLEMENTED at once: "request cardinality violation" in gRPC's table of status codes."""
        for path in (GET_TASK_JSON, CHECK, WATCH):
            for in_headers in (True, False):
                with subtests.test(path, in_headers=in_headers):
                    stream = connection.open(path, end=in_headers)
                    if not in_headers:
                        connection.end(stream)
                    assert_status(connection.answer(stream), UNIMPLEMENTED)
                    assert_goes_on(connection)

    def test_reflection_without_a_question_ends_well(self, connection: RawGrpc) -> None:
        """A stream of no requests is answered by a stream of no answers."""
        answer = connection.call(b"", REFLECTION)
        assert (answer.grpc_status, answer.messages) == (OK, [])

    def test_trailers_of_a_request_are_no_reason_to_fail(self, connection: RawGrpc) -> None:
        stream = connection.open()
        connection.data(stream, ASK)
        connection.h2.send_headers(stream, [("x-checksum", "1")], end_stream=True)
        connection.flush()
        assert_document(connection.answer(stream))


class TestFraming:
    def test_message_in_frames_of_one_byte(self, connection: RawGrpc) -> None:
        stream = connection.open()
        for number in range(len(ASK)):
            connection.data(stream, ASK[number : number + 1], end=number == len(ASK) - 1)
        assert_document(connection.answer(stream))

    def test_empty_frames_between(self, connection: RawGrpc) -> None:
        """DATA frames of no bytes are legal and mean nothing."""
        stream = connection.open()
        for part in (b"", ASK[:3], b"", ASK[3:9], b"", ASK[9:], b""):
            connection.h2.send_data(stream, part)
        connection.end(stream)
        assert_document(connection.answer(stream))

    @pytest.mark.parametrize("route", ["embedded", "proxied via Envoy"], indirect=True, scope="package")
    def test_padded_frames(self, connection: RawGrpc) -> None:
        """Not of grpcio itself, whose C-core knows no padding and resets such a stream."""
        stream = connection.open()
        connection.h2.send_data(stream, ASK[:20], pad_length=200)
        connection.h2.send_data(stream, ASK[20:], pad_length=1, end_stream=True)
        connection.flush()
        assert_document(connection.answer(stream))

    def test_second_message_is_refused_or_not_read(self, connection: RawGrpc, route: str) -> None:
        """UNIMPLEMENTED, "request cardinality violation"; grpcio's transport does not read beyond the first message."""
        answer = connection.call(ASK + ASK)
        if route == "embedded":
            assert_status(answer, UNIMPLEMENTED)
        else:
            assert_document(answer)
        assert_goes_on(connection)

    def test_message_that_is_cut_off_is_refused(self, connection: RawGrpc, subtests: pytest.Subtests) -> None:
        """UNIMPLEMENTED at once, as without a message: the request has none that is whole."""
        for path in (GET_TASK_JSON, CHECK, WATCH):
            for length in (1, 4, 5, 9, len(ASK) - 1):
                with subtests.test(path, length=length):
                    assert_status(connection.call(ASK[:length], path), UNIMPLEMENTED)
                    assert_goes_on(connection)

    def test_flag_that_grpc_does_not_know_is_refused(
        self, connection: RawGrpc, route: str, subtests: pytest.Subtests
    ) -> None:
        """UNIMPLEMENTED at once, as without a message. A fault of grpcio 1.85: it hands on some as an empty message.

        That is no task ID.
        """
        allowed = {UNIMPLEMENTED} if route == "embedded" else {UNIMPLEMENTED, INVALID_ARGUMENT}
        for flag in (2, 3, 128, 255):
            with subtests.test(f"flag {flag}"):
                for _ in range(5):
                    answer = connection.call(framed(PLAIN, flag=flag))
                    assert answer.grpc_status in allowed, answer
                    assert_status(answer, answer.grpc_status or OK)
                assert_goes_on(connection)

    @NOT_VIA_ENVOY
    def test_flag_that_grpc_does_not_know_is_refused_in_a_request_without_end(
        self, connection: RawGrpc, route: str
    ) -> None:
        """As above; grpcio waits for more until the deadline."""
        streams = {}
        for flag in (2, 128, 255):
            streams[flag] = connection.open(GET_TASK_JSON, ("grpc-timeout", "20S" if route == "embedded" else "500m"))
            connection.data(streams[flag], framed(PLAIN, flag=flag))
        for stream in streams.values():
            assert_status(connection.answer(stream), UNIMPLEMENTED if route == "embedded" else DEADLINE_EXCEEDED)
        assert_goes_on(connection)

    def test_announced_length_over_the_limit_is_refused(
        self, connection: RawGrpc, route: str, subtests: pytest.Subtests
    ) -> None:
        """RESOURCE_EXHAUSTED at once, without waiting for any of it; Envoy before a server waits for the request's end.

        Grpcio resets the stream (NO_ERROR) right after its answer; if Envoy before it has read both by the time it
        looks, which depends on what the two did before, it takes the call for a broken one: UNAVAILABLE.
        """
        for length in (64 * 1024 + 1, 4 * 1024 * 1024 + 1, 2**31, 2**32 - 1):
            with subtests.test(f"{length} bytes"):
                stream = connection.open()
                connection.data(stream, b"\0" + length.to_bytes(4) + b"x" * 100, end=route == VIA_ENVOY)
                answer = connection.answer(stream, seconds=10)
                broken = answer.grpc_status == UNAVAILABLE and route == VIA_ENVOY
                assert_status(answer, UNAVAILABLE if broken else RESOURCE_EXHAUSTED)
                assert_goes_on(connection)

    def test_large_request_delays_no_other_call(self, connection: RawGrpc, target: str, route: str) -> None:
        """30 MiB of task ID is refused for its size, and others are answered within five seconds meanwhile."""
        slowest = 0.0
        with ThreadPoolExecutor(1) as pool, RawGrpc(target) as other:
            large = framed(b"\x0a\x80\x80\x80\x0f" + b"x" * (15 << 21))
            answer = pool.submit(assert_refused_by_grpcio, connection, route, RESOURCE_EXHAUSTED, large)
            while not answer.done():
                asked = time.monotonic()
                assert_document(other.call(ASK))
                slowest = max(slowest, time.monotonic() - asked)
            answer.result()
        assert slowest < 5

    def test_garbage_for_health_and_reflection_is_an_error_of_grpc(
        self, connection: RawGrpc, subtests: pytest.Subtests
    ) -> None:
        """INTERNAL, "error parsing request proto" in gRPC's table; named as what it is, not by a class of Python."""
        for path in (CHECK, WATCH, REFLECTION):
            with subtests.test(path):
                answer = connection.call(framed(b"\xff\xff\xff"), path)
                assert_status(answer, INTERNAL)
                assert re.fullmatch(r"The request is not a valid [\w.]+ message", answer.message)
                assert_goes_on(connection)


class TestCompression:
    def test_gzip_and_deflate_requests_are_read(self, connection: RawGrpc) -> None:
        for name, compressed in (("gzip", gzip.compress(PLAIN)), ("deflate", zlib.compress(PLAIN))):
            assert_document(connection.call(framed(compressed, flag=1), GET_TASK_JSON, ("grpc-encoding", name)))

    def test_plain_message_is_read_under_any_encoding(self, connection: RawGrpc) -> None:
        """The flag decides for each message."""
        for name in ("gzip", "deflate", "identity"):
            assert_document(connection.call(ASK, GET_TASK_JSON, ("grpc-encoding", name)))

    def test_flag_without_an_encoding_is_internal(self, connection: RawGrpc, route: str) -> None:
        """compression.md: "If a message is compressed and no encoding is given: INTERNAL"."""
        for headers in ((), (("grpc-encoding", "identity"),)):
            message = framed(gzip.compress(PLAIN), flag=1)
            assert_refused_by_grpcio(connection, route, INTERNAL, message, *headers)
            assert_goes_on(connection)

    @NOT_VIA_ENVOY
    def test_unknown_encoding_is_refused_with_a_list_of_the_known(
        self, target: str, route: str, subtests: pytest.Subtests
    ) -> None:
        """UNIMPLEMENTED, and what the server can read (compression.md).

        Grpcio cannot parse the header, and says INTERNAL; it then refuses that header on the connection for good.
        """
        for name, flag in (("br", 0), ("br", 1), ("GZIP", 1), ("gzip,deflate", 1), ("x" * 1000, 1)):
            with subtests.test(name[:20], flag=flag), RawGrpc(target) as connection:
                answer = connection.call(framed(PLAIN, flag=flag), GET_TASK_JSON, ("grpc-encoding", name))
                if route == "embedded":
                    assert_status(answer, UNIMPLEMENTED)
                    assert set((answer.one("grpc-accept-encoding") or "").split(", ")) == {
                        "identity",
                        "deflate",
                        "gzip",
                    }
                else:
                    assert_status(answer, INTERNAL)

    def test_gzip_that_is_none_is_internal(self, connection: RawGrpc, route: str, subtests: pytest.Subtests) -> None:
        for name, message in (
            ("not compressed", PLAIN),
            ("cut off", gzip.compress(PLAIN)[:-4]),
            ("with more behind", gzip.compress(PLAIN) + b"junk"),
            ("in two members", gzip.compress(PLAIN[:9]) + gzip.compress(PLAIN[9:])),
            ("deflate", zlib.compress(PLAIN)),
        ):
            with subtests.test(name):
                compressed = framed(message, flag=1)
                assert_refused_by_grpcio(connection, route, INTERNAL, compressed, ("grpc-encoding", "gzip"))
                assert_goes_on(connection)

    def test_compression_bomb_is_refused_and_not_unpacked(
        self, connection: RawGrpc, system: System, route: str
    ) -> None:
        """A quarter of a megabyte that would be 256 MiB: refused, and at no time in the server's memory.

        The bound is a good third of one of them unpacked.
        """
        bomb = framed(zlib.compress(bytes(1 << 28), 9), flag=1)
        before = memory(system)
        for _ in range(5):
            assert_refused_by_grpcio(connection, route, RESOURCE_EXHAUSTED, bomb, ("grpc-encoding", "deflate"))
            assert memory(system) - before < 100e6
        assert_goes_on(connection)

    def test_the_limit_counts_the_decompressed_message(self, connection: RawGrpc, route: str) -> None:
        """64 KiB of zeros are no message, but small enough to be looked at."""
        largest, larger = (framed(gzip.compress(bytes(size), 6), flag=1) for size in (64 << 10, (64 << 10) + 1))
        assert_status(connection.call(largest, GET_TASK_JSON, ("grpc-encoding", "gzip")), INVALID_ARGUMENT)
        assert_refused_by_grpcio(connection, route, RESOURCE_EXHAUSTED, larger, ("grpc-encoding", "gzip"))


class TestHeaders:
    @NOT_VIA_ENVOY
    def test_grpc_call_without_te_trailers_is_refused(self, connection: RawGrpc, route: str) -> None:
        """Without "te: trailers" a proxy may be on the way that drops them; grpcio resets the stream."""
        answer = connection.call(ASK, without=["te"])
        if route == "embedded":
            assert_status(answer, INTERNAL)
        else:
            assert answer.reset is not None
        assert_goes_on(connection)

    @pytest.mark.parametrize("route", ["proxied via Envoy"], indirect=True, scope="package")
    def test_grpc_call_without_te_trailers_is_not_tried_again_and_again(self, connection: RawGrpc) -> None:
        """It cannot succeed, and is answered at once."""
        stream = connection.open(without=["te"])
        connection.data(stream, ASK, end=True)
        answer = connection.answer(stream, seconds=10)
        if answer.grpc_status == OK:  # Envoy's own "te" went to the server
            assert_document(answer)
        else:
            assert_status(answer, INTERNAL)

    def test_malformed_timeout_is_refused(self, target: str, route: str, subtests: pytest.Subtests) -> None:
        """INVALID_ARGUMENT through Envoy, INTERNAL from grpcio. Envoy in front of grpcio drops an empty one."""
        for value in ("1", "1.5S", "1S,2S", "bad", *([] if route == VIA_ENVOY else [""])):
            with subtests.test(value), RawGrpc(target) as connection:
                answer = connection.call(ASK, GET_TASK_JSON, ("grpc-timeout", value))
                assert_status(answer, INTERNAL if route == "proxied direct" else INVALID_ARGUMENT)

    def test_timeout_that_has_passed_already_ends_the_call(self, connection: RawGrpc) -> None:
        for value in ("0n", "0S"):
            assert_status(connection.call(ASK, GET_TASK_JSON, ("grpc-timeout", value)), DEADLINE_EXCEEDED)
            assert_goes_on(connection)

    def test_timeout_too_short_for_any_call(self, connection: RawGrpc, route: str) -> None:
        """A nanosecond. grpcio's parser makes a whole millisecond of it, within which a call can be answered."""
        answer = connection.call(ASK, GET_TASK_JSON, ("grpc-timeout", "1n"))
        if route == "embedded" or answer.grpc_status != OK:
            assert_status(answer, DEADLINE_EXCEEDED)
        else:
            assert_document(answer)
        assert_goes_on(connection)

    def test_timeout_of_any_unit_and_size_is_taken(self, connection: RawGrpc, subtests: pytest.Subtests) -> None:
        """From nine seconds to eleven thousand years; all that nanoseconds can say is a tenth of a second."""
        for value in ("99999999H", "99999999S", "9M", "9000m", "9000000u"):
            with subtests.test(value):
                assert_document(connection.call(ASK, GET_TASK_JSON, ("grpc-timeout", value)))

    @NOT_VIA_ENVOY
    def test_timeout_runs_while_the_message_is_awaited(self, connection: RawGrpc) -> None:
        """Headers, or headers and part of a message, and then nothing."""
        streams = [connection.open(GET_TASK_JSON, ("grpc-timeout", "300m")) for _ in range(3)]
        for stream, sent in zip(streams, (0, 3, 9), strict=True):
            connection.data(stream, ASK[:sent])
        for stream in streams:
            assert_status(connection.answer(stream, seconds=10), DEADLINE_EXCEEDED)
        assert_goes_on(connection)

    def test_timeout_within_an_answer_is_told_by_its_status(self, target: str, route: str) -> None:
        """Also to a caller who reads slowly: a reset would be INTERNAL to it.

        An answer that Envoy has in its hands by then goes on to OK.
        """
        with RawGrpc(target, receive_buffer=4096) as connection:
            stream = connection.open(GET_TASK_JSON, ("grpc-timeout", "500m"))
            connection.data(stream, request_for(LARGE_ID), end=True)
            time.sleep(0.7)
            answer = connection.answer(stream)
        assert (answer.reset, answer.grpc_status) == (None, DEADLINE_EXCEEDED if route == "proxied direct" else OK)
        assert answer.body, "the timeout passed before the answer began"

    @pytest.mark.parametrize(("path", "first"), [(WATCH, framed(b"")), (REFLECTION, LIST_SERVICES)])
    def test_timeout_ends_a_stream(self, connection: RawGrpc, path: str, first: bytes) -> None:
        """What has been sent stays sent."""
        connection.call(first, REFLECTION)  # the first call of it loads what it needs
        stream = connection.open(path, ("grpc-timeout", "2S"))
        connection.data(stream, first)
        answer = connection.answer(stream)
        assert (answer.grpc_status, len(answer.messages)) == (DEADLINE_EXCEEDED, 1)
        assert_goes_on(connection)

    def test_content_types_of_grpc_are_taken_for_protobuf(self, connection: RawGrpc, subtests: pytest.Subtests) -> None:
        """Whatever follows "application/grpc+": a message that is none is refused as such."""
        json = framed(b'{"taskId": "65fc73fe-0586-11f1-8b8d-6219b54da7fe"}')
        for content_type in ("application/grpc", *(f"application/grpc+{more}" for more in ("proto", "json", "x; a=b"))):
            with subtests.test(content_type):
                assert_document(connection.call(ASK, content_type=content_type))
                assert_status(connection.call(json, content_type=content_type), INVALID_ARGUMENT)

    @pytest.mark.parametrize("route", ["embedded", "proxied via Envoy"], indirect=True, scope="package")
    def test_other_content_types_are_not_grpc(self, connection: RawGrpc, subtests: pytest.Subtests) -> None:
        """They get a 4xx of HTTP, as gRPC demands; grpcio itself takes them all for gRPC."""
        for content_type in ("application/json", "text/plain", "application/grpcx"):
            with subtests.test(content_type):
                answer = connection.call(ASK, content_type=content_type)
                assert (answer.one(":status") or "")[0] == "4"
                assert answer.grpc_status is None
                assert_goes_on(connection)

    @pytest.mark.parametrize("route", ["embedded", "proxied via Envoy"], indirect=True, scope="package")
    def test_other_methods_than_post_are_refused_truthfully(
        self, connection: RawGrpc, subtests: pytest.Subtests
    ) -> None:
        """And not for being HTTP/1.1, which they are not. Of grpcio some are reset, some INTERNAL."""
        for method in ("GET", "PUT", "DELETE", "OPTIONS"):
            with subtests.test(method):
                answer = connection.call(ASK, method=method)
                assert answer.grpc_status not in {None, OK}
                assert "HTTP/1.1" not in answer.message
                assert_goes_on(connection)

    def test_unknown_path_is_unimplemented(self, connection: RawGrpc) -> None:
        """In the form that gRPC demands; tests/api has more of them."""
        for path in ("/", "/x", "/taskgate.v1.TaskService/Nope"):
            assert_status(connection.call(ASK, path), UNIMPLEMENTED)
            assert_goes_on(connection)

    def test_unknown_path_does_not_wait_for_a_message(self, connection: RawGrpc) -> None:
        stream = connection.open("/taskgate.v1.TaskService/Nope")
        assert_status(connection.answer(stream, seconds=10), UNIMPLEMENTED)
        assert_goes_on(connection)

    def test_many_headers_are_no_reason_to_fail(self, connection: RawGrpc, subtests: pytest.Subtests) -> None:
        for name, headers in {
            "80": [(f"x-{number}", "1") for number in range(80)],
            "20 kB": [("x-long", "1" * 20_000)],
            "80 of a name": [("x-many", "1" * 100)] * 80,
            "a token": [("authorization", "Bearer " + "x" * 4_000)],
            "repeated": [("x-own", "a"), ("x-own", "b"), ("x-own", "")],
            "binary": [("x-own-bin", value) for value in (base64(bytes(range(256))), "AAEC", "AwQF", "AA==", "")],
            "long binary": [("x-long-bin", base64(bytes(6_000)))],
            "tracing": [
                ("grpc-trace-bin", "AAEC"),
                ("grpc-tags-bin", ""),
                ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),
            ],
            "of gRPC": [("grpc-previous-rpc-attempts", "3"), ("grpc-accept-encoding", "br"), ("user-agent", "x")],
            "odd names": [("under_score", "1"), ("dot.ted", "1")],
        }.items():
            with subtests.test(name):
                assert_document(connection.call(ASK, GET_TASK_JSON, *headers))

    @pytest.mark.parametrize("route", ["embedded"], indirect=True, scope="package")
    def test_several_binary_values_in_a_header(self, connection: RawGrpc) -> None:
        """PROTOCOL-HTTP2.md allows it: base64 has no commas. Grpcio's C-core calls it illegal base64."""
        assert_document(connection.call(ASK, GET_TASK_JSON, ("x-own-bin", "AAEC,AwQF")))

    def test_flood_of_headers_ends_its_own_call(self, target: str, route: str, subtests: pytest.Subtests) -> None:
        """Refused or reset, at most with its connection; callers on other connections notice nothing.

        Grpcio itself may answer such a call.
        """
        for name, headers in {
            "2000": [(f"x-{number}", "1") for number in range(2000)],
            "200 kB": [("x-long", "1" * 200_000)],
        }.items():
            with subtests.test(name), RawGrpc(target) as connection, RawGrpc(target) as other:
                coder = connection.h2.encoder
                coder.encode = functools.partial(coder.encode, huffman=False)  # which takes a second, in Python
                try:
                    answer = connection.call(ASK, GET_TASK_JSON, *headers)
                except ConnectionLost:
                    pass
                else:
                    assert answer.grpc_status != OK or route == "proxied direct"
                assert_document(other.call(ASK))

    def test_endless_headers_are_not_kept(self, target: str, system: System, route: str) -> None:
        """100 MB in CONTINUATION frames without end (CVE-2024-27316): Envoy cuts them off, grpcio throws them away.

        Memory is compared with that after as many before: buffers that are there to stay have been made by then.
        """
        # ":method: POST", ":scheme: http", ":path: /", then one header after the other, without END_HEADERS.
        frames = [frame(1, bytes.fromhex("838684"))]
        frames += [frame(9, b"\x00\x01x\x7f\x81\x7c" + b"y" * 16_000)] * 6250
        held = []
        for _ in range(2):
            with RawGrpc(target) as connection, RawGrpc(target) as other:
                connection.receive(0.2)
                sent = 0
                connection.socket.settimeout(20)
                with contextlib.suppress(OSError):
                    for data in frames:
                        connection.socket.sendall(data)
                        sent += 1
                assert (sent == len(frames)) == (route == "proxied direct")
                held.append(memory(system))
                assert_goes_on(other)
        assert held[1] - held[0] < 60e6


def test_answer_has_one_request_id(connection: RawGrpc, subtests: pytest.Subtests) -> None:
    """The same in headers and trailers: the caller's if it is usable."""
    for message in (ASK, request_for("no task")):
        for offered in ("caller:42", "x" * 8000, "a b"):
            with subtests.test(offered[:9]):
                answer = connection.call(message, GET_TASK_JSON, ("x-request-id", offered))
                (returned,) = set(answer.all("x-request-id"))
                assert returned == offered if usable_request_id(offered) == offered else len(returned) == 36


def frame(kind: int, payload: bytes) -> bytes:
    """An HTTP/2 frame of stream 1, without flags."""
    return len(payload).to_bytes(3) + bytes([kind, 0]) + (1).to_bytes(4) + payload


@pytest.mark.parametrize("route", ["proxied via Envoy"], indirect=True, scope="package")
@pytest.mark.parametrize(
    ("bad", "good", "status"),
    [
        (("grpc-timeout", "bad"), ("grpc-timeout", "43210m"), INVALID_ARGUMENT),
        (("grpc-timeout", "1S,2S"), ("grpc-timeout", "43211m"), INVALID_ARGUMENT),
        (("grpc-encoding", "br"), ("grpc-encoding", "gzip"), UNIMPLEMENTED),
        (("grpc-trace-bin", "!!! not base64"), ("grpc-trace-bin", "AAEC"), OK),
        (("x-own-bin", "!"), ("x-own-bin", "AwQF"), OK),
        (("grpc-accept-encoding", "\x01"), ("grpc-accept-encoding", "gzip"), None),  # reset: not HTTP
        (("grpc-previous-rpc-attempts", "bad"), ("grpc-previous-rpc-attempts", "1"), OK),
        (("grpc-retry-pushback-ms", "bad"), ("grpc-retry-pushback-ms", "1"), OK),
        (("grpc-internal-encoding-request", "bad"), ("grpc-internal-encoding-request", "gzip"), OK),
        (("grpc-status", "bad"), ("grpc-status", "5"), OK),
        (("user-agent", "\x80"), ("user-agent", "x"), OK),
    ],
    ids=lambda row: "-".join(row) if isinstance(row, tuple) else "",
)
def test_malformed_header_of_one_caller_harms_no_other(
    target: str, bad: tuple[str, str], good: tuple[str, str], status: int | None
) -> None:
    """The callers share Envoy's connection to the server; what one sends must not spoil it for the next."""
    for _ in range(3):
        with RawGrpc(target) as caller:
            assert caller.call(ASK, GET_TASK_JSON, bad).grpc_status == status
            assert_goes_on(caller)
        with RawGrpc(target) as caller:
            assert_document(caller.call(ASK, GET_TASK_JSON, good))


@pytest.mark.parametrize("route", [VIA_ENVOY], indirect=True, scope="package")
def test_refusal_is_the_first_answer_on_a_connection_of_envoy(target: str, subtests: pytest.Subtests) -> None:
    """A deadline that passes, or is malformed, before anything else was answered: no call is UNAVAILABLE for that."""
    for path, sent, value, status in (
        (GET_TASK_JSON, ASK, "1n", DEADLINE_EXCEEDED),
        (CHECK, framed(b""), "bad", INVALID_ARGUMENT),
        (WATCH, b"", "300m", DEADLINE_EXCEEDED),
        (WATCH, framed(b""), "bad", INVALID_ARGUMENT),
        (REFLECTION, b"", "300m", DEADLINE_EXCEEDED),
        ("/no.such.Service/Nope", ASK, "bad", UNIMPLEMENTED),
    ):
        with subtests.test(path, value=value):
            time.sleep(MAX_CONNECTION_SECONDS)  # on purpose: Envoy makes a new connection for the next call
            with RawGrpc(target) as caller:
                stream = caller.open(path, ("grpc-timeout", value))
                caller.data(stream, sent, end=path in {GET_TASK_JSON, CHECK})
                assert_status(caller.answer(stream), status)


class TestReset:
    def test_streams_reset_before_the_message_leave_the_connection_usable(self, connection: RawGrpc) -> None:
        for _ in range(50):
            connection.reset(connection.open())
        assert_goes_on(connection)

    def test_streams_reset_within_the_message_leave_the_connection_usable(self, connection: RawGrpc) -> None:
        for length in range(1, len(ASK)):
            stream = connection.open()
            connection.data(stream, ASK[:length])
            connection.reset(stream)
        assert_goes_on(connection)

    def test_streams_reset_right_after_the_message_leave_the_connection_usable(
        self, target: str, subtests: pytest.Subtests
    ) -> None:
        for path in (GET_TASK_JSON, CHECK, WATCH, REFLECTION):
            for code in (h2.errors.ErrorCodes.CANCEL, h2.errors.ErrorCodes.NO_ERROR, 4711):
                with subtests.test(path, code=code), RawGrpc(target) as connection:
                    for _ in range(50):
                        stream = connection.open(path)
                        connection.data(stream, ASK if path == GET_TASK_JSON else framed(b""), end=True)
                        connection.reset(stream, code)
                    assert_goes_on(connection)

    @pytest.mark.parametrize(("path", "first"), [(WATCH, framed(b"")), (REFLECTION, LIST_SERVICES)])
    def test_watches_and_reflections_reset_within_leave_the_connection_usable(
        self, connection: RawGrpc, path: str, first: bytes
    ) -> None:
        for _ in range(50):
            stream = connection.open(path)
            connection.data(stream, first)
            while not connection.answers[stream].body:
                connection.receive()
            connection.reset(stream)
        assert_goes_on(connection)

    def test_streams_reset_after_the_answer_leave_the_connection_usable(self, connection: RawGrpc, route: str) -> None:
        for _ in range(50):
            stream = connection.open()
            connection.data(stream, ASK, end=route == VIA_ENVOY)
            assert_document(connection.answer(stream))
            connection.reset(stream)
        assert_goes_on(connection)


class TestConnection:
    def test_large_answer_that_is_abandoned_is_let_go_of(self, target: str, system: System) -> None:
        """Reset, or with its connection gone: after ten such calls, fifteen more of each cost no more memory."""
        hows = itertools.cycle(("RST_STREAM", "FIN", "RST"))

        def abandon(times: int) -> None:
            for how in itertools.islice(hows, times):
                with RawGrpc(target, window=50_000) as connection:
                    stream = begin_large_answer(connection)
                    if how == "RST_STREAM":
                        connection.reset(stream)
                        assert_goes_on(connection)
                    elif how == "RST":
                        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        abandon(10)
        before = settled(system)
        abandon(45)  # 150 MB by each way
        eventually(lambda: memory(system) - before < 80e6, "memory given back", seconds=20)
        with RawGrpc(target) as other:
            assert_goes_on(other)

    def test_connection_dropped_with_calls_in_every_state_harms_no_other(self, target: str) -> None:
        for _ in range(10):
            with RawGrpc(target) as connection:
                connection.open()
                connection.data(connection.open(), ASK[:9])
                connection.data(connection.open(), ASK)
                connection.data(connection.open(WATCH), framed(b""), end=True)
                connection.data(connection.open(REFLECTION), LIST_SERVICES)
        with RawGrpc(target) as other:
            assert_goes_on(other)

    def test_goaway_lets_running_calls_finish(self, connection: RawGrpc, target: str) -> None:
        """A client that winds its connection up still gets the answers that it has asked for."""
        early, late = connection.open(), connection.open()
        connection.data(early, ASK, end=True)
        goaway = (8).to_bytes(3) + b"\x07" + bytes(5) + bytes(8)
        connection.socket.sendall(goaway)
        connection.data(late, ASK, end=True)
        assert_document(connection.answer(early))
        assert_document(connection.answer(late))
        with RawGrpc(target) as other:
            assert_goes_on(other)

    def test_pings_are_answered(self, connection: RawGrpc) -> None:
        acknowledged: list[bytes] = []
        handle = connection._handle

        def listen(event: object) -> None:
            if isinstance(event, h2.events.PingAckReceived):
                acknowledged.append(event.ping_data)
            handle(event)

        connection._handle = listen  # type: ignore[method-assign]
        connection.h2.ping(b"interop!")
        connection.flush()
        eventually(lambda: connection.receive(0.05) or acknowledged, "the ping answered")
        assert acknowledged == [b"interop!"]

    def test_settings_may_change_within_a_call(self, target: str) -> None:
        """A window that is opened by SETTINGS, not by WINDOW_UPDATE; headers without a dynamic table."""
        with RawGrpc(target, window=0) as connection:
            stream = connection.open()
            connection.data(stream, ASK, end=True)
            connection.receive(0.3)
            assert not connection.answers[stream].body
            codes = h2.settings.SettingCodes
            connection.h2.update_settings({codes.INITIAL_WINDOW_SIZE: 65_535, codes.HEADER_TABLE_SIZE: 0})
            connection.flush()
            assert_document(connection.answer(stream))
            assert_goes_on(connection)

    def test_calls_before_the_limit_is_known_are_answered_or_refused(self, target: str) -> None:
        """150 calls at once, before the server's SETTINGS could arrive: what is refused is safe to try again.

        Grpcio has a code of its own for that. Clients of gRPC wait for SETTINGS, or assume the 100 of the standard.
        """
        with RawGrpc(target) as connection:
            ignore_limit(connection)
            streams = [connection.open() for _ in range(150)]
            for stream in streams:
                connection.data(stream, ASK, end=True)
            answers = [connection.answer(stream) for stream in streams]
            refused = [answer for answer in answers if answer.reset not in {None, h2.errors.ErrorCodes.NO_ERROR}]
            refusals = {h2.errors.ErrorCodes.REFUSED_STREAM, h2.errors.ErrorCodes.ENHANCE_YOUR_CALM}
            assert {answer.reset for answer in refused} <= refusals
            answered = [answer for answer in answers if answer not in refused]
            assert len(answered) >= 100
            for answer in answered:
                assert_document(answer)
            assert_goes_on(connection)

    def test_calls_over_the_known_limit_harm_no_other_connection(self, target: str) -> None:
        """A client that ignores MAX_CONCURRENT_STREAMS may lose its connection; no other client does."""
        with RawGrpc(target) as connection, RawGrpc(target) as other:
            connection.receive(0.3)
            ignore_limit(connection)
            with contextlib.suppress(ConnectionLost):
                for stream in [connection.open() for _ in range(150)]:
                    connection.data(stream, ASK, end=True)
                connection.receive(0.3)
            assert_goes_on(other)


def ignore_limit(connection: RawGrpc) -> None:
    """Let h2 open as many streams as the test likes."""
    connection.h2.remote_settings.max_concurrent_streams = 1000
    connection.h2.remote_settings.acknowledge()


SLOW_READERS = 8


@pytest.mark.parametrize("route", ["proxied direct"], indirect=True, scope="package")
def test_slow_readers_hold_bounded_memory_and_delay_no_other_call(target: str, system: System) -> None:
    """Eight callers take a task of 10 MB sixteen bytes at a time, and hang up; three times over.

    The server may keep at most four times the document for each: 320 MB. Other callers are answered within two
    and a half seconds. The third time costs no more than the first. With Envoy before it or around it, see
    tests/faults/test_slow_readers.py.
    """
    with RawGrpc(target) as warm:
        assert warm.call(request_for(LARGE_ID)).grpc_status == OK
    before = memory(system)
    most = [read_slowly(target, system) - before for _ in range(3)]
    assert max(most) < SLOW_READERS * 4 * 10e6
    assert most[2] < most[0] + 60e6  # a document for each reader and time would be 160


def read_slowly(target: str, system: System) -> int:
    """Eight slow readers for a while; the most memory that the system held."""
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(RawGrpc(target, window=16)) for _ in range(SLOW_READERS)]
        other = stack.enter_context(RawGrpc(target))
        for reader in readers:
            reader.data(reader.open(), request_for(LARGE_ID), end=True)
        most, granted = 0, dict.fromkeys(readers, 16)
        deadline = time.monotonic() + 30
        while min(granted.values()) < 160:
            assert time.monotonic() < deadline, "they do read on"
            for reader in readers:
                reader.receive(0.01)
                if len(reader.answers[1].body) == granted[reader]:
                    granted[reader] += 16
                    reader.h2.increment_flow_control_window(16, 1)
                    reader.h2.increment_flow_control_window(16)
                    reader.flush()
            most = max(most, memory(system))
            with in_time(2.5):
                assert_document(other.call(ASK, GET_TASK_JSON, ("grpc-timeout", "20S")))
    settled(system)
    return most


def test_slow_reader_gets_all_in_the_end(target: str) -> None:
    """Windows of 30 kB, refilled when they are used up: the 10 MB arrive complete."""
    with RawGrpc(target, window=30_000) as connection:
        stream = connection.open()
        connection.data(stream, request_for(LARGE_ID), end=True)
        answer = connection.answers[stream]
        refilled = 0
        while not answer.ended:
            connection.receive()
            if len(answer.body) - refilled >= 20_000 and not answer.ended:
                connection.h2.increment_flow_control_window(len(answer.body) - refilled, stream)
                connection.h2.increment_flow_control_window(len(answer.body) - refilled)
                connection.flush()
                refilled = len(answer.body)
        assert answer.grpc_status == OK
        (message,) = answer.messages
        assert len(message) > 10_000_000


def begin_large_answer(connection: RawGrpc) -> int:
    """Ask for the large task and wait for the first of it; the stream."""
    stream = connection.open()
    connection.data(stream, request_for(LARGE_ID), end=True)
    while not connection.answers[stream].body:
        connection.receive()
    return stream


def memory(system: System) -> int:
    """Bytes that the system's processes hold."""
    total = 0
    for member in system.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total


def settled(system: System) -> int:
    """The same, once it has not changed by a megabyte for a while."""
    seen: list[int] = []

    def still() -> bool:
        seen.append(memory(system))
        return len(seen) > 20 and max(seen[-20:]) - min(seen[-20:]) < 1e6

    eventually(still, "memory settles", seconds=30)
    return seen[-1]


def base64(value: bytes) -> str:
    """As a header whose name ends in "-bin" has it."""
    return binascii.b2a_base64(value, newline=False).decode()

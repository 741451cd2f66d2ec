"""gRPC's wire format: frames, deadlines, compression, status. The references are zlib and grpcio, not our own code."""

import base64
import gzip
import zlib

import pytest
from google.rpc import error_details_pb2, status_pb2

from taskgate.base.errors import TaskNotFound
from taskgate.documents.document import MAX_REQUEST_BYTES
from taskgate.transports.grpc_wire import (
    ProtocolError,
    check_encoding,
    frame,
    split_frame,
    status,
    status_of_error,
    timeout_seconds,
)


def test_frame_is_flag_length_and_message() -> None:
    assert frame(b"abc") == b"\x00\x00\x00\x00\x03abc"
    assert frame(b"") == bytes(5)


@pytest.mark.parametrize("cut", range(8))
def test_incomplete_frame_is_waited_for(cut: int) -> None:
    assert split_frame(frame(b"abc")[:cut], None) is None


def test_frame_is_split_from_what_follows() -> None:
    assert split_frame(frame(b"abc") + frame(b"d"), None) == (b"abc", 8)


@pytest.mark.parametrize(("encoding", "compress"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_compressed_message_is_read(encoding: bytes, compress: object) -> None:
    assert callable(compress)
    packed = compress(b"message")
    body = b"\x01" + len(packed).to_bytes(4) + packed
    assert split_frame(body, encoding) == (b"message", len(body))


def compressed(message: bytes, after: bytes = b"") -> bytes:
    """A frame that holds ``message``, gzipped, and what comes ``after`` that."""
    packed = gzip.compress(message) + after
    return b"\x01" + len(packed).to_bytes(4) + packed


@pytest.mark.parametrize(
    ("body", "encoding", "code"),
    [
        (b"\x02\x00\x00\x00\x00", None, "UNIMPLEMENTED"),
        (b"\x01\x00\x00\x00\x01x", None, "INTERNAL"),
        (b"\x01\x00\x00\x00\x01x", b"identity", "INTERNAL"),
        (b"\x01\x00\x00\x00\x01x", b"gzip", "INTERNAL"),
        (b"\x01\x00\x00\x00\x04" + gzip.compress(b"message")[:4], b"gzip", "INTERNAL"),
        (compressed(b"a"), b"deflate", "INTERNAL"),
        (compressed(b"a", b"junk"), b"gzip", "INTERNAL"),
        (compressed(b"a", gzip.compress(b"b")), b"gzip", "INTERNAL"),
        (b"\x00\xff\xff\xff\xff", None, "RESOURCE_EXHAUSTED"),
    ],
    ids=["flag", "no encoding", "identity", "garbage", "cut off", "other", "junk after", "two members", "4 GiB"],
)
def test_frame_that_breaks_the_rules_is_refused(body: bytes, encoding: bytes | None, code: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        split_frame(body, encoding)
    assert refused.value.code == code
    assert refused.value.message


def test_message_that_unpacks_to_too_much_is_refused_without_unpacking_it() -> None:
    packed = gzip.compress(bytes(MAX_REQUEST_BYTES + 1))
    with pytest.raises(ProtocolError) as refused:
        split_frame(b"\x01" + len(packed).to_bytes(4) + packed, b"gzip")
    assert refused.value.code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), (b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"99999999n", 0.099999999)],
)
def test_timeout_is_seconds(value: bytes | None, seconds: float | None) -> None:
    assert timeout_seconds(value) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"-1S", b"1s", b"123456789S", b"1.5S", b"1S ", b"\xff"])
def test_malformed_timeout_is_refused_and_shown(value: bytes) -> None:
    with pytest.raises(ProtocolError, match="Malformed grpc-timeout") as refused:
        timeout_seconds(value)
    assert refused.value.code == "INVALID_ARGUMENT"
    assert refused.value.message.isascii()


def test_unknown_encoding_is_unimplemented_and_says_what_is_known() -> None:
    """compression.md: the status, and what the server accepts."""
    for known in (None, b"identity", b"gzip", b"deflate"):
        check_encoding(known)
    with pytest.raises(ProtocolError) as refused:
        check_encoding(b"snappy")
    assert refused.value.code == "UNIMPLEMENTED"
    assert refused.value.extra == ((b"grpc-accept-encoding", b"identity, deflate, gzip"),)


def test_status_message_is_percent_encoded() -> None:
    """Printable ASCII stays, "%" and all other bytes of its UTF-8 are escaped."""
    assert status("NOT_FOUND", "a b: 100% é\n") == [
        (b"grpc-status", b"5"),
        (b"grpc-message", b"a b: 100%25 %C3%A9%0A"),
    ]


def test_error_carries_its_details() -> None:
    headers = dict(status_of_error(TaskNotFound("some-id")))
    assert headers[b"grpc-status"] == b"5"

    details = base64.b64decode(headers[b"grpc-status-details-bin"] + b"==")
    found = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    assert found.details[0].Unpack(info)
    assert (found.code, info.reason) == (5, "ERROR_REASON_TASK_NOT_FOUND")
    assert b"=" not in headers[b"grpc-status-details-bin"]

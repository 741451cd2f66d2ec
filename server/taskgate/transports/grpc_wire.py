"""Parse and write what a gRPC server exchanges over HTTP/2: message frames, deadlines, status.

Source: PROTOCOL-HTTP2.md, compression.md and statuscodes.md of the gRPC project.
"""

import base64
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote_from_bytes

from google.rpc import code_pb2

from taskgate.base.errors import TaskgateError
from taskgate.documents.document import MAX_REQUEST_BYTES
from taskgate.transports.error_details import status_details

Headers = Sequence[tuple[bytes, bytes]]

PREFIX_BYTES = 5
"""The prefix of every message: a flag (0 plain, 1 compressed) and the message's length."""

ACCEPTED_ENCODINGS = b"identity, deflate, gzip"
"""``grpc-accept-encoding``: the compressions that a request may use. Answers are never compressed."""

CONTENT_TYPE = (b"content-type", b"application/grpc")

_CODES: Mapping[str, bytes] = {name: str(number).encode() for name, number in code_pb2.Code.items()}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_WINDOW_BITS = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}
# Characters that grpc-message may hold unescaped: printable ASCII except "%".
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class ProtocolError(Exception):
    """A transport refuses the call before or without the service: a malformed request, an unknown method, a late one.

    ``code`` is a name of ``google.rpc.Code``, ``extra`` are further headers of the answer.
    """

    def __init__(self, code: str, message: str, *extra: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.extra = extra


def not_one_message(why: str = "none that is whole") -> ProtocolError:
    """Return the error for a request that has not exactly one whole message; ``why`` says what it has.

    gRPC's table of status codes gives UNIMPLEMENTED for a wrong number of messages. A message that is cut off or has an
    unknown flag counts as none: grpcio's core cannot tell these cases apart, and all transports answer alike.
    """
    return ProtocolError("UNIMPLEMENTED", f"The method takes one message; the request has {why}")


def late_answer(seconds: float) -> ProtocolError:
    """Return the error for a call without an answer after ``seconds``."""
    return ProtocolError("DEADLINE_EXCEEDED", f"The call did not finish within {seconds:.3g} s")


def late_request(seconds: float) -> ProtocolError:
    """Return the error for a request that did not arrive within ``seconds``."""
    return ProtocolError("DEADLINE_EXCEEDED", f"The request did not arrive whole within {seconds:.3g} s")


def prefix(size: int) -> bytes:
    """Return gRPC's prefix for an uncompressed message of ``size`` bytes."""
    return b"\0" + size.to_bytes(4)


def frame(message: bytes) -> bytes:
    """Return ``message`` with its prefix."""
    return prefix(len(message)) + message


def split_frame(body: bytes | bytearray, encoding: bytes | None) -> tuple[bytes, int] | None:
    """Return the first message of ``body``, decompressed, and where the next one begins; None if it is incomplete.

    Raises ProtocolError for a message that is too large, or that cannot be decompressed.
    """
    if len(body) < PREFIX_BYTES:
        return None
    end = PREFIX_BYTES + int.from_bytes(body[1:PREFIX_BYTES])
    if end > MAX_REQUEST_BYTES + PREFIX_BYTES:
        raise _too_large(f"a message of {end - PREFIX_BYTES} bytes")
    if len(body) < end:
        return None
    message = bytes(memoryview(body)[PREFIX_BYTES:end])
    if body[0] == 0:
        return message, end
    if body[0] != 1:
        raise not_one_message(f"one whose flag is {body[0]}, where gRPC knows 0 and 1")
    return _decompress(message, encoding), end


def timeout_seconds(value: bytes | None) -> float | None:
    """Return the seconds of a ``grpc-timeout`` header; None without one. Raises ProtocolError if it is malformed."""
    if value is None:
        return None
    if (match := _TIMEOUT.fullmatch(value)) is None:
        shown = ascii(value[:32].decode("latin-1"))
        raise ProtocolError(
            "INVALID_ARGUMENT", f"Malformed grpc-timeout {shown}: expected up to 8 digits and one of HMSmun"
        )
    return int(match[1]) * _SECONDS[match[2]]


def check_encoding(encoding: bytes | None) -> None:
    """Raise ProtocolError unless the server can read messages of this ``grpc-encoding``."""
    if encoding is not None and encoding != b"identity" and encoding not in _WINDOW_BITS:
        shown = ascii(encoding[:32].decode("latin-1"))
        raise ProtocolError(
            "UNIMPLEMENTED",
            f"The server cannot read messages compressed with {shown}",
            (b"grpc-accept-encoding", ACCEPTED_ENCODINGS),
        )


def status_of_error(error: TaskgateError) -> list[tuple[bytes, bytes]]:
    """Return the trailers that describe ``error``."""
    details = base64.b64encode(status_details(error)).rstrip(b"=")
    return [*status(error.status.grpc_code, error.message), (b"grpc-status-details-bin", details)]


def status(code: str, message: str) -> list[tuple[bytes, bytes]]:
    """Return the trailers for a status by name; ``message`` is percent-encoded as gRPC requires."""
    encoded = quote_from_bytes(message.encode(errors="replace"), safe=_PLAIN).encode()
    return [(b"grpc-status", _CODES[code]), (b"grpc-message", encoded)]


def _decompress(message: bytes, encoding: bytes | None) -> bytes:
    if encoding is None or encoding not in _WINDOW_BITS:
        raise ProtocolError("INTERNAL", "A message is marked as compressed, but grpc-encoding names no compression")
    decompressor: Any = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain: bytes = decompressor.decompress(message, MAX_REQUEST_BYTES)
    except zlib.error as error:
        raise ProtocolError("INTERNAL", f"A message is not valid {encoding.decode()} data") from error
    if decompressor.unconsumed_tail:
        raise _too_large("a compressed message that is larger than that")
    if decompressor.unused_data:
        raise ProtocolError("INTERNAL", f"A message has bytes after its {encoding.decode()} data")
    if not decompressor.eof:
        raise ProtocolError("INTERNAL", f"A message ends within its {encoding.decode()} data")
    return plain


def _too_large(what: str) -> ProtocolError:
    return ProtocolError(
        "RESOURCE_EXHAUSTED", f"The server takes messages of up to {MAX_REQUEST_BYTES} bytes, not {what}"
    )

"""gRPC's wire format over HTTP/2, as far as a server needs it: frames, deadlines, status. Bytes in, bytes out.

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
"""A flag (0 plain, 1 compressed) and the length of what follows, before every message."""

ACCEPTED_ENCODINGS = b"identity, deflate, gzip"
"""``grpc-accept-encoding``: what a request may be compressed with. Answers are never compressed."""

CONTENT_TYPE = (b"content-type", b"application/grpc")

_CODES: Mapping[str, bytes] = {name: str(number).encode() for name, number in code_pb2.Code.items()}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_WINDOW_BITS = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}
# What grpc-message may hold as it is: printable ASCII but for "%".
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class Refused(Exception):
    """The call breaks the protocol, or asks for what is not there; made by the transport, never by the service."""

    def __init__(self, code: str, message: str, *extra: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.extra = extra
        """Further headers of the answer."""


def no_whole_message(why: str = "none that is whole") -> Refused:
    """The refusal of a request without a message where the method takes one, for the reason ``why``.

    gRPC's table of status codes has UNIMPLEMENTED for a request with any other number of messages than one. A message
    that is cut off, or whose flag is unknown, is none: grpcio's core does not tell the three from each other, and this
    status is the same from every transport.
    """
    return Refused("UNIMPLEMENTED", f"The method takes one message; the request has {why}")


def late_request(seconds: float) -> Refused:
    """The refusal of a request that is not there within ``seconds``."""
    return Refused("DEADLINE_EXCEEDED", f"The request did not arrive whole within {seconds:.3g} s")


def prefix(size: int) -> bytes:
    """What gRPC puts before a message of ``size`` bytes."""
    return b"\0" + size.to_bytes(4)


def frame(message: bytes) -> bytes:
    """``message`` with its prefix."""
    return prefix(len(message)) + message


def split_frame(body: bytes | bytearray, encoding: bytes | None) -> tuple[bytes, int] | None:
    """The first message of ``body``, decompressed, and where the next one begins; None if it is not all there yet.

    Raises Refused for a message that is too large, or compressed in a way that the server does not know.
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
        raise no_whole_message(f"one whose flag is {body[0]}, where gRPC knows 0 and 1")
    return _decompress(message, encoding), end


def timeout_seconds(value: bytes | None) -> float | None:
    """The seconds that ``grpc-timeout`` allows, None if there is no such header; Refused if it is malformed."""
    if value is None:
        return None
    if (match := _TIMEOUT.fullmatch(value)) is None:
        shown = ascii(value[:32].decode("latin-1"))
        raise Refused("INVALID_ARGUMENT", f"Malformed grpc-timeout {shown}: expected up to 8 digits and one of HMSmun")
    return int(match[1]) * _SECONDS[match[2]]


def check_encoding(encoding: bytes | None) -> None:
    """Raise Refused unless the server can read messages of this ``grpc-encoding``."""
    if encoding is not None and encoding != b"identity" and encoding not in _WINDOW_BITS:
        shown = ascii(encoding[:32].decode("latin-1"))
        raise Refused(
            "UNIMPLEMENTED",
            f"The server cannot read messages compressed with {shown}",
            (b"grpc-accept-encoding", ACCEPTED_ENCODINGS),
        )


def status_of_error(error: TaskgateError) -> list[tuple[bytes, bytes]]:
    """The trailers that tell of ``error``."""
    details = base64.b64encode(status_details(error)).rstrip(b"=")
    return [*status(error.status.grpc_code, error.message), (b"grpc-status-details-bin", details)]


def status(code: str, message: str) -> list[tuple[bytes, bytes]]:
    """The trailers for a status by name; ``message`` is percent-encoded as gRPC wants it."""
    encoded = quote_from_bytes(message.encode(errors="replace"), safe=_PLAIN).encode()
    return [(b"grpc-status", _CODES[code]), (b"grpc-message", encoded)]


def _decompress(message: bytes, encoding: bytes | None) -> bytes:
    if encoding is None or encoding not in _WINDOW_BITS:
        raise Refused("INTERNAL", "A message is marked as compressed, but grpc-encoding names no compression")
    decompressor: Any = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain: bytes = decompressor.decompress(message, MAX_REQUEST_BYTES)
    except zlib.error as error:
        raise Refused("INTERNAL", f"A message is not the {encoding.decode()} that it claims to be") from error
    if decompressor.unconsumed_tail:
        raise _too_large("a compressed message that is larger than that")
    if decompressor.unused_data:
        raise Refused("INTERNAL", f"A message has more after the {encoding.decode()} that it claims to be")
    if not decompressor.eof:
        raise Refused("INTERNAL", f"A message is not the whole {encoding.decode()} that it claims to be")
    return plain


def _too_large(what: str) -> Refused:
    return Refused("RESOURCE_EXHAUSTED", f"The server takes messages of up to {MAX_REQUEST_BYTES} bytes, not {what}")

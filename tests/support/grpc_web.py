"""Frame and read gRPC-Web by hand, as a browser's client does; PROTOCOL-WEB.md of the gRPC project describes it."""

import base64
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from google.rpc import error_details_pb2, status_pb2

BINARY = "application/grpc-web+proto"
TEXT = "application/grpc-web-text"

_PREFIX = struct.Struct(">BI")
_TRAILERS = 0x80
_BASE64 = re.compile(rb"[^=]+=*")


def call(message: bytes, content_type: str = BINARY) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a call with one message."""
    body = _PREFIX.pack(0, len(message)) + message
    headers = {"content-type": content_type, "accept": content_type, "x-grpc-web": "1"}
    return headers, base64.b64encode(body) if content_type == TEXT else body


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """The messages of an answer, and its trailers, which are headers if there is no message."""

    messages: list[bytes]
    trailers: dict[str, str]

    @property
    def code(self) -> int:
        return int(self.trailers["grpc-status"])

    @property
    def reason(self) -> str:
        """``ErrorInfo.reason``."""
        details = self.trailers["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(base64.b64decode(details + "=" * (-len(details) % 4)))
        assert status.code == self.code
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        return info.reason


def read(headers: Mapping[str, str], body: bytes) -> WebAnswer:
    """Read an answer whose header names are in lower case."""
    if headers["content-type"].startswith(TEXT):
        # Several pieces of base64, each with its own padding.
        body = b"".join(base64.b64decode(piece) for piece in _BASE64.findall(body))
    messages, trailers = [], {name: value for name, value in headers.items() if name.startswith("grpc-")}
    while body:
        kind, length = _PREFIX.unpack_from(body)
        content, body = body[_PREFIX.size : _PREFIX.size + length], body[_PREFIX.size + length :]
        if kind & _TRAILERS:
            assert not body, "trailers are last"
            trailers |= dict(line.split(":", 1) for line in content.decode().splitlines())
        else:
            messages.append(content)
    return WebAnswer(messages, trailers)

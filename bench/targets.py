"""Define a request and its right answer, and check one answer."""

import http.client
import json
import operator
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from tools.processes import Failed

ANSWER_TIMEOUT = 30.0
"""Seconds that a call to check an answer may take."""

_FRAME_PREFIX = 5
"""Bytes before a gRPC message on the wire: the compression flag and the length."""


@dataclass(frozen=True, slots=True)
class Target:
    """``GET`` of a path over HTTP/1.1; with a serialised ``message`` a unary gRPC call of it.

    ``answer`` is the required body or serialised response, compared by ``same``: byte for byte, unless the order of a
    map's entries is free. ``others`` are paths that a generator cycles through with ``path``; only the status of their
    answers is checked.
    """

    authority: str
    path: str
    answer: bytes
    message: bytes | None = None
    same: Callable[[bytes, bytes], bool] = operator.eq
    others: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def data_bytes(self) -> int:
        """Bytes of content in one right answer; a gRPC error has none, since its status travels in headers."""
        return len(self.answer) + (_FRAME_PREFIX if self.message is not None else 0)

    def __str__(self) -> str:
        return f"{self.authority}{self.path}"


def framed(message: bytes) -> bytes:
    """Return the body of a gRPC request: the length, and the uncompressed message."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def ask(target: Target) -> bytes:
    """Return the answer to one call. Raises Failed if it is refused or does not arrive."""
    return _get(target) if target.message is None else _call(target, target.message)


def check(target: Target) -> None:
    """Raise Failed unless the answer to one call is exactly the right one."""
    answer, expected = ask(target), target.answer
    if len(answer) != len(expected) or not target.same(answer, expected):
        raise Failed(
            f"{target} answers {len(answer)} bytes that differ from the {len(expected)} expected; they begin"
            f" {answer[:80]!r}"
        )


def token_of(authority: str, credentials: str) -> str:
    """Return a token for the JSON ``credentials``. Raises Failed if there is none, perhaps not yet."""
    connection = http.client.HTTPConnection(authority, timeout=ANSWER_TIMEOUT)
    try:
        connection.request("POST", "/api/token", credentials, {"content-type": "application/json"})
        body = connection.getresponse().read()
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"http://{authority}/api/token: {error}") from error
    finally:
        connection.close()
    try:
        return str(json.loads(body)["token"])
    except (ValueError, KeyError) as error:
        raise Failed(f"http://{authority}/api/token: {body[:200]!r}") from error


def _get(target: Target) -> bytes:
    connection = http.client.HTTPConnection(target.authority, timeout=ANSWER_TIMEOUT)
    try:
        connection.request("GET", target.path, headers=dict(target.headers))
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"http://{target}: {error}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise Failed(f"http://{target}: status {response.status}, {body[:200]!r}")
    return body


def _call(target: Target, message: bytes) -> bytes:
    any_size = (("grpc.max_receive_message_length", -1),)
    with grpc.insecure_channel(target.authority, options=any_size) as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(target.path)
        try:
            return method(message, timeout=ANSWER_TIMEOUT, metadata=target.headers)
        except grpc.RpcError as error:
            raise Failed(f"{target}: {error.code().name}, {error.details()}") from error

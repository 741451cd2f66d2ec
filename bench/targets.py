"""What is asked for: a request, the bytes that must come back, and how to ask once and look."""

import http.client
import operator
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from bench.errors import BenchError

ANSWER_TIMEOUT = 30.0
"""Seconds that the one call which checks an answer may take."""

GRPC_FRAME_PREFIX = 5
"""Bytes before a message on the wire: the compression flag and the length."""

ANY_SIZE = (("grpc.max_receive_message_length", -1),)
"""Options of a channel that takes messages over 4 MiB."""


@dataclass(frozen=True, slots=True)
class HttpGet:
    """``GET`` over HTTP/1.1, the connection kept alive. ``answer`` is the body that must come back with status 200.

    ``others`` are paths for a generator to go round with ``path``; their answers have the same size unless
    ``sizes_differ``. A ``bare_status`` line is one without words ("HTTP/1.1 200 "), as Tomcat sends it.
    """

    authority: str
    path: str
    answer: bytes
    others: tuple[str, ...] = ()
    bare_status: bool = False
    sizes_differ: bool = False

    @property
    def data_bytes(self) -> int:
        """Bytes of content in one right answer, as a load generator counts them; 0 if it may have any number."""
        return 0 if self.sizes_differ else len(self.answer)

    @property
    def paths(self) -> tuple[str, ...]:
        """All that is asked for in turn."""
        return (self.path, *self.others)


@dataclass(frozen=True, slots=True)
class GrpcCall:
    """A unary call of ``path`` with the serialised ``message``; ``answer`` is the serialised response.

    ``same`` compares a response with ``answer``: byte for byte, unless the order of a map's entries is free.
    """

    authority: str
    path: str
    message: bytes
    answer: bytes
    same: Callable[[bytes, bytes], bool] = operator.eq

    @property
    def data_bytes(self) -> int:
        """Bytes of content in one right answer; an error has none, since its status travels in headers."""
        return GRPC_FRAME_PREFIX + len(self.answer)

    @property
    def framed(self) -> bytes:
        """The request body: the message, not compressed, behind its length."""
        return b"\0" + len(self.message).to_bytes(4, "big") + self.message


Target = HttpGet | GrpcCall


def ask(target: Target) -> bytes:
    """The answer to one call. Raises BenchError if it is refused or fails."""
    return _get(target) if isinstance(target, HttpGet) else _call(target)


def check(target: Target) -> None:
    """Raise BenchError unless the answer to one call is the right one, to the byte."""
    answer = ask(target)
    same = target.same if isinstance(target, GrpcCall) else operator.eq
    if len(answer) != len(target.answer) or not same(answer, target.answer):
        raise BenchError(
            f"{target.authority}{target.path} answers {len(answer)} bytes that differ from the {len(target.answer)}"
            f" expected; they begin {answer[:80]!r}"
        )


def _get(target: HttpGet) -> bytes:
    connection = http.client.HTTPConnection(target.authority, timeout=ANSWER_TIMEOUT)
    try:
        connection.request("GET", target.path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"http://{target.authority}{target.path}: {error}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise BenchError(f"http://{target.authority}{target.path}: status {response.status}, {body[:200]!r}")
    return body


def _call(target: GrpcCall) -> bytes:
    with grpc.insecure_channel(target.authority, options=ANY_SIZE) as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(target.path)
        try:
            return method(target.message, timeout=ANSWER_TIMEOUT)
        except grpc.RpcError as error:
            raise BenchError(f"{target.authority}{target.path}: {error.code().name}, {error.details()}") from error

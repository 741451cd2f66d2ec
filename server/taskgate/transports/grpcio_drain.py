"""Let answers arrive in full before gRPC closes their connection.

When a server stops, gRPC closes each connection once its last call is over: when the answer is in the kernel's buffers,
of which the client may have read a part. If the client then writes, such as a WINDOW_UPDATE of HTTP/2, its write fails.
Envoy and other clients drop what they have not read at that moment, and the caller gets a broken answer.

So a server that drains withholds the status of a call until the client has read the message. The call is not over, and
the connection stays open. grpc.aio can do so in methods that stream their answer; in others, message and status leave
together, for a quarter less CPU a call. So a method has a handler of each kind, and calls that begin during a drain get
the streaming one. Calls that began before the drain end before gRPC announces the close (GOAWAY). gRPC then pings; the
client replies only after it has read all that came before.
"""

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import grpc

from taskgate.transports.grpcio_calls import calls_in_flight
from taskgate.transports.own_sockets import copy_of, descriptors

Behaviour = Callable[[Any, Any], Awaitable[bytes]]
"""grpc.aio's handler of a call: takes an iterator of requests and the call's context; returns the last message."""

_POLL_SECONDS = 0.01

_LARGE_BYTES = 16 * 1024
"""Messages above this size may make a client write a WINDOW_UPDATE when it has read them."""

_READING_SECONDS = 0.1
"""How long a client may take to read a large message that its system has, and to write what it then has to write."""


class Methods(grpc.GenericRpcHandler):
    """The methods of a server, each with a handler for normal times and one for a drain."""

    def __init__(self, unary: Mapping[str, Behaviour], others: Mapping[str, Any]) -> None:
        """``unary`` are handlers of methods with a single request; ``others`` are method handlers of grpcio."""
        self._methods: Mapping[str, Any] = {
            **others,
            **{path: grpc.stream_unary_rpc_method_handler(behave) for path, behave in unary.items()},
        }
        self._draining: Mapping[str, Any] = {
            **others,
            **{path: grpc.stream_stream_rpc_method_handler(_withheld(behave)) for path, behave in unary.items()},
        }

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a call that begins; None for an unknown method."""
        return self._methods.get(handler_call_details.method)

    async def drain(self, seconds: float) -> None:
        """Use the streaming handlers from now on. Wait up to ``seconds`` for calls that began earlier to end."""
        self._methods = self._draining
        if earlier := calls_in_flight():
            await asyncio.wait(earlier, timeout=seconds)


def _withheld(behave: Behaviour) -> Callable[[Any, Any], Awaitable[None]]:
    async def answer_and_wait(requests: Any, context: Any) -> None:
        message = await behave(requests, context)
        await context.write(message)
        while await asyncio.to_thread(_unread, context.peer()):  # noqa: ASYNC110 - the system tells only when asked
            await asyncio.sleep(_POLL_SECONDS)
        if len(message) > _LARGE_BYTES:
            await asyncio.sleep(_READING_SECONDS)

    return answer_and_wait


def _unread(peer: str) -> bool:
    """Return whether bytes for ``peer``, as gRPC names it, are still in this machine's buffers; False without /proc.

    Callers of a Unix socket have no port to tell them apart, so bytes for any of them count.
    """
    port = peer.rpartition(":")[2]
    return any(_has_unread(descriptor, port) for descriptor in descriptors())


def _has_unread(descriptor: int, port: str) -> bool:
    with suppress(OSError):  # it is no socket, is not connected, or was closed meanwhile
        # TIOCOUTQ is SIOCOUTQ for a socket: bytes not acknowledged by the other side, or not read from a Unix socket.
        (size,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0\0\0\0"))
        return size > 0 and _peer_port(descriptor) == port
    return False


def _peer_port(descriptor: int) -> str:
    """Return the port of the other side of a connection, or an empty string for a Unix socket."""
    with copy_of(descriptor) as connection:
        return "" if connection.family == socket.AF_UNIX else str(connection.getpeername()[1])

"""Read gRPC requests over ASGI, each within the server's limit and its caller's deadline."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from taskgate.transports.asgi import CallerGone, Receive, Send, release_frames
from taskgate.transports.asgi_answers import request_id_header, send_status
from taskgate.transports.grpc_wire import (
    ProtocolError,
    late_request,
    not_one_message,
    split_frame,
    status,
    timeout_seconds,
)

_LATE_CHECK_SECONDS = 0.05
"""Seconds between two checks for late requests; a timer for each request would cost 5 µs a call."""

_STREAM_PARTS = 16
"""Parts of a streaming request that may wait for its handler; beyond that, backpressure stops the caller."""


class PendingRequests:
    """Requests whose message has not arrived; one timer ends those that are late."""

    def __init__(self) -> None:
        self._requests: set[Request] = set()
        self._check_scheduled = False

    def add(self, request: "Request") -> None:
        """Watch ``request`` until ``remove``."""
        self._requests.add(request)
        if not self._check_scheduled:
            self._check_scheduled = True
            asyncio.get_running_loop().call_later(_LATE_CHECK_SECONDS, self._end_late)

    def remove(self, request: "Request") -> None:
        """Stop watching ``request``: its message has arrived, or it has ended."""
        self._requests.discard(request)

    def _end_late(self) -> None:
        for request in [request for request in self._requests if request.seconds_left() <= 0]:
            self._requests.discard(request)
            request.time_out()
        self._check_scheduled = bool(self._requests)
        if self._check_scheduled:
            asyncio.get_running_loop().call_later(_LATE_CHECK_SECONDS, self._end_late)


class Request:
    """A request whose message and answer are due within the server's limit and the caller's deadline."""

    __slots__ = ("_began", "_headers", "_limit", "_loop", "_pending", "_receive", "_seconds", "_send", "_timed_out")

    def __init__(
        self, headers: Mapping[bytes, bytes], receive: Receive, send: Send, limit: float, pending: PendingRequests
    ) -> None:
        """``limit`` is the server's limit in seconds. Raises ProtocolError for a malformed grpc-timeout."""
        self._headers = headers
        self._seconds = timeout_seconds(headers.get(b"grpc-timeout"))
        self._receive, self._send, self._limit = receive, send, limit
        self._pending = pending
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()  # uvloop's clock counts whole milliseconds
        self._timed_out = False

    def seconds_left(self) -> float:
        """Return how long the call may still take."""
        return (self._limit if self._seconds is None else min(self._seconds, self._limit)) - self._waited()

    def callers_seconds_left(self) -> float | None:
        """Return the time to the caller's deadline; None without one."""
        return None if self._seconds is None else self._seconds - self._waited()

    def _waited(self) -> float:
        return time.monotonic() - self._began

    async def only_message(self) -> bytes:
        """Return the one message of the request, without waiting for the caller to close its side.

        Raises ProtocolError for a malformed message, and CallerGone if the caller left or the request timed out.
        """
        self._pending.add(self)
        try:
            message = await self._read()
        except ProtocolError:
            if self._timed_out:  # already answered
                raise CallerGone from None
            raise
        finally:
            self._pending.remove(self)
        if self._timed_out:
            raise CallerGone
        return message

    def time_out(self) -> None:
        """Answer DEADLINE_EXCEEDED; Envoy then ends the request, which ends ``only_message``."""
        self._timed_out = True
        seconds = self._seconds
        refused = late_request(self._limit if seconds is None or seconds > self._limit else seconds)
        trailers = [*status(refused.code, refused.message), request_id_header(self._headers)]
        answering = self._loop.create_task(send_status(self._send, trailers))
        answering.add_done_callback(_retrieve_error)

    async def _read(self) -> bytes:
        body = bytearray()
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise CallerGone
            body += event["body"]
            if (found := split_frame(body, self._headers.get(b"grpc-encoding"))) is not None:
                message, end = found
                if end != len(body):
                    raise not_one_message("more")
                return message
            if not event["more_body"]:
                raise not_one_message()


def _retrieve_error(answering: asyncio.Task[None]) -> None:
    """Retrieve the error that ``send`` raised because the caller had left."""
    if not answering.cancelled() and isinstance(error := answering.exception(), OSError):
        release_frames(error)


class RequestParts:
    """Split a streaming request into messages; a short queue of its parts puts backpressure on the caller."""

    def __init__(self, encoding: bytes | None) -> None:
        self._encoding = encoding
        self._parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=_STREAM_PARTS)
        self._ended = False

    async def take(self, part: dict[str, Any]) -> None:
        """Queue ``part`` of the request's body; wait while the queue is full."""
        if not self._ended:
            self._ended = not part["more_body"]
            await self._parts.put(part)

    async def messages(self) -> AsyncIterator[bytes]:
        """Yield each message. Raises ProtocolError if the request ends within one."""
        body = bytearray()
        more = True
        while True:
            while (found := split_frame(body, self._encoding)) is not None:
                message, end = found
                del body[:end]
                yield message
            if not more:
                break
            part = await self._parts.get()
            body += part["body"]
            more = part["more_body"]
        if body:
            raise not_one_message()

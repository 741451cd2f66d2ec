"""Send gRPC answers over ASGI: messages, streams and trailers, each with the request ID."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from taskgate.service.calls import REQUEST_ID_HEADER, LargeAnswer, usable_request_id
from taskgate.service.endpoints import body_part
from taskgate.transports.asgi import IDLE_INTERVAL, Receive, Send, cancel_when_caller_leaves, send_body, send_large
from taskgate.transports.grpc_wire import (
    ACCEPTED_ENCODINGS,
    CONTENT_TYPE,
    Headers,
    ProtocolError,
    frame,
    late_answer,
    prefix,
    status,
)
from taskgate.transports.pace import Turns

REQUEST_ID = REQUEST_ID_HEADER.encode()
GRPC_OK = ((b"grpc-status", b"0"),)
_GRPC_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [CONTENT_TYPE, (b"grpc-accept-encoding", ACCEPTED_ENCODINGS)],
    "trailers": True,
}


def request_id(headers: Mapping[bytes, bytes]) -> str:
    """Return the request ID of the caller if it is usable, else a new one."""
    offered = headers.get(REQUEST_ID)
    return usable_request_id(None if offered is None else offered.decode("latin-1"))


def request_id_header(headers: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return the header or trailer that carries the request ID in the answer."""
    return REQUEST_ID, request_id(headers).encode()


async def stream_call(
    messages: AsyncIterator[bytes],
    receive: Receive,
    send: Send,
    *,
    seconds: float | None,
    id_header: tuple[bytes, bytes],
    take: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
) -> str:
    """Send ``messages`` as they come, then trailers with the status and ``id_header``; return the status.

    ``take`` gets the parts of the request that come meanwhile; without it they are dropped.
    """
    begun = False
    code = "OK"
    trailers: Headers = status(code, "")
    try:
        async with asyncio.timeout(seconds), cancel_when_caller_leaves(receive, take, longest=IDLE_INTERVAL):
            async for message in messages:
                if not begun:
                    await send(_GRPC_START)
                    begun = True
                await send_body(send, frame(message), last=False)
    except ProtocolError as refused:
        code = refused.code
        trailers = status(code, refused.message)
    except TimeoutError:
        late = late_answer(seconds or 0)
        code, trailers = late.code, status(late.code, late.message)
    if not begun:
        await send_status(send, [*trailers, id_header])
        return code
    await send_body(send, b"")
    await send_trailers(send, (*trailers, id_header))
    return code


async def send_message(send: Send, message: bytes) -> None:
    """Send an answer of one small message, without its trailers."""
    await send(_GRPC_START)
    await send_body(send, frame(message))


async def send_large_message(send: Send, message: LargeAnswer, turns: Turns) -> None:
    """Send an answer of one large message, without its trailers."""
    head, payload = message
    await send(_GRPC_START)
    await send_body(send, prefix(len(head) + len(payload)) + head, last=False)
    await send_large(send, payload, turns)
    await send_body(send, b"")


async def send_stream(send: Send, document: bytes, turns: Turns) -> None:
    """Send a streaming answer, without its trailers."""
    await send(_GRPC_START)
    await send_body(send, frame(body_part(b"", first=True)), last=False)
    await send_large(send, document, turns, lambda part: frame(body_part(part, first=False)))
    await send_body(send, b"")


async def send_trailers(send: Send, trailers: Headers) -> None:
    """End an answer with its trailers."""
    await send({"type": "http.response.trailers", "headers": trailers, "more_trailers": False})


async def send_status(send: Send, trailers: Headers) -> None:
    """Send an answer of only a status: gRPC's "trailers-only"."""
    await send({"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE, *trailers]})
    await send_body(send, b"")

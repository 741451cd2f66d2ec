"""What leaves of a large answer, whatever sends it. A call may have room for a row that is larger than its document."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.api.httpbody_pb2 import HttpBody

from support.raw_grpc import RawAnswer
from taskgate.service.calls import Call, LargeAnswer
from taskgate.service.endpoints import _HTTP_BODY_TYPE, _field_header, body_part
from taskgate.service.in_flight import InFlight
from taskgate.transports import asgi_answers, grpcio
from taskgate.transports.pace import PINNED_BYTES, Turns

ROW = b"x" * 100_000


class Context:
    """The part of grpc.aio's context that writes."""

    def __init__(self) -> None:
        self.metadata: tuple[tuple[str, str], ...] = ()
        self.messages: list[bytes] = []

    async def send_initial_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self.metadata = metadata

    async def write(self, message: bytes) -> None:
        self.messages.append(message)


def answer_of(document: bytes) -> LargeAnswer:
    return LargeAnswer(_HTTP_BODY_TYPE + _field_header(2, document), document)


async def stream_of_server(call: Call, document: bytes) -> list[bytes]:
    context = Context()
    last = await grpcio._send_stream(Turns(), call, answer_of(document), context)
    assert context.metadata == ((grpcio.LENGTH_HEADER, str(len(document))),)
    return [*context.messages, last]


async def message_of_server(call: Call, document: bytes) -> list[bytes]:
    return [await grpcio._send_whole(Turns(), call, answer_of(document), Context())]


def embedded(send_answer: Callable[[Any, bytes], Awaitable[None]]) -> Callable[[Call, bytes], Awaitable[list[bytes]]]:
    async def sent(_: Call, document: bytes) -> list[bytes]:
        body = bytearray()

        async def send(event: dict[str, Any]) -> None:
            body.extend(event.get("body", b""))

        await send_answer(send, document)
        answer = RawAnswer(body=body)
        return answer.messages

    return sent


SENDERS = {
    "proxied stream": stream_of_server,
    "proxied message": message_of_server,
    "embedded stream": embedded(lambda send, document: asgi_answers.send_stream(send, document, Turns())),
    "embedded message": embedded(
        lambda send, document: asgi_answers.send_large_message(send, answer_of(document), Turns()),
    ),
}


@pytest.mark.parametrize("sender", SENDERS)
@pytest.mark.parametrize("size", [0, 1, 32768, 32769, 65535, 65536, 65537, 131072, 1_000_000])
async def test_whole_document_leaves(sender: str, size: int) -> None:
    document = (bytes(range(251)) * (size // 251 + 1))[:size]
    call = Call("path", "request", peer=("192.0.2.1", 1))
    call.room = InFlight(512 << 20, own_bytes=PINNED_BYTES).room(call)
    assert call.room.take("task", ROW)
    messages = await SENDERS[sender](call, document)
    bodies = [HttpBody.FromString(message) for message in messages]
    assert b"".join(body.data for body in bodies) == document
    assert [body.content_type for body in bodies] == ["application/json", *[""] * (len(bodies) - 1)]
    assert messages[0].startswith(body_part(b"", first=True)[: len(_HTTP_BODY_TYPE)])

"""gRPC over ASGI: message frames, deadlines, and whole requests, however their bytes are cut."""

import asyncio
import gzip
import sys
import zlib
from functools import cache
from itertools import pairwise
from typing import Any

from fuzz.target import Choices, Target, folder
from support.documents import DOCUMENTED_COMPACT, DOCUMENTED_ID, UNKNOWN_ID
from taskgate.access.gate import CREATE_TOKEN
from taskgate.base.settings import Settings
from taskgate.documents.document import MAX_REQUEST_BYTES
from taskgate.stores.base import StoredTask
from taskgate.stores.sqlite.store import SqliteStore
from taskgate.stores.sqlite.writer import SqliteWriter
from taskgate.transports.asgi_app import AsgiTransport
from taskgate.transports.asgi_requests import PendingRequests, Request, RequestParts
from taskgate.transports.grpc_wire import (
    PREFIX_BYTES,
    ProtocolError,
    check_encoding,
    frame,
    split_frame,
    status,
    timeout_seconds,
)
from taskgate.v1.task_service_pb2 import GetTaskRequest
from taskgate.v1.token_service_pb2 import CreateTokenRequest

_ENCODINGS = (None, b"identity", b"gzip", b"deflate", b"snappy")
_COMPRESS = {b"gzip": lambda plain: gzip.compress(plain, 1), b"deflate": lambda plain: zlib.compress(plain, 1)}

Received = tuple[list[bytes], str | None]
"""The messages of a request, and the code that it was refused with."""


def _code(refused: ProtocolError) -> str:
    """Return the code of a refusal that can be sent."""
    for _, value in status(refused.code, refused.message):
        assert value.isascii()
        assert value.decode().isprintable()
    assert len(refused.message) < 300
    return refused.code


def split(body: bytes, encoding: bytes | None) -> tuple[bytes, int] | str | None:
    """``split_frame``, or the code of its refusal."""
    try:
        found = split_frame(body, encoding)
    except ProtocolError as refused:
        return _code(refused)
    declared = PREFIX_BYTES + int.from_bytes(body[1:PREFIX_BYTES], "big")
    if found is None:
        assert len(body) < max(declared, PREFIX_BYTES)
        return None
    message, end = found
    assert end == declared <= len(body)
    assert len(message) <= MAX_REQUEST_BYTES
    if body[0] == 0:
        assert message == body[PREFIX_BYTES:end]
    assert split_frame(body[: end - 1], encoding) is None
    return found


def split_any(data: bytes) -> None:
    """A frame is waited for, refused, or exactly what its prefix says; what was compressed comes back."""
    choices = Choices(data)
    encoding = _ENCODINGS[choices.number(len(_ENCODINGS))]
    packed = choices.number(2)
    body = choices.rest()
    if packed and encoding in _COMPRESS:
        plain, body = body, _COMPRESS[encoding](body)
        body = b"\1" + len(body).to_bytes(4, "big") + body
        found = split(body, encoding)
        if len(body) - PREFIX_BYTES <= MAX_REQUEST_BYTES and len(plain) < MAX_REQUEST_BYTES:
            assert found == (plain, len(body))
        return
    split(body, encoding)
    for parse in (timeout_seconds, check_encoding):
        try:
            value = parse(body)
        except ProtocolError as refused:
            _code(refused)
        else:
            assert value is None or 0 <= value < 360_000_000_000


def _expected(body: bytes, encoding: bytes | None) -> Received:
    """What a request has, read at once."""
    messages: list[bytes] = []
    while body:
        found = split(body, encoding)
        if not isinstance(found, tuple):
            return messages, found or "UNIMPLEMENTED"
        messages.append(found[0])
        body = body[found[1] :]
    return messages, None


def _parts(body: bytes, choices: Choices) -> list[dict[str, Any]]:
    """Cut ``body`` into up to nine parts."""
    cuts = sorted(choices.number(256) * len(body) // 255 for _ in range(choices.number(9)))
    edges = [0, *cuts, len(body)]
    parts = [body[start:end] for start, end in pairwise(edges)]
    return [
        {"type": "http.request", "body": part, "more_body": number < len(parts)} for number, part in enumerate(parts, 1)
    ]


async def _stream(parts: list[dict[str, Any]], encoding: bytes | None) -> Received:
    stream = RequestParts(encoding)
    for part in parts:
        await stream.take(part)
    messages: list[bytes] = []
    try:
        async for message in stream.messages():
            messages.append(message)  # noqa: PERF401 - those before a refusal count
    except ProtocolError as refused:
        return messages, _code(refused)
    return messages, None


async def _unary(parts: list[dict[str, Any]], encoding: bytes | None) -> bytes | str:
    coming = iter(parts)

    async def receive() -> dict[str, Any]:
        return next(coming, {"type": "http.disconnect"})

    async def send(event: dict[str, Any]) -> None:
        raise AssertionError(event)

    headers = {} if encoding is None else {b"grpc-encoding": encoding}
    try:
        return await Request(headers, receive, send, 60.0, PendingRequests()).only_message()
    except ProtocolError as refused:
        return _code(refused)


@cache
def loop() -> asyncio.AbstractEventLoop:
    """The event loop of all targets."""
    return asyncio.new_event_loop()


def read_request(data: bytes) -> None:
    """How a request's bytes are cut changes nothing: as one message, and as a stream of them."""
    choices = Choices(data)
    encoding = _ENCODINGS[choices.number(len(_ENCODINGS))]
    parts = _parts(body := choices.rest(), choices)
    messages, code = _expected(body, encoding)
    assert loop().run_until_complete(_stream(parts, encoding)) == (messages, code)
    only = loop().run_until_complete(_unary(parts, encoding))
    if messages:  # what comes behind the first may still be on its way when the call is answered
        assert only in (messages[0], "UNIMPLEMENTED")
        assert isinstance(only, str) or len(messages) == 1 or len(parts) > 1
    else:
        assert only == (code or "UNIMPLEMENTED")


@cache
def _application(auth: str) -> AsgiTransport:
    """The application with one task, inside the process, for everyone or for callers with a token."""
    database = folder() / f"{auth}.db"
    with SqliteWriter(str(database)) as writer:
        writer.write([StoredTask(DOCUMENTED_ID, 0, DOCUMENTED_COMPACT)])
    settings = Settings(
        task_id_format="any",
        mask=("password",),
        instance="test-node",
        auth=auth,
        auth_store=f"sqlite:///{folder()}/keys.db",
    )

    async def start() -> AsgiTransport:
        transport = AsgiTransport(settings, SqliteStore(str(database)), python=sys.executable)
        await transport.start()
        return transport

    return loop().run_until_complete(start())


_CREATE_TOKEN = CREATE_TOKEN.encode()
_REST = b"/taskgate.v1.TaskService/StreamTaskJson"
_PATHS = (
    *(b"/taskgate.v1.TaskService/GetTask", b"/taskgate.v1.TaskService/GetTaskJson"),
    *(_REST, b"/conductor.grpc.tasks.TaskService/GetTask"),
    *(b"/grpc.health.v1.Health/Check", b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
    *(_CREATE_TOKEN, b"/healthz", b"/api/tasks/a%0a", b"/\xff"),
)
_NAMES = (b"te", b"grpc-timeout", b"grpc-encoding", b"x-request-id", b"authorization", b"x-authorization")


async def _answer(
    application: AsgiTransport, scope: dict[str, Any], parts: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    coming = iter(parts)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return next(coming, {"type": "http.request", "body": b"", "more_body": False})

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    async with asyncio.timeout(10):
        await application(scope, receive, send)
    return sent


def _method(path: bytes, choices: Choices) -> str:
    """A method that the routes of Envoy let through with this path."""
    if path.startswith(b"/api/"):
        return "GET"
    return ("GET", "HEAD")[choices.number(2)] if path == b"/healthz" else "POST"


def answer_request(data: bytes) -> None:
    """Every request gets one whole answer that Envoy can send, and none is an internal error."""
    choices = Choices(data)
    number = choices.number(2 * len(_PATHS))
    auth, path = ("off", "keys")[number // len(_PATHS)], _PATHS[number % len(_PATHS)]
    headers = [(b"te", b"trailers")]
    for _ in range(choices.number(4)):
        name, length = _NAMES[choices.number(len(_NAMES))], choices.number(64)
        headers.append((name, bytes(choices.number(256) for _ in range(length))))
    if path == _REST and choices.number(2):  # Envoy alone sets it
        length = choices.number(128)
        headers.append((b"x-envoy-original-path", b"/api/tasks/" + bytes(choices.number(256) for _ in range(length))))
    if path == _CREATE_TOKEN and auth == "keys" and choices.number(2):
        headers.append((b"x-envoy-original-path", b"/api/token"))
    framed = choices.number(2)
    body = choices.rest()
    scope = {
        "type": "http",
        "http_version": "2",
        "method": _method(path, choices),
        "path": path.decode("latin-1"),
        "raw_path": path,
        "headers": headers,
        "client": ("127.0.0.1", 1),
    }
    parts = _parts(frame(body) if framed else body, choices)
    sent = loop().run_until_complete(_answer(_application(auth), scope, parts))
    kinds = [event["type"].removeprefix("http.response.") for event in sent]
    assert kinds[0] == "start"
    assert kinds.count("start") == 1
    assert kinds.count("trailers") <= 1
    fields = [pair for event in sent if event["type"] != "http.response.body" for pair in event.get("headers", ())]
    for name, value in fields:
        assert isinstance(value, bytes)
        assert not set(value) & set(b"\r\n\0"), name
    assert sent[0]["status"] != 500
    assert b"log" not in dict(fields).get(b"grpc-message", b""), fields


_ASK = GetTaskRequest(task_id=DOCUMENTED_ID).SerializeToString()
_CREDENTIALS = CreateTokenRequest(key_id="a", key_secret="b", expiration=1).SerializeToString()  # noqa: S106 - of no key
_FRAMES = (frame(b""), frame(b"abc"), frame(b"a") + frame(b"b"), b"\0\xff\xff\xff\xff", b"\2\0\0\0\0", b"\0\0\1\0\0")
_WORDS = (*_FRAMES, b"\1\0\0\0", b"3S", b"99999999H", b"\0\0\0\0", gzip.compress(b"a"), zlib.compress(b"a"))

TARGETS = (
    Target("grpc_frame", split_any, [bytes([n, 0]) + body for n in range(5) for body in _FRAMES], _WORDS, 70_000),
    Target("grpc_request", read_request, [bytes([n]) + body for n in range(5) for body in _FRAMES], _WORDS),
    Target(
        "grpc_call",
        answer_request,
        [
            *(bytes([n, 0, 1]) + _ASK for n in range(2 * len(_PATHS))),
            *(bytes([n, 0, 0]) + frame(_ASK) for n in range(2 * len(_PATHS))),
            *(
                bytes([2, 0, 1, len(path)]) + path
                for path in (DOCUMENTED_ID.encode(), UNKNOWN_ID.encode() + b"%2", b"a%0a")
            ),
            # POST /api/token with a malformed deadline, which was an internal error.
            bytes([len(_PATHS) + _PATHS.index(_CREATE_TOKEN), 1, 1, 1]) + b"x\1\1" + _CREDENTIALS,
            bytes([0, 1, 1, 2]) + b"3S\1" + _ASK,
            *(bytes([len(_PATHS) + _PATHS.index(_CREATE_TOKEN), 0, rest, 1]) + _CREDENTIALS for rest in (0, 1)),
        ],
        (*_WORDS, b"\x0a\x24", DOCUMENTED_ID.encode(), b"gzip", b"/api/tasks/", b"%00", b"%ff", b"?"),
    ),
)

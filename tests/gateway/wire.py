"""HTTP/1.1 and HTTP/2 clients that send requests unchanged and hide nothing, unlike a client library."""

import contextlib
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

from taskgate.base.addresses import Address

Headers = Sequence[tuple[str, str]]
TIMEOUT = 30.0


class HungUp(Exception):
    """The connection closed, or the stream was reset, before an answer was complete."""


@dataclass
class Answer:
    """One HTTP answer; header names are lower-case, repeated headers are kept."""

    status: int
    headers: Headers
    body: bytes = b""
    trailers: Headers = ()

    def header(self, name: str) -> str | None:
        """The value of a header that occurs at most once."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} is there {len(values)} times"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Ask(Protocol):
    """Send one request on its own connection."""

    def __call__(
        self,
        path: str | bytes,
        *,
        method: str = "GET",
        headers: Headers = (),
        body: bytes | None = None,
        to: Any = None,
    ) -> Answer: ...


class Http1:
    """One HTTP/1.1 connection, over TCP or to the path of a Unix socket."""

    def __init__(self, address: Address | Path) -> None:
        if isinstance(address, Path):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(TIMEOUT)
            self._socket.connect(str(address))
        else:
            self._socket = socket.create_connection(address, TIMEOUT)
        self._unread = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(self, path: str | bytes, method: str = "GET", headers: Headers = (), body: bytes | None = None) -> Answer:
        """Send one request and read its answer; the connection stays open."""
        target = path if isinstance(path, bytes) else path.encode()
        lines = [f"{method} ".encode() + target + b" HTTP/1.1", b"host: gateway"]
        lines += [f"{name}: {value}".encode() for name, value in headers]
        if body is not None:
            lines.append(b"content-length: %d" % len(body))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all of the body was sent
            self.send(b"\r\n".join(lines) + b"\r\n\r\n" + (body or b""))
        return self.answer(head=method == "HEAD")

    def answer(self, *, head: bool = False) -> Answer:
        """Read one answer; ``head`` if it is one to HEAD, which has no body whatever its headers say."""
        while b"\r\n\r\n" not in self._unread:
            self._more()
        text, _, self._unread = self._unread.partition(b"\r\n\r\n")
        first, *lines = text.decode("latin-1").split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        answer = Answer(int(first.split(" ")[1]), headers)
        if answer.status == 100:  # "continue": the answer comes after it
            return self.answer(head=head)
        if head:
            return answer
        if answer.header("transfer-encoding") == "chunked":
            raise AssertionError("a chunked answer has no length; SDKs read all of these, but the gateway sends none")
        length = int(answer.header("content-length") or 0)
        while len(self._unread) < length:
            self._more()
        answer.body, self._unread = self._unread[:length], self._unread[length:]
        return answer

    def leftover(self, seconds: float = 0.3) -> bytes:
        """Unexpected bytes that arrive within ``seconds``."""
        self._socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError, HungUp):
            while True:
                self._more()
        self._socket.settimeout(TIMEOUT)
        return self._unread

    def read_slowly(self, size: int) -> bytes:
        """At most ``size`` bytes of what has arrived."""
        return self._socket.recv(size)

    def _more(self) -> None:
        try:
            data = self._socket.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            raise HungUp
        self._unread += data

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Http2:
    """One HTTP/2 connection with prior knowledge, one call at a time or several."""

    def __init__(self, address: Address) -> None:
        config = h2.config.H2Configuration(
            client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self._socket = socket.create_connection(address, TIMEOUT)
        self._connection = h2.connection.H2Connection(config)
        self._connection.local_settings[h2.settings.SettingCodes.INITIAL_WINDOW_SIZE] = 64 << 20
        self._connection.local_settings.acknowledge()
        self._connection.initiate_connection()
        self._connection.increment_flow_control_window(64 << 20)
        self.answers: dict[int, Answer] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaway = False

    def send(self, path: str, method: str = "GET", headers: Headers = (), body: bytes | None = None) -> int:
        """Send one request; return its stream."""
        stream = self._connection.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "gateway"), (":path", path)]
        self._connection.send_headers(stream, [*pseudo, *headers], end_stream=body is None)
        if body is not None:
            for start in range(0, max(len(body), 1), 16384):
                piece = body[start : start + 16384]
                while self._connection.local_flow_control_window(stream) < len(piece) and stream not in self.ended:
                    self._receive()
                if stream in self.ended or stream in self.resets:
                    break
                self._connection.send_data(stream, piece, end_stream=start + 16384 >= len(body))
                self._flush()
        self._flush()
        return stream

    def ask(self, path: str | bytes, method: str = "GET", headers: Headers = (), body: bytes | None = None) -> Answer:
        """Send one request and read its answer."""
        text = path if isinstance(path, str) else path.decode("latin-1")
        return self.answer(self.send(text, method, headers, body))

    def answer(self, stream: int) -> Answer:
        """Wait for the end of a stream."""
        while stream not in self.ended:
            if stream in self.resets:
                raise HungUp(f"stream reset with {h2.errors.ErrorCodes(self.resets[stream]).name}")
            self._receive()
        return self.answers[stream]

    def _receive(self) -> None:
        self._flush()
        data = self._socket.recv(1 << 20)
        if not data:
            raise HungUp
        for event in self._connection.receive_data(data):
            self._handle(event)
        self._flush()

    def _handle(self, event: Any) -> None:
        match event:
            case h2.events.ResponseReceived():
                headers = _text(event.headers)
                status = int(dict(headers)[":status"])
                self.answers[event.stream_id] = Answer(status, [pair for pair in headers if pair[0] != ":status"])
            case h2.events.DataReceived():
                self.answers[event.stream_id].body += event.data
            case h2.events.TrailersReceived():
                self.answers[event.stream_id].trailers = _text(event.headers)
            case h2.events.StreamEnded():
                self.ended.add(event.stream_id)
            case h2.events.StreamReset():
                self.resets[event.stream_id] = int(event.error_code)
            case h2.events.ConnectionTerminated():
                self.goaway = True

    def _flush(self) -> None:
        data = self._connection.data_to_send()
        if data:
            self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _text(headers: Any) -> Headers:
    return [(name.decode(), value.decode("latin-1")) for name, value in headers]


PROTOCOLS: dict[str, type[Http1] | type[Http2]] = {"http1": Http1, "http2": Http2}


def ask_over(protocol: str, default: Address) -> Ask:
    """An ``Ask`` over one of ``PROTOCOLS``, to ``default`` unless the call names another address."""

    def ask(
        path: str | bytes, *, method: str = "GET", headers: Headers = (), body: bytes | None = None, to: Any = None
    ) -> Answer:
        with PROTOCOLS[protocol](to or default) as connection:
            return connection.ask(path, method, headers, body)

    return ask


def assert_error(
    answer: Answer, status: int, message: str | None = None, *, retryable: bool = False, error: str | None = None
) -> None:
    """The one JSON shape of errors: exact keys in exact order, exact types, nothing of gRPC or Envoy beside it.

    ``error`` is the key of that name, which only refusals of tokens have.
    """
    assert answer.status == status, answer
    assert answer.header("content-type") == "application/json"
    extra = [] if error is None else [("error", error)]
    assert list(answer.json.items())[2:] == [("instance", "test-node"), ("retryable", retryable), *extra]
    assert list(answer.json)[:2] == ["status", "message"]
    assert answer.json["status"] == status
    assert isinstance(answer.json["message"], str)
    assert answer.json["message"]
    if message is not None:
        assert answer.json["message"] == message
    assert_nothing_leaks(answer)


def assert_nothing_leaks(answer: Answer) -> None:
    """No gRPC and no Envoy in headers or trailers, and no words of Envoy's internals in an error."""
    names = [name for name, _ in (*answer.headers, *answer.trailers)]
    assert [name for name in names if name.startswith(("grpc-", "x-envoy-")) or name == "server"] == []
    assert not answer.trailers
    for word in (b"upstream", b"reset", b"refused", b"envoy", b"connect error"):
        assert answer.status < 400 or word not in answer.body.lower()  # the content of a document is the server's

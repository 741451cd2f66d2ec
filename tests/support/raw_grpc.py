"""A gRPC client over single HTTP/2 frames, so that a test controls each step, polite or not."""

import contextlib
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from taskgate.v1.task_service_pb2 import GetTaskJsonRequest

Headers = Sequence[tuple[str, str]]

GET_TASK_JSON = "/taskgate.v1.TaskService/GetTaskJson"
TIMEOUT = 20.0
LARGE_WINDOW = 64 << 20


def framed(message: bytes, *, flag: int = 0) -> bytes:
    """``message`` behind gRPC's prefix."""
    return bytes([flag]) + len(message).to_bytes(4) + message


def request_for(task_id: str) -> bytes:
    """The framed message that asks for a task."""
    return framed(GetTaskJsonRequest(task_id=task_id).SerializeToString())


@dataclass
class RawAnswer:
    """All that one stream has received so far."""

    headers: list[tuple[str, str]] = field(default_factory=list)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: h2.errors.ErrorCodes | int | None = None

    def all(self, name: str) -> list[str]:
        """Each value of a header or trailer."""
        return [value for key, value in (*self.headers, *self.trailers) if key == name]

    def one(self, name: str) -> str | None:
        """The value of a header or trailer that occurs at most once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} is there {len(values)} times"
        return values[0] if values else None

    @property
    def grpc_status(self) -> int | None:
        """The number of the status; None if it is missing."""
        value = self.one("grpc-status")
        return None if value is None else int(value)

    @property
    def message(self) -> str:
        """``grpc-message``, decoded."""
        return unquote(self.one("grpc-message") or "")

    @property
    def messages(self) -> list[bytes]:
        """The messages of the body. Fails unless they are whole and uncompressed."""
        found, rest = [], bytes(self.body)
        while rest:
            assert rest[0] == 0, "compressed"
            end = 5 + int.from_bytes(rest[1:5])
            assert len(rest) >= end, "cut off"
            found.append(rest[5:end])
            rest = rest[end:]
        return found


class ConnectionLost(Exception):
    """The server closed the connection before the answer was complete."""


class RawGrpc:
    """One HTTP/2 connection with prior knowledge. Windows are large and refilled, unless ``window`` sets a size."""

    def __init__(
        self, address: str, *, window: int | None = None, receive_buffer: int | None = None, source: str = ""
    ) -> None:
        """``source`` is the caller's own address."""
        host, _, port = address.rpartition(":")
        self._refill = window is None
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT)
        self.socket.bind((source, 0))
        self.socket.connect((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2.update_settings(
            {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: LARGE_WINDOW if window is None else window}
        )
        self.h2.local_settings.acknowledge()
        self.h2.clear_outbound_data_buffer()
        self.h2.initiate_connection()
        if self._refill:
            self.h2.increment_flow_control_window(LARGE_WINDOW)
        self.flush()
        self.answers: dict[int, RawAnswer] = {}
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.lost = False

    def open(
        self,
        path: str = GET_TASK_JSON,
        *extra: tuple[str, str],
        without: Iterable[str] = (),
        content_type: str = "application/grpc",
        method: str = "POST",
        end: bool = False,
    ) -> int:
        """Send the headers of a call; return the number of its stream."""
        stream: int = self.h2.get_next_available_stream_id()
        headers = [
            (":method", method),
            (":scheme", "http"),
            (":path", path),
            (":authority", "interop"),
            ("content-type", content_type),
            ("te", "trailers"),
        ]
        left_out = set(without)
        self.h2.send_headers(stream, [pair for pair in headers if pair[0] not in left_out] + [*extra], end_stream=end)
        self.answers[stream] = RawAnswer()
        self.flush()
        return stream

    def data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send ``data`` in frames as large as the server's windows allow; stop early if the stream is over."""
        answer = self.answers[stream]
        if not data and end:
            self.end(stream)
        rest = memoryview(data)
        while rest:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(rest))
            if room == 0:
                self.receive()
                if answer.ended or answer.reset is not None:
                    return
                continue
            self.h2.send_data(stream, bytes(rest[:room]), end_stream=end and room == len(rest))
            rest = rest[room:]
            self.flush()

    def end(self, stream: int) -> None:
        """Half-close, unless the stream is already over."""
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self.h2.end_stream(stream)
        self.flush()

    def reset(self, stream: int, code: h2.errors.ErrorCodes = h2.errors.ErrorCodes.CANCEL) -> None:
        """Send RST_STREAM, unless the server already did."""
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self.h2.reset_stream(stream, code)
        self.flush()

    def call(self, message: bytes, path: str = GET_TASK_JSON, *extra: tuple[str, str], **options: Any) -> RawAnswer:
        """Make one unary call with bytes that are already framed."""
        stream = self.open(path, *extra, **options)
        self.data(stream, message, end=True)
        return self.answer(stream)

    def answer(self, stream: int, seconds: float = TIMEOUT) -> RawAnswer:
        """Wait until the server has ended or reset the stream."""
        answer = self.answers[stream]
        deadline = time.monotonic() + seconds
        while not answer.ended and answer.reset is None:
            left = deadline - time.monotonic()
            assert left > 0, f"no end of the answer within {seconds} s: {answer}"
            self.receive(left)
        return answer

    def receive(self, seconds: float = TIMEOUT) -> None:
        """Receive for up to ``seconds``, possibly nothing. Raises ConnectionLost if nothing can come."""
        if self.lost:
            raise ConnectionLost(f"{self.answers}, {self.goaway}")
        self.socket.settimeout(max(seconds, 0.001))
        try:
            data = self.socket.recv(1 << 20)
        except TimeoutError:
            return
        except ConnectionResetError:
            data = b""
        finally:
            self.socket.settimeout(TIMEOUT)
        if not data:
            self.lost = True
            return
        for event in self.h2.receive_data(data):
            self._handle(event)
        self.flush()

    def _handle(self, event: Any) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.answers[event.stream_id].headers += event.headers
            case h2.events.DataReceived():
                self.answers[event.stream_id].body += event.data
                if self._refill and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self.answers[event.stream_id].trailers += event.headers
            case h2.events.StreamEnded():
                self.answers[event.stream_id].ended = True
            case h2.events.StreamReset():
                self.answers[event.stream_id].reset = event.error_code
            case h2.events.ConnectionTerminated():
                self.goaway = event

    def flush(self) -> None:
        """Send what ``self.h2`` has queued."""
        data = self.h2.data_to_send()
        if data:
            try:
                self.socket.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                self.lost = True

    def ignore_goaway(self) -> None:
        """Continue after GOAWAY, like a client whose calls cross with it; h2 would treat the connection as closed."""
        machine, opened = self.h2.state_machine, h2.connection.ConnectionState.CLIENT_OPEN
        event = h2.connection.ConnectionInputs.RECV_GOAWAY
        machine._transitions = {**machine._transitions, (opened, event): (None, opened)}

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

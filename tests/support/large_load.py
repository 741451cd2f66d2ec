"""Readers of large answers, in their own process: ``python -m support.large_load KIND HOST:PORT …``.

They use raw sockets and one selector, so that hundreds of readers cost little next to the server. Standard output
gets a JSON line with ``ready`` once every reader has sent its request, and at the end one with each reader's result.
The process ends when its standard input does.
"""

import json
import selectors
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hpack import Decoder, Encoder

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_MOST = (1 << 31) - 1


def connect(address: str, *, receive_buffer: int | None = None) -> socket.socket:
    """Connect, with a small receive buffer for slow readers."""
    host, _, port = address.rpartition(":")
    made = socket.socket()
    if receive_buffer is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    made.connect((host, int(port)))
    return made


class Http1Reader:
    """One answer over HTTP/1.1."""

    def __init__(self, address: str, task_id: str, *, receive_buffer: int | None = None) -> None:
        self.socket = connect(address, receive_buffer=receive_buffer)
        self.socket.sendall(f"GET /api/tasks/{task_id} HTTP/1.1\r\nhost: large\r\n\r\n".encode())
        self.task_id = task_id
        self.outcome: tuple[str, str, int, int] | None = None
        """The task, the status, the number of bytes, and their Adler-32; None until the answer ends."""
        self._head = b""
        self._chunks: Chunks | None = None
        self._length = 0
        self.status = ""
        self.size, self.sum = 0, 1
        self.text = b""

    def read(self, buffer: memoryview) -> None:
        """Read the available bytes, up to the size of ``buffer``."""
        try:
            count = self.socket.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(repr(error))
            return
        if not count:
            self._end("cut off")
        elif self.status:
            self._body(buffer[:count])
        else:
            self._head += bytes(buffer[:count])
            head, found, rest = self._head.partition(b"\r\n\r\n")
            if found:
                self.status = head.split(b" ", 2)[1].decode()
                fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
                self._chunks = Chunks() if b"transfer-encoding" in fields else None
                self._length = int(fields.get(b"content-length", 0))
                self.retry_after = fields.get(b"retry-after")
                self._body(memoryview(rest))

    def _body(self, part: memoryview) -> None:
        pieces = [part] if self._chunks is None else self._chunks.feed(part)
        for piece in pieces:
            self.sum = zlib.adler32(piece, self.sum)
            self.size += len(piece)
            if self.status != "200":
                self.text += bytes(piece)
        if self.size >= self._length if self._chunks is None else self._chunks.ended:
            self._end(self.status)

    def _end(self, how: str) -> None:
        text = "" if how == "200" or not self.text else f" {self.text[:300].decode()}"
        self.outcome = (self.task_id, how + text, self.size, self.sum)
        self.socket.close()


class Chunks:
    """Decode the chunked transfer coding."""

    def __init__(self) -> None:
        self.ended = False
        self._left = 0
        self._line = b""

    def feed(self, part: memoryview) -> list[memoryview]:
        """The pieces of the body in ``part``."""
        pieces = []
        while len(part) and not self.ended:
            if self._left > 2:
                piece = part[: self._left - 2]
                pieces.append(piece)
                self._left -= len(piece)
                part = part[len(piece) :]
            elif self._left:
                count = min(self._left, len(part))
                self._left -= count
                part = part[count:]
            else:
                self._line += bytes(part[:1])
                part = part[1:]
                if self._line.endswith(b"\r\n"):
                    size = int(self._line, 16) if self._line.strip() else 0
                    self._left = size + 2 if size else 0
                    self.ended = size == 0
                    self._line = b""
        return pieces


class Http2Connection:
    """Many calls on one HTTP/2 connection; ``window`` limits the bytes of each until ``let_on`` allows more."""

    def __init__(self, address: str, *, window: int = _MOST) -> None:
        self.socket = connect(address)
        self._encoder, self._decoder = Encoder(), Decoder()
        settings = struct.pack(">HIHI", 4, window, 5, (1 << 24) - 1)
        self.socket.sendall(_PREFACE + _frame(_SETTINGS, 0, settings))
        self.socket.sendall(_frame(_WINDOW, 0, struct.pack(">I", _MOST - 65535)))
        self._unread = bytearray()
        self._next = 1
        self.calls: dict[int, tuple[str, dict[str, str], list[int]]] = {}
        self.outcomes: list[tuple[str, str, int, int]] = []

    def get(self, task_id: str) -> None:
        """Ask over REST."""
        self._ask(task_id, [(":method", "GET"), (":path", f"/api/tasks/{task_id}")], b"")

    def call(self, method: str, task_id: str) -> None:
        """Ask over gRPC."""
        message = b"\x0a" + bytes([len(task_id)]) + task_id.encode()
        headers = [(":method", "POST"), (":path", f"/taskgate.v1.TaskService/{method}")]
        headers += [("content-type", "application/grpc"), ("te", "trailers")]
        self._ask(task_id, headers, b"\0" + struct.pack(">I", len(message)) + message)

    def _ask(self, task_id: str, headers: list[tuple[str, str]], body: bytes) -> None:
        number, self._next = self._next, self._next + 2
        block = self._encoder.encode([(":scheme", "http"), (":authority", "large"), *headers])
        request = _frame(_HEADERS, number, block, flags=4 if body else 5)
        self.socket.sendall(request + (_frame(_DATA, number, body, flags=1) if body else b""))
        self.calls[number] = (task_id, {}, [0, 1])

    def let_on(self, count: int) -> None:
        """Let the server send ``count`` more bytes of each answer."""
        self.socket.sendall(b"".join(_frame(_WINDOW, number, struct.pack(">I", count)) for number in self.calls))

    def read(self, buffer: memoryview) -> None:
        """Read the available bytes, up to the size of ``buffer``."""
        try:
            count = self.socket.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._end_all(repr(error))
            return
        if not count:
            self._end_all("cut off")
            return
        self._unread += buffer[:count]
        start, consumed = 0, 0
        view = memoryview(self._unread)
        while len(view) - start >= 9:
            size = int.from_bytes(view[start : start + 3])
            if len(view) - start < 9 + size:
                break
            kind, flags = view[start + 3], view[start + 4]
            number = int.from_bytes(view[start + 5 : start + 9])
            consumed += size if kind == _DATA else 0
            self._take(kind, flags, number, view[start + 9 : start + 9 + size])
            start += 9 + size
        view.release()
        del self._unread[:start]
        if consumed:
            self._send(_frame(_WINDOW, 0, struct.pack(">I", consumed)))

    def _take(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        if kind == _SETTINGS and not flags & 1:
            self._send(_frame(_SETTINGS, 0, b"", flags=1))
        elif kind == _PING and not flags & 1:
            self._send(_frame(_PING, 0, bytes(payload), flags=1))
        elif kind == _HEADERS:
            fields = dict(self._decoder.decode(bytes(payload)))  # in order, for the table of the connection
            if number in self.calls:
                self.calls[number][1].update(fields)
        elif kind == _DATA and number in self.calls:
            taken = self.calls[number][2]
            taken[0] += len(payload)
            taken[1] = zlib.adler32(payload, taken[1])
            fields = self.calls[number][1]
            if fields.get(":status") != "200":
                fields["text"] = fields.get("text", "") + bytes(payload).decode(errors="replace")
        if kind == _RST and number in self.calls:
            self._end(number, "reset")
        elif kind in (_DATA, _HEADERS) and flags & 1 and number in self.calls:
            fields = self.calls[number][1]
            how = fields.get("grpc-status", fields[":status"])
            detail = fields.get("grpc-message", "") or fields.get("text", "")
            self._end(number, f"{how} {detail[:300]}".strip())

    def _send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError:
            return

    def _end(self, number: int, how: str) -> None:
        task_id, _, (size, crc) = self.calls.pop(number)
        self.outcomes.append((task_id, how, size, crc))

    def _end_all(self, how: str) -> None:
        for number in list(self.calls):
            self._end(number, how)
        self.socket.close()


def _frame(kind: int, number: int, payload: bytes, flags: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + number.to_bytes(4) + payload


def _watch(readers: Sequence[Any], ended: Callable[[Any], bool], until: float, pause: Callable[[], None]) -> None:
    """Read from all until each has ended, the time is over, or standard input has ended."""
    selector = selectors.DefaultSelector()
    for reader in readers:
        selector.register(reader.socket, selectors.EVENT_READ, reader)
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    buffer = memoryview(bytearray(1 << 18))
    left = len(readers)
    while left and time.monotonic() < until:
        for key, _ in selector.select(0.2):
            if key.data is None:
                return
            descriptor = key.fileobj
            key.data.read(buffer)
            if ended(key.data):
                selector.unregister(descriptor)
                left -= 1
        pause()
    selector.close()


def slow_http1(address: str, seconds: float, count: int, task_ids: list[str]) -> dict[str, Any]:
    """``count`` readers that take 4 KiB a second each, and reconnect when they are cut off."""
    outcomes: Counter[str] = Counter()
    readers = [Http1Reader(address, task_ids[n % len(task_ids)], receive_buffer=4096) for n in range(count)]
    _say({"ready": True})
    buffer = memoryview(bytearray(4096))
    until = time.monotonic() + seconds
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    while time.monotonic() < until and not selector.select(1):
        for number, reader in enumerate(readers):
            reader.socket.setblocking(False)
            reader.read(buffer)
            if reader.outcome is not None:
                outcomes[reader.outcome[1][:300]] += 1
                try:
                    readers[number] = Http1Reader(address, reader.task_id, receive_buffer=4096)
                except OSError as error:
                    outcomes[repr(error)] += 1
    return {"outcomes": outcomes, "held": len([reader for reader in readers if reader.status == "200"])}


def zero_window(  # noqa: PLR0917 - JSON names the arguments
    address: str, seconds: float, count: int, task_ids: list[str], method: str, trickle: float
) -> dict[str, Any]:
    """``count`` streams, 40 to a connection, that accept no bytes, or one byte every ``trickle`` seconds."""
    connections = []
    for start in range(0, count, 40):
        connection = Http2Connection(address, window=0)
        for number in range(start, min(start + 40, count)):
            task_id = task_ids[number % len(task_ids)]
            connection.get(task_id) if method == "REST" else connection.call(method, task_id)
        connections.append(connection)
    _say({"ready": True})
    due = time.monotonic() + trickle

    def pause() -> None:
        nonlocal due
        if trickle and time.monotonic() >= due:
            due += trickle
            for connection in connections:
                if connection.calls:
                    connection.let_on(1)

    _watch(connections, lambda connection: not connection.calls, time.monotonic() + seconds, pause)
    outcomes = Counter(outcome[1][:300] for connection in connections for outcome in connection.outcomes)
    return {"outcomes": outcomes, "held": sum(len(connection.calls) for connection in connections)}


def burst(address: str, seconds: float, count: int, task_ids: list[str], method: str) -> dict[str, Any]:
    """``count`` honest readers at once; ``taken`` has for each: the task, the status, bytes and Adler-32."""
    until = time.monotonic() + seconds
    began = time.monotonic()
    readers: list[Any]
    if method == "REST":
        readers = [Http1Reader(address, task_ids[n % len(task_ids)]) for n in range(count)]
        _say({"ready": True})
        _watch(readers, lambda reader: reader.outcome is not None, until, lambda: None)
        taken = [reader.outcome or (reader.task_id, "unfinished", reader.size, 0) for reader in readers]
    else:
        readers = []
        for start in range(0, count, 16):
            connection = Http2Connection(address)
            for number in range(start, min(start + 16, count)):
                connection.call(method, task_ids[number % len(task_ids)])
            readers.append(connection)
        _say({"ready": True})
        _watch(readers, lambda connection: not connection.calls, until, lambda: None)
        taken = [outcome for connection in readers for outcome in connection.outcomes]
        taken += [(call[0], "unfinished", *call[2]) for connection in readers for call in connection.calls.values()]
    return {"taken": taken, "seconds": round(time.monotonic() - began, 2)}


def probe(address: str, seconds: float, rate: int, task_ids: list[str]) -> dict[str, Any]:
    """``rate`` calls a second for a small task, and a tenth as many for /healthz, on a fixed schedule.

    Latency counts from the time that a call was due, so a stalled server does not get fewer calls.
    """
    outcomes: Counter[str] = Counter()
    waits: list[float] = []
    until = time.monotonic() + seconds
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    idle: list[socket.socket] = []
    asked: dict[socket.socket, tuple[float, str]] = {}
    _say({"ready": True})
    due, number, over = time.monotonic(), 0, False
    while (not over and time.monotonic() < until) or asked:
        now = time.monotonic()
        if now >= due and not over and now < until:
            what = "healthz" if number % 10 == 9 else "task"
            path = "/healthz" if what == "healthz" else f"/api/tasks/{task_ids[number % len(task_ids)]}"
            try:
                used = idle.pop() if idle else connect(address)
                used.sendall(f"GET {path} HTTP/1.1\r\nhost: probe\r\n\r\n".encode())
                selector.register(used, selectors.EVENT_READ)
                asked[used] = (due, what)
            except OSError as error:
                outcomes[f"{what} {error!r}"] += 1
            number += 1
            due += 1 / rate
            continue
        for key, _ in selector.select(max(0.0, min(due - now, 0.1))):
            if key.fileobj is sys.stdin:
                over = True
                selector.unregister(sys.stdin)
                continue
            used = key.fileobj
            asked_at, what = asked.pop(used)
            selector.unregister(used)
            try:
                answer = used.recv(1 << 16)
                while b"\r\n\r\n" in answer and len(answer) < _whole(answer):
                    answer += used.recv(1 << 16)
            except OSError as error:
                answer = repr(error).encode()
            waits.append(time.monotonic() - asked_at)
            good = answer.startswith(b"HTTP/1.1 200")
            outcomes[f"{what} ok" if good else f"{what} {answer[:200]!r}"] += 1
            if good:
                idle.append(used)
            else:
                used.close()
        for used in [used for used, (at, _) in asked.items() if time.monotonic() - at > 10]:
            outcomes[f"{asked.pop(used)[1]} no answer in 10 s"] += 1
            selector.unregister(used)
            used.close()
    waits.sort()
    shown = {f"p{p}": round(1000 * waits[min(len(waits) - 1, len(waits) * p // 100)], 1) for p in (50, 90, 99)}
    return {"outcomes": outcomes, "calls": len(waits), "max": round(1000 * waits[-1], 1), **shown}


def _whole(answer: bytes) -> int:
    """The size of an answer with a content-length."""
    head, _, _ = answer.partition(b"\r\n\r\n")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
    return len(head) + 4 + int(length.split(b":")[1])


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    kinds = {function.__name__: function for function in (slow_http1, zero_window, burst, probe)}
    _say(kinds[sys.argv[1]](**json.loads(sys.argv[2])))

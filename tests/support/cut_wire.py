"""Proxies to a database that break or stall a connection at the worst moment, or record what clients send."""

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

POSTGRESQL_COMMIT = b"COMMIT\0"
MYSQL_COMMIT = b"\3COMMIT"


@contextmanager
def cut_at_commit(server_port: int, commit: bytes, *, nth: int = 1, arrives: bool) -> Iterator[int]:
    """The port of a proxy that breaks the connection that commits the ``nth`` batch of tasks.

    ``commit`` is the commit in the wire protocol; ``arrives`` says whether the server still receives it. The answer is
    lost either way.
    """
    commits = itertools.count(1)
    answered = threading.Event()  # set: the next bytes of the server are the answer to lose

    def forward(source: socket.socket, target: socket.socket, *, from_client: bool) -> None:
        written = False
        with suppress(OSError):
            while data := source.recv(1 << 16):
                written = written or b"INSERT INTO" in data
                if from_client and written and commit in data and next(commits) == nth:
                    if arrives:
                        answered.set()
                        target.sendall(data)
                        continue
                    break
                if not from_client and answered.is_set():
                    answered.clear()
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with _proxy(server_port, forward) as port:
        yield port


@contextmanager
def silent_at(server_port: int, statement: bytes, *, after: bytes) -> Iterator[tuple[int, threading.Event]]:
    """The port of a proxy that forwards nothing more once a client sends ``statement`` after it sent ``after``.

    Also yields an event, which is set at that moment.
    """
    silent = threading.Event()
    over = threading.Event()

    def forward(source: socket.socket, target: socket.socket, *, from_client: bool) -> None:
        armed = False
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if from_client and armed and statement in data:
                    silent.set()
                    over.wait()
                    break
                armed = armed or after in data
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with _proxy(server_port, forward) as port:
        try:
            yield port, silent
        finally:
            over.set()


@contextmanager
def overheard(server_port: int) -> Iterator[tuple[int, bytearray]]:
    """The port of a proxy, and all bytes that clients send through it."""
    said = bytearray()

    def forward(source: socket.socket, target: socket.socket, *, from_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if from_client:
                    said.extend(data)
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with _proxy(server_port, forward) as port:
        yield port, said


class _Forward(Protocol):
    def __call__(self, source: socket.socket, target: socket.socket, *, from_client: bool) -> None:
        """Forward the bytes of one end until it closes."""


@contextmanager
def _proxy(server_port: int, forward: _Forward) -> Iterator[int]:
    """The port of a proxy that serves one connection at a time."""

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", server_port))
                threads = [
                    threading.Thread(target=forward, args=(client, server), kwargs={"from_client": True}),
                    threading.Thread(target=forward, args=(server, client), kwargs={"from_client": False}),
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                client.close()
                server.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=serve, args=(listener,))
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()

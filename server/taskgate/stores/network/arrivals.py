"""Notice large answers that keep arriving over a slow line, by the kernel's count of a connection's bytes.

Drivers tell only of whole answers. The kernel is asked now and then, so a read costs no more.
"""

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Final, Generic, TypeVar
from weakref import WeakKeyDictionary

C = TypeVar("C")

_PART: Final = 4096
"""Bytes that count as a part of a large answer; a server's error message is shorter."""

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)  # absent on macOS
_BYTES_RECEIVED: Final = slice(128, 136)
"""``tcpi_bytes_received`` in Linux's ``struct tcp_info``, from version 4.1."""


def received_bytes(transport: asyncio.BaseTransport | None) -> int:
    """Return how many bytes a TCP connection has received; 0 where the system has no count, as for Unix sockets."""
    connected = None if transport is None or transport.is_closing() else transport.get_extra_info("socket")
    if connected is None or _TCP_INFO is None:
        return 0
    try:
        info: bytes = connected.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_RECEIVED.stop)
    except OSError:
        return 0
    return int.from_bytes(info[_BYTES_RECEIVED], sys.byteorder)


class Arrivals(Generic[C]):
    """The connections of a pool, and how many bytes each had received when it was last asked."""

    def __init__(self, received: Callable[[C], int]) -> None:
        self._received = received
        self._counts: WeakKeyDictionary[C, int] = WeakKeyDictionary()

    def add(self, connection: C) -> None:
        """Count what ``connection`` receives from now on, as long as it exists."""
        self._counts[connection] = self._received(connection)

    def noticed(self) -> bool:
        """Whether a part of an answer has arrived on any connection since the last one that was noticed there."""
        noticed = False
        for connection, before in list(self._counts.items()):
            count = self._received(connection)
            if count - before >= _PART:
                self._counts[connection] = count
                noticed = True
        return noticed

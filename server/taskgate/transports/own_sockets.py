"""Look at the sockets that this process has open, gRPC's among them."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")


def descriptors() -> list[int]:
    """Return the numbers of all open files; none without /proc."""
    try:
        return [int(entry.name) for entry in _DESCRIPTORS.iterdir()]
    except OSError:
        return []


@contextmanager
def copy_of(descriptor: int) -> Iterator[socket.socket]:
    """Yield a copy of a socket, and close it. Raises OSError if ``descriptor`` is no socket, or was closed."""
    copy = os.dup(descriptor)
    try:
        found = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    with found:
        yield found

"""Wait until our own Envoy has left the Unix socket on which it reaches a server.

Envoy can have the whole of an answer, status included, and still hold a part back, because its caller reads slowly. If
the server's connection ends at that moment, Envoy breaks the answer off. A server cannot see this: for it the call is
over, and gRPC closes a connection without calls as soon as a server stops. So Envoy must close its connections first,
which it does when everything is passed on. Envoy sends no new calls on a connection older than ``CONNECTION_SECONDS``;
its next connections lead to the server's successor.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from taskgate.transports.own_sockets import copy_of, descriptors

CONNECTION_SECONDS = 3.0
"""How long Envoy gives calls to a connection (``max_connection_duration``): so long does a restart wait at least."""

_MARGIN = 1.0

_POLL_SECONDS = 0.02


async def until_envoy_has_left(path: str, end_streams: Callable[[], None], seconds: float) -> None:
    """Return when no connection to the Unix socket ``path`` is open, or after ``seconds``; at once without /proc.

    ``end_streams`` is called when every connection is old, so that callers who come back find the successor: it must
    end the streams that have no end of their own.
    """
    loop = asyncio.get_running_loop()
    began, ended = loop.time(), False
    while _is_used(path) and loop.time() - began < seconds:
        if not ended and loop.time() - began > CONNECTION_SECONDS + _MARGIN:
            end_streams()
            ended = True
        await asyncio.sleep(_POLL_SECONDS)


def _is_used(path: str) -> bool:
    """Return whether this process has accepted a connection to the Unix socket ``path`` and not closed it."""
    return any(_is_connection(descriptor, path) for descriptor in descriptors())


def _is_connection(descriptor: int, path: str) -> bool:
    with suppress(OSError), copy_of(descriptor) as connection:  # no socket, listens only, or was closed meanwhile
        connection.getpeername()
        return bool(connection.getsockname() == path)
    return False

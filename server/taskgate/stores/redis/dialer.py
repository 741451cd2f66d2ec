"""Open connections to Redis servers: TCP or TLS, password, database."""

import asyncio
import functools
import socket
import ssl
from typing import Final

from taskgate.stores.network.connecting import HappyEyeballsLoop
from taskgate.stores.network.url_parts import Endpoint
from taskgate.stores.redis.connection import Connection, pack
from taskgate.stores.redis.faults import Unreachable, checked, connect_reason, silence_reason
from taskgate.stores.redis.location import Credentials, Tls

_KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds and probes after which the system gives up an idle connection whose other end has vanished."""


class Dialer:
    """Opens connections with the credentials and timeouts of one store."""

    def __init__(
        self, credentials: Credentials, tls: Tls | None, *, connect_timeout: float, silence: float, database: int = 0
    ) -> None:
        """``connect_timeout`` is in seconds until a connection is ready; ``silence`` as in ``Connection``."""
        self._connect_timeout = connect_timeout
        self._silence = silence
        self._tls = tls
        self._greeting: list[tuple[str | bytes, ...]] = []
        if credentials.user:
            self._greeting.append(("AUTH", credentials.user, credentials.password))
        elif credentials.password:
            self._greeting.append(("AUTH", credentials.password))
        if database:
            self._greeting.append(("SELECT", str(database)))

    async def connect(self, endpoint: Endpoint, *, must_be_primary: bool = False) -> Connection:
        """Return a connection that is ready for use. Raises Unreachable."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._open(endpoint)
                await self._greet(connection)
                if must_be_primary:
                    await _see_that_it_is_primary(connection)
        except BaseException as error:
            if connection is not None:
                await connection.close()
            if isinstance(error, TimeoutError):
                raise Unreachable(silence_reason(self._connect_timeout)) from error
            if isinstance(error, OSError):
                raise Unreachable(connect_reason(error)) from error
            raise
        return connection

    async def _open(self, endpoint: Endpoint) -> Connection:
        context = None if self._tls is None else _context(self._tls)
        transport, connection = await HappyEyeballsLoop().create_connection(
            lambda: Connection(self._silence), endpoint.host, endpoint.port, ssl=context
        )
        plain: socket.socket = transport.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):  # macOS has other names for some
                plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return connection

    async def _greet(self, connection: Connection) -> None:
        for reply in await asyncio.gather(*(connection.send(pack(*each)) for each in self._greeting)):
            checked(reply)


async def _see_that_it_is_primary(connection: Connection) -> None:
    """Ask by HELLO, which every user may send, and not by ROLE."""
    reply = checked(await connection.send(pack("HELLO", "2")))
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    if fields.get(b"role") != b"master":
        raise Unreachable("the server that Sentinel names is not a primary; a failover may be under way")


@functools.cache
def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file or None)
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file or None)
    except (ssl.SSLError, OSError) as error:
        raise Unreachable("the certificate files of its URL cannot be used") from error
    return context

"""Connect to a host name that has several addresses, some of which may not answer.

An event loop's own ``create_connection`` tries the addresses one after the other and waits for each: an address that
drops packets takes all the time of the call. Here the next attempt starts while the first is still waiting, and the
first established connection wins (RFC 8305, "Happy Eyeballs"). uvloop has no such option.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, Final, TypeVar

from aiohappyeyeballs import AddrInfoType, start_connection

P = TypeVar("P", bound=asyncio.BaseProtocol)

NEXT_AFTER: Final = 0.2
"""Seconds to wait for an address before the next one is tried as well. A refusal starts the next attempt at once."""


class HappyEyeballsLoop:
    """The running event loop, with a ``create_connection`` that uses ``connect``; for drivers that take a loop."""

    def __init__(self) -> None:
        self.real: Any = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def create_connection(
        self, factory: Callable[[], P], host: str | None = None, port: int | None = None, **options: Any
    ) -> tuple[asyncio.Transport, P]:
        """See ``asyncio.loop.create_connection``."""
        if host is None or port is None or _is_address(host):
            made: tuple[asyncio.Transport, P] = await self.real.create_connection(factory, host, port, **options)
            return made
        if options.get("ssl"):
            options.setdefault("server_hostname", host)
        connected = await connect(host, port)
        try:
            made = await self.real.create_connection(factory, sock=connected, **options)
        except BaseException:
            connected.close()
            raise
        return made


async def connect(host: str, port: int) -> socket.socket:
    """Connect to the address of ``host`` that answers first. Raises OSError if none does."""
    addresses = await addresses_of(host, port)
    if not addresses:
        raise OSError("the name has no address")
    return await start_connection(addresses, happy_eyeballs_delay=NEXT_AFTER)


async def addresses_of(host: str, port: int) -> list[AddrInfoType]:
    """Return the addresses of ``host`` in the order in which the system would try them (RFC 6724)."""
    return list(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

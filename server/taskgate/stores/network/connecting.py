"""Connecting to a name that has several addresses, of which some may not answer.

An event loop's own way tries one address after the other and gives none of them up: one that drops packets takes all
the time there is, and the others are never tried. Here each begins a moment after the one before it, and the first
that takes the connection is taken (RFC 8305, "Happy Eyeballs"; uvloop has no such option).
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, Final, TypeVar

P = TypeVar("P", bound=asyncio.BaseProtocol)

NEXT_AFTER: Final = 0.2
"""Seconds after which the next address is tried as well; one that refuses makes way for it at once."""

Address = tuple[int, int, int, str, Any]
"""As ``getaddrinfo`` gives it."""


class DiallingLoop:
    """The running event loop, for a driver that knows no better: its connections are made as this module has it."""

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
        connected = await dial(host, port)
        try:
            made = await self.real.create_connection(factory, sock=connected, **options)
        except BaseException:
            connected.close()
            raise
        return made


async def dial(host: str, port: int) -> socket.socket:
    """A connection to whichever address of ``host`` is the first to take one. Raises OSError, the last one's."""
    loop = asyncio.get_running_loop()
    left = await addresses_of(host, port)
    attempts: list[asyncio.Task[socket.socket]] = []
    taken: socket.socket | None = None
    problem: BaseException | None = None
    try:
        while taken is None and (left or not all(attempt.done() for attempt in attempts)):
            if left:
                attempts.append(loop.create_task(_connect(left.pop(0))))
            under_way = [attempt for attempt in attempts if not attempt.done()]
            wait = NEXT_AFTER if left else None
            done, _ = await asyncio.wait(under_way, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                problem = attempt.exception()
                if problem is None:
                    taken = attempt.result()
    finally:
        for attempt in attempts:
            attempt.add_done_callback(lambda attempt: _close_unless(taken, attempt))
            attempt.cancel()
    if taken is None:
        raise problem or OSError("a name without an address")
    return taken


async def addresses_of(host: str, port: int) -> list[Address]:
    """In the order in which the system would try them (RFC 6724)."""
    return list(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))


async def _connect(address: Address) -> socket.socket:
    family, kind, protocol, _, place = address
    connecting = socket.socket(family, kind, protocol)
    try:
        connecting.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connecting, place)
    except BaseException:
        connecting.close()
        raise
    return connecting


def _close_unless(taken: socket.socket | None, attempt: "asyncio.Task[socket.socket]") -> None:
    if not attempt.cancelled() and attempt.exception() is None and attempt.result() is not taken:
        attempt.result().close()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

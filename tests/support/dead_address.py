"""A name with two addresses, of which the first does not answer."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from aiohappyeyeballs import AddrInfoType

from taskgate.stores.network import connecting

NAME = "two.example"
"""The name, which no resolver knows."""


@contextmanager
def dead_address(port: int) -> Iterator[str]:
    """An address that drops what is sent to this port, as if the host were gone: the queue of its listener is full."""
    address = "127.0.0.2"
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((address, port))
        yield address


def resolve(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Make the name resolve to these addresses, in this order."""

    async def addresses_of(host: str, port: int) -> list[AddrInfoType]:
        assert host == NAME
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)) for address in addresses]

    monkeypatch.setattr(connecting, "addresses_of", addresses_of)

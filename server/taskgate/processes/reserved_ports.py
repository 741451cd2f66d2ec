"""Reserve the ports of supervised processes, so that no other program can take one during a replacement.

A reservation binds the address and does not listen on it.
"""

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from taskgate.base.addresses import Address, check_port_free
from taskgate.base.errors import SettingsError


class Reservation:
    """One address, reserved until ``close``. Processes of this user that set SO_REUSEPORT can listen on it."""

    def __init__(self, address: Address, *, key: str) -> None:
        """Bind ``address``; raises SettingsError, naming setting ``key``, if it is taken."""
        check_port_free(address, key=key)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            self._socket.bind(address)
        except OSError as error:
            self._socket.close()
            raise SettingsError(f"{key}: cannot listen on {address}: {error.strerror}") from error
        self.address = Address(address.host, self._socket.getsockname()[1])
        """The bound address; its port is never 0."""

    def close(self) -> None:
        """Release the address."""
        self._socket.close()

    def __enter__(self) -> Self:
        """Return this reservation."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def reserve_all(addresses: Sequence[Address], *, key: str) -> list[Reservation]:
    """Reserve all of ``addresses``, or none of them if one is taken."""
    with ExitStack() as opened:
        reservations = [opened.enter_context(Reservation(address, key=key)) for address in addresses]
        opened.pop_all()
    return reservations

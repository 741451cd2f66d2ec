"""Where to listen: parsing ``HOST:PORT`` and finding out whether it is free."""

import socket
from typing import NamedTuple, Self

from taskgate.base.errors import SettingsError

MAX_PORT = 65535


class Address(NamedTuple):
    """A host and a TCP port; where taskgate listens, port 0 asks the system for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``HOST:PORT`` or ``[IPV6]:PORT``; raises ValueError for anything else."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not host or not port.isascii() or not port.isdigit() or (":" in host and not bracketed):
            raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
        if int(port) > MAX_PORT:
            raise ValueError(f"{text!r} has a port above {MAX_PORT}")
        if not may_be_host(host):
            raise ValueError(f"{text!r} begins with what is not the name of a host")
        return cls(host.strip("[]"), int(port))


def may_be_host(name: str) -> bool:
    """Whether ``name`` can be looked up; one with an empty label, or one of over 63 bytes, makes no query at all."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return "\0" not in name


def check_port_free(address: Address, *, key: str) -> None:
    """Raise SettingsError, naming setting ``key``, if ``address`` cannot be listened on.

    gRPC and Envoy both listen with SO_REUSEPORT, which would let a second server take half of the first one's
    connections without a word.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections of an earlier server in TIME_WAIT do not make the port taken; a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            reason = error.strerror or "unknown reason"
            raise SettingsError(f"{key}: cannot listen on {address}: {reason}") from error

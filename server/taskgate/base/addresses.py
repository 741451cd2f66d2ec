"""Parse listen addresses, check that a port is free, and tell which callers' addresses count as one caller."""

import ipaddress
import socket
from typing import NamedTuple, Self

from taskgate.base.errors import SettingsError

MAX_PORT = 65535

_IPV6_NETWORK = 64
"""One caller has at least so many bits of an IPv6 address to choose from."""


class Address(NamedTuple):
    """A host and a TCP port; where taskgate listens, port 0 asks the system for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``HOST:PORT`` or ``[IPV6]:PORT``; raise ValueError for anything else."""
        host, _, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        name = host[1:-1] if bracketed else host
        if not name or set("[]") & set(name) or not port.isascii() or not port.isdigit() or bracketed < (":" in name):
            raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
        if int(port) > MAX_PORT:
            raise ValueError(f"{text!r} has a port above {MAX_PORT}")
        if not may_be_host(name):
            raise ValueError(f"{text!r} does not begin with a valid host name")
        return cls(name, int(port))


def may_be_host(name: str) -> bool:
    """Whether DNS can look up ``name``: it has no NUL, no empty label, and no label over 63 bytes."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return "\0" not in name


def network_of(address: str) -> str:
    """Return what counts as one caller: an IPv4 address, or the network of 64 bits of an IPv6 address (one site's).

    An IPv4 address in IPv6 is the IPv4 address. Text that is no IP address is returned as it is.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), _IPV6_NETWORK), strict=False))


def check_port_free(address: Address, *, key: str) -> None:
    """Raise SettingsError, naming setting ``key``, if this process cannot listen on ``address``.

    gRPC and Envoy listen with SO_REUSEPORT: without this check, a second server would silently take half of the
    connections of the first.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # SO_REUSEADDR ignores an earlier server's connections in TIME_WAIT; only a listener makes the port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            reason = error.strerror or "unknown reason"
            raise SettingsError(f"{key}: cannot listen on {address}: {reason}") from error

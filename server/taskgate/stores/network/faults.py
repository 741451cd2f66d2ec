"""Describe network faults on the way to a database in public words; the system's words stay in the exception chain."""

import socket
import ssl
from typing import Final

LOST: Final = "the connection was lost"

_REASONS: Final[dict[type[OSError], str]] = {
    ssl.SSLCertVerificationError: "its TLS certificate is not trusted",
    ssl.SSLError: "the TLS handshake with it failed",
    socket.gaierror: "its host is not known",
    ConnectionRefusedError: "nothing listens there",
    FileNotFoundError: "nothing listens there",
    TimeoutError: "it does not answer",
}
"""The first match counts."""


def network_reason(error: OSError) -> str:
    """Return why the store is unavailable, as a clause about it."""
    return next((reason for kind, reason in _REASONS.items() if isinstance(error, kind)), LOST)

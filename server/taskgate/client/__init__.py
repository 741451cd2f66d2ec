"""Ask a taskgate server for tasks from Python, in threads (``Client``) or in asyncio (``AsyncClient``).

It imports grpcio and the generated stubs, and nothing of the server. docs/client.md shows how it is used.
"""

from taskgate.client.aio import AsyncClient
from taskgate.client.channels import Tls
from taskgate.client.errors import (
    CallError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from taskgate.client.threads import Client
from taskgate.client.tokens import Key

__all__ = [
    "AsyncClient",
    "CallError",
    "Client",
    "DeadlineExceeded",
    "InvalidArgument",
    "Key",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "Tls",
    "Unauthenticated",
    "Unavailable",
]

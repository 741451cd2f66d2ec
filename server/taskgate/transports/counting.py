"""Count the calls that no handler of the task service counts, such as health checks and malformed requests."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from taskgate.access.gate import CREATE_TOKEN
from taskgate.service.calls import CallCounter
from taskgate.service.endpoints import TYPES
from taskgate.transports import health, reflection
from taskgate.transports.asgi import CallerGone
from taskgate.transports.grpc_wire import ProtocolError

METHODS = {
    **TYPES,
    CREATE_TOKEN: "unary",
    f"/{health.SERVICE_NAME}/Check": "unary",
    f"/{health.SERVICE_NAME}/Watch": "server_stream",
    **dict.fromkeys(reflection.PATHS, "bidi_stream"),
}
"""All methods of a server, and their types in the words of gRPC's metrics."""


class Outcome:
    """How a call ends that raises no error."""

    code = "OK"


@contextmanager
def counted(counter: CallCounter | None, path: str) -> Iterator[Outcome]:
    """Count one call of the method ``path``. Its status is that of the body's error, or ``Outcome.code``."""
    outcome = Outcome()
    if counter is None:
        yield outcome
        return
    began = counter.begin(path)
    code = "INTERNAL"  # for any other error
    try:
        yield outcome
        code = outcome.code
    except ProtocolError as refused:
        code = refused.code
        raise
    except (asyncio.CancelledError, CallerGone, OSError):  # OSError of "send": the caller has left
        code = "CANCELLED"
        raise
    finally:
        counter.end(path, code, began)

"""Answer server reflection for both transports with grpcio-reflection, imported at first use.

Only developers' tools call it, and until then a server inside Envoy does without grpcio. The versions v1 and v1alpha
differ in their names alone, so one handler answers both.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Literal

from taskgate.access.gate import CREATE_TOKEN, TOKEN_SERVICE, Gate
from taskgate.service.endpoints import CONDUCTOR_SERVICE, SERVICE
from taskgate.transports import health
from taskgate.transports.grpc_wire import ProtocolError

_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

PATHS = tuple(f"/{name}/ServerReflectionInfo" for name in _SERVICES)
"""The gRPC paths of both versions; the newer one is first."""


def paths(setting: Literal["on", "off"]) -> tuple[str, ...]:
    """Return the paths that are served."""
    return PATHS if setting == "on" else ()


def services(setting: Literal["on", "off"], gate: Gate | None) -> tuple[str, ...]:
    """Return the names of all services of a server, which health checks and reflection take alike."""
    tokens = (TOKEN_SERVICE,) if gate is not None and CREATE_TOKEN in gate.endpoints else ()
    reflected = _SERVICES if setting == "on" else ()
    return (SERVICE, CONDUCTOR_SERVICE, *tokens, health.SERVICE_NAME, *reflected)


class Reflection:
    """Describe ``names`` to tools such as grpcurl."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = names

    async def info(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Answer ``ServerReflectionInfo`` of either version: one response for each request."""
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - see above
        from grpc_reflection.v1alpha.reflection import aio  # noqa: PLC0415 - see above
        from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest  # noqa: PLC0415 - see above

        from taskgate.transports.descriptors import descriptors  # noqa: PLC0415 - see above

        async def decoded() -> AsyncIterator[ServerReflectionRequest]:
            async for request in requests:
                try:
                    yield ServerReflectionRequest.FromString(request)
                except DecodeError as error:
                    raise ProtocolError(
                        "INTERNAL", "The request is not a valid ServerReflectionRequest message"
                    ) from error

        servicer = aio.ReflectionServicer(self._names, descriptors())
        async for response in servicer.ServerReflectionInfo(decoded(), None):
            yield response.SerializeToString()

"""Answer server reflection for both transports with grpcio-reflection, imported at first use.

Only developers' tools call it, and until then a server inside Envoy does without grpcio.
"""

from collections.abc import AsyncIterator, Sequence

from taskgate.transports.grpc_wire import ProtocolError

SERVICE_NAME = "grpc.reflection.v1alpha.ServerReflection"


class Reflection:
    """Describe ``services`` to tools such as grpcurl."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = services

    async def info(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Answer ``ServerReflectionInfo``: one response for each request."""
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - see above
        from grpc_reflection.v1alpha.reflection import aio  # noqa: PLC0415 - see above
        from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest  # noqa: PLC0415 - see above

        async def decoded() -> AsyncIterator[ServerReflectionRequest]:
            async for request in requests:
                try:
                    yield ServerReflectionRequest.FromString(request)
                except DecodeError as error:
                    raise ProtocolError(
                        "INTERNAL", "The request is not a valid ServerReflectionRequest message"
                    ) from error

        servicer = aio.ReflectionServicer(self._services)
        async for response in servicer.ServerReflectionInfo(decoded(), None):
            yield response.SerializeToString()

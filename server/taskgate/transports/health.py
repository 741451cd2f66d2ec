"""grpc.health.v1 for both transports, without grpcio; same answers as grpcio-health-checking's.

Importing grpcio costs a process in Envoy 25 MB and a tenth of a second for two small methods.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from taskgate.transports.grpc_wire import Refused

SERVICE_NAME = "grpc.health.v1.Health"


class Health:
    """The state of ``services``, all the same, and those who watch it."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services)
        self._serving = False
        self._final = False
        self._changed = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether calls are answered now."""
        return self._serving

    async def report(self, answers: bool) -> None:
        """Set the state; ignored once ``end`` was called."""
        if not self._final:
            self._set(answers)

    def end(self) -> None:
        """NOT_SERVING, for good."""
        self._final = True
        self._set(False)

    async def check(self, request: bytes) -> bytes:
        """``Check``; Refused with NOT_FOUND for a service that is not there."""
        name = _request(request).service
        if name not in self._services:
            raise Refused("NOT_FOUND", "")
        response: bytes = self._response(name).SerializeToString()
        return response

    async def watch(self, request: bytes) -> AsyncIterator[bytes]:
        """``Watch``: the state now and whenever it changes; SERVICE_UNKNOWN for a service that is not there."""
        name = _request(request).service
        last = None
        while True:
            changed, final = self._changed, self._final
            response = self._response(name)
            if response.status != last:
                last = response.status
                yield response.SerializeToString()
            if final:
                return  # so that the caller turns elsewhere, and draining has not to wait for it
            await changed.wait()

    def _set(self, serving: bool) -> None:
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    def _response(self, name: str) -> HealthCheckResponse:
        if name not in self._services:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        serving = HealthCheckResponse.SERVING if self._serving else HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=serving)


def _request(message: bytes) -> HealthCheckRequest:
    try:
        return HealthCheckRequest.FromString(message)
    except DecodeError as error:
        raise Refused("INTERNAL", "The request is not a valid grpc.health.v1.HealthCheckRequest message") from error

"""Implement grpc.health.v1 for both transports, with the same answers as grpcio-health-checking.

It does without grpcio: importing that would cost a process inside Envoy 25 MB and a tenth of a second.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from taskgate.transports.grpc_wire import ProtocolError

SERVICE_NAME = "grpc.health.v1.Health"


class Health:
    """The health of ``services`` and of the whole server, which share one state: whether to send calls here.

    Every service that is served has it, as in gRPC's own examples: balancers may ask by any name that reflection lists.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._store_answers = False
        self._keys_known = False
        self._final = False
        self._changed = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether the state is SERVING."""
        return self._store_answers and self._keys_known

    @property
    def store_answers(self) -> bool:
        """Whether the store answered its last probe; False after ``shut_down``."""
        return self._store_answers

    async def report(self, *, store_answers: bool, keys_known: bool) -> None:
        """Set the state: SERVING if both are true. No effect after ``shut_down``."""
        if not self._final:
            self._set(store_answers, keys_known)

    def shut_down(self) -> None:
        """Set NOT_SERVING for good, and end the watches."""
        self._final = True
        self._set(False, False)

    async def check(self, request: bytes) -> bytes:
        """Answer ``Check``. Raises ProtocolError with NOT_FOUND for an unknown service."""
        name = _request(request).service
        if name not in self._services:
            raise ProtocolError("NOT_FOUND", "")
        response: bytes = self._response(name).SerializeToString()
        return response

    async def watch(self, request: bytes) -> AsyncIterator[bytes]:
        """Answer ``Watch``: the state now and at each change; SERVICE_UNKNOWN for an unknown service."""
        name = _request(request).service
        last = None
        while True:
            changed, final = self._changed, self._final
            response = self._response(name)
            if response.status != last:
                last = response.status
                yield response.SerializeToString()
            if final:
                return  # the caller turns to another server, and the drain need not wait for it
            await changed.wait()

    def _set(self, store_answers: bool, keys_known: bool) -> None:
        self._store_answers, self._keys_known = store_answers, keys_known
        self._changed.set()
        self._changed = asyncio.Event()

    def _response(self, name: str) -> HealthCheckResponse:
        if name not in self._services:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        serving = HealthCheckResponse.SERVING if self.serving else HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=serving)


def _request(message: bytes) -> HealthCheckRequest:
    try:
        return HealthCheckRequest.FromString(message)
    except DecodeError as error:
        raise ProtocolError(
            "INTERNAL", "The request is not a valid grpc.health.v1.HealthCheckRequest message"
        ) from error

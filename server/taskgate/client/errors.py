"""What a call raises when it has no answer.

Decide by the class, or more finely by ``reason``; messages are for people and may change.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DOMAIN = "taskgate"
_DETAILS = "grpc-status-details-bin"
_REQUEST_ID = "x-request-id"


class CallError(Exception):
    """A call failed. Codes without a class of their own, such as DATA_LOSS and INTERNAL, raise this one.

    Attributes:
        code: the gRPC status code.
        message: one sentence, of the server or of gRPC.
        reason: a name of ``taskgate.v1.ErrorReason``, such as ``ERROR_REASON_TASK_NOT_FOUND``; empty if the server did
            not answer.
        metadata: what ``ErrorReason`` says of this reason, such as ``task_id``.
        retry_after: the seconds for which the server asks to wait before the same call, or None.
        request_id: the name of the call in the server's log; empty if the server did not answer.
    """

    def __init__(  # noqa: PLR0917 - pickle gives them by position
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(code, message, reason, metadata, retry_after, request_id)
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed after a pause."""
        return isinstance(self, Unavailable | DeadlineExceeded) or self.retry_after is not None


class InvalidArgument(CallError):
    """The task ID is not well formed."""


class Unauthenticated(CallError):
    """The server asks for a token, and there is none, or it is not valid; or key ID and secret are not."""


class PermissionDenied(CallError):
    """The caller may not read this task."""


class NotFound(CallError):
    """No stored task has this ID."""


class ResourceExhausted(CallError):
    """The server has no room for the call, or limits this caller; ``retry_after`` says how long to wait.

    It is None where the answer is larger than this client accepts.
    """


class DeadlineExceeded(CallError):
    """The time of the call is over."""


class Unavailable(CallError):
    """The server is not reachable, or its store is not."""


_CLASSES: dict[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}


def error_of(error: grpc.RpcError) -> CallError:
    """Return the error that callers see for one of gRPC's, of either API."""
    call: Any = error  # what grpc raises is also the call; its types do not say so
    trailers = dict(call.trailing_metadata() or ())
    info, retry_after = _details(trailers.get(_DETAILS))
    request_id = trailers.get(_REQUEST_ID) or dict(call.initial_metadata() or ()).get(_REQUEST_ID, "")
    kind = _CLASSES.get(call.code(), CallError)
    return kind(call.code(), call.details() or "", info.reason, dict(info.metadata), retry_after, str(request_id))


def _details(serialized: bytes | None) -> tuple[error_details_pb2.ErrorInfo, float | None]:
    """Return what is in ``grpc-status-details-bin``: the ErrorInfo, empty without one of taskgate, and RetryInfo."""
    found, retry_after = error_details_pb2.ErrorInfo(), None
    status = status_pb2.Status()
    with suppress(DecodeError):  # a proxy's own; the code and the message are still there
        status.ParseFromString(serialized or b"")
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == _DOMAIN:
            found = info
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return found, retry_after

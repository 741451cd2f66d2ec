"""Encode an error as ``google.rpc.Status``, from which gRPC clients read its reason and metadata."""

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from taskgate.base.errors import ERROR_DOMAIN, TaskgateError


def status_details(error: TaskgateError) -> bytes:
    """Return the serialised ``google.rpc.Status`` for the header ``grpc-status-details-bin``.

    It holds an ``ErrorInfo``, and a ``RetryInfo`` if the error says when to try again.
    """
    info = error_details_pb2.ErrorInfo(reason=error.status.reason, domain=ERROR_DOMAIN, metadata=error.metadata)
    details = [_packed(info)]
    if (seconds := error.retry_after) is not None:
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds))))
    code = code_pb2.Code.Value(error.status.grpc_code)
    status = status_pb2.Status(code=code, message=error.message, details=details)
    serialized: bytes = status.SerializeToString()
    return serialized


def _packed(message: Message) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail

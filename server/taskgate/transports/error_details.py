"""The ``google.rpc.Status`` of an error: what gRPC clients read reason and metadata from."""

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from taskgate.base.errors import ERROR_DOMAIN, TaskgateError


def status_details(error: TaskgateError) -> bytes:
    """The serialised ``google.rpc.Status`` for the header ``grpc-status-details-bin``.

    It holds one ``ErrorInfo``, and a ``RetryInfo`` where the error says when to try again.
    """
    info = error_details_pb2.ErrorInfo(reason=error.status.reason, domain=ERROR_DOMAIN, metadata=error.metadata)
    details = [_packed(info)]
    if (seconds := error.status.retry_after) is not None:
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds))))
    code = code_pb2.Code.Value(error.status.grpc_code)
    status = status_pb2.Status(code=code, message=error.message, details=details)
    serialized: bytes = status.SerializeToString()
    return serialized


def _packed(message: Message) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail

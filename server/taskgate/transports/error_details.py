"""The ``google.rpc.Status`` of an error: what gRPC clients read reason and metadata from."""

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from taskgate.errors import ERROR_DOMAIN, TaskgateError


def status_details(error: TaskgateError) -> bytes:
    """The serialised ``google.rpc.Status`` for the header ``grpc-status-details-bin``, with one ``ErrorInfo`` in it."""
    info = error_details_pb2.ErrorInfo(reason=error.status.reason, domain=ERROR_DOMAIN, metadata=error.metadata)
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.status.grpc_code), message=error.message, details=[detail]
    )
    serialized: bytes = status.SerializeToString()
    return serialized

"""Implement the RPCs for all transports: decode the request, call the service, encode the response."""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import BytesValue

from taskgate.base.errors import DocumentTooLarge, InvalidRequest, shortened
from taskgate.base.task_id import not_utf8
from taskgate.documents.document import MAX_MESSAGE_BYTES
from taskgate.service.calls import Answer, Call, Handler, LargeAnswer
from taskgate.service.tasks import TaskService
from taskgate.v1.task_service_pb2 import DESCRIPTOR, GetTaskJsonRequest, GetTaskRequest

SERVICE = DESCRIPTOR.services_by_name["TaskService"].full_name
CONDUCTOR_SERVICE = "conductor.grpc.tasks.TaskService"
"""Conductor's own service name, so that stubs made from its protos reach the same GetTask."""

_LENGTH_DELIMITED = 2
_VARINT_PAYLOAD_BITS = 7
_HTTP_BODY_TYPE = b"\x0a\x10application/json"  # google.api.HttpBody.content_type = 1


GET_TASK_JSON = f"/{SERVICE}/GetTaskJson"

STREAM_TASK_JSON = f"/{SERVICE}/StreamTaskJson"
"""The RPC behind ``GET /api/tasks/{taskId}``. Transports send a large answer as several ``body_part``."""


TYPES = {
    f"/{SERVICE}/GetTask": "unary",
    GET_TASK_JSON: "unary",
    STREAM_TASK_JSON: "server_stream",
    f"/{CONDUCTOR_SERVICE}/GetTask": "unary",
}
"""The methods and their types, in the words of gRPC's metrics."""


def build_endpoints(service: TaskService) -> Mapping[str, Handler]:
    """Return the endpoints by gRPC path."""

    async def get_task(call: Call, request: bytes) -> Answer:
        call.task_id = _task_id_in(GetTaskRequest, request)
        task = await service.get_task(call.task_id, call)
        header = _field_header(1, task)  # GetTaskResponse.task = 1
        _check_size(len(header) + len(task), call.task_id)
        return LargeAnswer(header, task) if call.room else header + task

    async def get_task_json(call: Call, request: bytes) -> Answer:
        call.task_id = _task_id_in(GetTaskJsonRequest, request)
        document = await service.get_task_json(call.task_id, call)
        # HttpBody is encoded by hand: a message object would copy a document of megabytes twice more.
        header = _HTTP_BODY_TYPE + _field_header(2, document)  # HttpBody.data = 2
        return LargeAnswer(header, document) if call.room else header + document

    return {
        f"/{SERVICE}/GetTask": get_task,
        GET_TASK_JSON: get_task_json,
        STREAM_TASK_JSON: get_task_json,  # a small answer is one message, and both requests have the same encoding
        f"/{CONDUCTOR_SERVICE}/GetTask": get_task,
    }


def build_document_endpoint(service: TaskService) -> Handler:
    """Return ``StreamTaskJson`` for a transport that serves REST itself: bytes of the ID to the bare document."""

    async def get_document(call: Call, request: bytes) -> Answer:
        try:
            call.task_id = request.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(request) from error
        return await service.get_task_json(call.task_id, call)

    return get_document


def body_part(part: bytes, *, first: bool) -> bytes:
    """Encode a ``HttpBody`` with ``part`` of a document; the first one has the content type."""
    return (_HTTP_BODY_TYPE if first else b"") + _field_header(2, part) + part


def decode_request(message: Callable[[], Any], request: bytes) -> Any:
    """Return the ``message`` that ``request`` holds. Raises InvalidRequest."""
    decoded = message()
    try:
        decoded.ParseFromString(request)
    except DecodeError as error:
        raise _invalid_request(decoded.DESCRIPTOR.full_name) from error
    return decoded


def _task_id_in(message: Callable[[], Any], request: bytes) -> str:
    """Return the ID in ``request``, a ``message`` with ``task_id = 1``. Raises InvalidRequest or InvalidTaskId."""
    try:
        task_id: str = decode_request(message, request).task_id
    except InvalidRequest:
        try:
            written: bytes = decode_request(BytesValue, request).value  # field 1 too, of any bytes
            written.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(written) from error
        except InvalidRequest:
            pass  # it is no message at all
        raise
    return task_id


def _invalid_request(name: str) -> InvalidRequest:
    return InvalidRequest(f"The request is not a valid {name} message", message=name)


def _field_header(number: int, payload: bytes) -> bytes:
    """Encode tag and length of field ``number``, length-delimited, in protobuf's wire format."""
    header = bytearray([number << 3 | _LENGTH_DELIMITED])
    length = len(payload)
    while length >> _VARINT_PAYLOAD_BITS:
        header.append(length & 0x7F | 0x80)
        length >>= _VARINT_PAYLOAD_BITS
    header.append(length)
    return bytes(header)


def _check_size(message_bytes: int, task_id: str) -> None:
    if message_bytes > MAX_MESSAGE_BYTES:
        raise DocumentTooLarge(
            f"Task {shortened(task_id)} is a message of {message_bytes} bytes; at most {MAX_MESSAGE_BYTES} can be sent."
            " GetTaskJson may still return it",
            task_id=shortened(task_id),
            message_bytes=str(message_bytes),
            maximum_bytes=str(MAX_MESSAGE_BYTES),
        )

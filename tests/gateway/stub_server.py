"""A gRPC server that obeys the task ID: ``python stub_server.py`` prints its port and serves until it is killed.

The gateway must cope with servers that are slow, that fail in every possible way, and that die. Task IDs that start
with "stub." select the behaviour; the answer for any other describes the call as it arrived.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from taskgate.base.errors import STATUS_OF, TaskgateError, TooManyAttempts
from taskgate.transports.error_details import status_details
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest

DOCUMENT = b'{"taskId":"d","n":9007199254740993,"x":1.0,"big":1e400,"gone":null,"dup":1,"dup":2,"s":"\\ud800\xc3\xa9"}'
PAUSE = 7
"""Seconds that the error for too many attempts asks to wait."""

MESSAGE = 'quote " backslash \\ newline \n accent é separator \u2028 {"message":"x"}'

CODES = {code.value[0]: code for code in grpc.StatusCode}
LIMITS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 64 * 1024),
    ("grpc.absolute_max_metadata_size", 96 * 1024),
]


class Stub:
    """The state of one stub: how often each task was asked for, and its health."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.health = health.aio.HealthServicer()

    async def get_task_json(self, request: bytes, context: Any) -> bytes:
        """HttpBody for GetTaskJson; its bytes also serve for any other method."""
        try:
            task_id = GetTaskJsonRequest.FromString(request).task_id
        except Exception:  # noqa: BLE001 - any undecodable request, as the real server refuses it
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The request cannot be decoded")
        context.set_trailing_metadata((("x-request-id", "from-the-server"), ("x-trailer", "seen")))
        if task_id.startswith("stub."):
            self.calls[task_id] += 1
            return await self.obey(task_id, task_id.split(".")[1:], context)
        description = {
            "task_id": task_id,
            "remaining": context.time_remaining(),
            "metadata": [
                [key, value if isinstance(value, str) else value.hex()] for key, value in context.invocation_metadata()
            ],
        }
        return http_body(json.dumps(description).encode())

    async def obey(self, task_id: str, words: list[str], context: Any) -> bytes:
        match words:
            case ["document", *_]:
                return http_body(DOCUMENT)
            case ["size", size]:
                return http_body(b'"' + b"x" * (int(size) - 2) + b'"')
            case ["sleep", whole, fraction, *_]:
                await asyncio.sleep(float(f"{whole}.{fraction}"))
                return http_body(DOCUMENT)
            case ["error", code, *_]:
                await fail(context, int(code))
            case ["kind", name]:
                await fail_as(context, next(kind for kind in STATUS_OF if kind.__name__ == name))
            case ["flaky", times, code, *_]:
                if self.calls[task_id] <= int(times):
                    await fail(context, int(code))
                return http_body(b"%d" % self.calls[task_id])
            case ["calls", *others]:
                return http_body(b"%d" % self.calls["stub." + ".".join(others)])
            case ["unknown-detail"]:
                await fail(context, 5, any_pb2.Any(type_url="type.googleapis.com/no.Such", value=b"\x08\x01"))
            case ["no-message"]:
                await context.abort(grpc.StatusCode.NOT_FOUND)
            case ["after-metadata"]:
                await context.send_initial_metadata((("x-early", "yes"),))
                await context.abort(grpc.StatusCode.NOT_FOUND, "after initial metadata")
            case ["retry-after"]:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "Slowly", trailing_metadata=(("retry-after", "7"),)
                )
            case ["unhealthy"]:
                await self.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
            case ["healthy"]:
                await self.health.set("", health_pb2.HealthCheckResponse.SERVING)
            case ["exit"]:
                os._exit(1)
        return http_body(b"{}")


async def fail(context: Any, code: int, *details: any_pb2.Any) -> None:
    """Abort with ``MESSAGE`` and, by default, an ErrorInfo."""
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason="ERROR_REASON_STUB", domain="taskgate", metadata={"code": str(code)}))
    status = status_pb2.Status(code=code, message=MESSAGE, details=details or [info])
    trailing = (("grpc-status-details-bin", status.SerializeToString()), ("x-request-id", "from-the-server"))
    await context.abort(CODES[code], MESSAGE, trailing_metadata=trailing)


async def fail_as(context: Any, kind: type[TaskgateError]) -> None:
    """Abort as the real server does with an error of this kind."""
    error = TooManyAttempts(PAUSE) if kind is TooManyAttempts else kind.__new__(kind)
    TaskgateError.__init__(error, MESSAGE)
    details = (("grpc-status-details-bin", status_details(error)),)
    await context.abort(grpc.StatusCode[error.status.grpc_code], MESSAGE, trailing_metadata=details)


def http_body(data: bytes) -> bytes:
    """A serialised google.api.HttpBody of any size, made by hand."""
    length, size = len(data), bytearray()
    while length >> 7:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return b"\x0a\x10application/json\x12" + bytes(size) + bytes([length]) + data


async def main() -> None:
    stub = Stub()
    server = grpc.aio.server(options=LIMITS)
    handler: Any = grpc.unary_unary_rpc_method_handler(stub.get_task_json)
    for service in ("taskgate.v1.TaskService", "conductor.grpc.tasks.TaskService"):
        methods = {"GetTask": handler, "GetTaskJson": handler, "StreamTaskJson": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    health_pb2_grpc.add_HealthServicer_to_server(stub.health, server)
    await stub.health.set("", health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection((health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = server.add_insecure_port(f"127.0.0.1:{sys.argv[1] if len(sys.argv) > 1 else 0}")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())

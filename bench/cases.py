"""The rows of the table: which server, which door, which request, and what must come back."""

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from google.api.httpbody_pb2 import HttpBody

from bench.errors import BenchError
from bench.peers.grpc_echo import ECHO_PATH
from bench.servers import Server
from bench.targets import GrpcCall, HttpGet, Target
from bench.tasks import DOCUMENTED_ID, documented_task
from taskgate.task_message import task_from_document
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest, GetTaskRequest, GetTaskResponse

SERVICE = "taskgate.v1.TaskService"


@dataclass(frozen=True, slots=True)
class Case:
    """One row. ``target`` makes the request for a running ``server`` (a name of ``servers.STARTERS``)."""

    key: str
    title: str
    server: str
    target: Callable[[Server], Target]


def rest(authority: str, prefix: str = "") -> HttpGet:
    """``GET`` the documented task."""
    return HttpGet(authority, f"{prefix}/api/tasks/{DOCUMENTED_ID}", documented_task())


def get_task_json(authority: str) -> GrpcCall:
    """The documented task as bytes."""
    request = GetTaskJsonRequest(task_id=DOCUMENTED_ID).SerializeToString()
    answer = HttpBody(content_type="application/json", data=documented_task()).SerializeToString()
    return GrpcCall(authority, f"/{SERVICE}/GetTaskJson", request, answer)


def get_task(authority: str) -> GrpcCall:
    """The documented task as a typed message."""
    request = GetTaskRequest(task_id=DOCUMENTED_ID).SerializeToString()
    answer = GetTaskResponse(task=task_from_document(documented_task())).SerializeToString()
    return GrpcCall(authority, f"/{SERVICE}/GetTask", request, answer, _same_task)


def echo(authority: str) -> GrpcCall:
    """The request of the others, sent back."""
    request = GetTaskJsonRequest(task_id=DOCUMENTED_ID).SerializeToString()
    return GrpcCall(authority, ECHO_PATH, request, request)


CASES = (
    Case("rest", "taskgate: REST through Envoy", "taskgate", lambda server: rest(server.http)),
    Case("grpc-json", "taskgate: gRPC direct, GetTaskJson", "taskgate", lambda server: get_task_json(server.grpc)),
    Case("grpc-typed", "taskgate: gRPC direct, GetTask", "taskgate", lambda server: get_task(server.grpc)),
    Case("grpc-envoy", "taskgate: gRPC through Envoy, GetTaskJson", "taskgate", lambda s: get_task_json(s.http)),
    Case("echo", "empty grpc.aio echo", "grpc-echo", lambda server: echo(server.grpc)),
    Case("fastapi", "FastAPI on uvicorn, read in a thread", "fastapi", lambda server: rest(server.http)),
    Case("fastapi-inline", "FastAPI on uvicorn, read on the loop", "fastapi", lambda s: rest(s.http, "/inline")),
    Case("envoy-direct", "Envoy direct_response", "envoy-direct", lambda server: rest(server.http)),
)


def choose(keys: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Those of ``keys`` that match one of ``patterns`` (``rest``, ``grpc-*``), in their order; all without patterns.

    Raises BenchError for a pattern that matches nothing.
    """
    known, wanted = list(keys), list(patterns)
    for pattern in wanted:
        if not fnmatch.filter(known, pattern):
            raise BenchError(f"--only {pattern}: there is only {', '.join(known)}")
    return [key for key in known if not wanted or any(fnmatch.fnmatchcase(key, pattern) for pattern in wanted)]


def _same_task(answer: bytes, expected: bytes) -> bool:
    """Protobuf leaves the order of map entries open, so typed answers are compared as messages."""
    return bool(GetTaskResponse.FromString(answer) == GetTaskResponse.FromString(expected))

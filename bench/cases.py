"""Define the cases: the server, its address, the request, the right answer, and the cases to compare with."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from google.api.httpbody_pb2 import HttpBody

from bench.loads import Load
from bench.peers import envoy_direct, fastapi_app, go_peer, grpc_echo
from bench.servers import Server, Starter, start_authenticated, start_measured, start_proxied, start_taskgate
from bench.targets import Target, token_of
from bench.tasks import LARGE, MIDDLE, SMALL, Document
from taskgate.documents.task_message import task_from_document
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest, GetTaskRequest, GetTaskResponse
from tools.processes import Failed

SERVICE = "taskgate.v1.TaskService"


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a table. ``call`` makes the request for a document of the running server of that name.

    ``over`` has the keys of the cases that it is divided by, each with the least ratio of throughput to aim at, or
    None. ``only_small``: without large documents. ``beside`` is a load that runs meanwhile, and somewhat longer.
    """

    key: str
    title: str
    server: str
    call: Callable[[Server, Document], Target]
    over: Mapping[str, float | None] = field(default_factory=dict)
    only_small: bool = False
    beside: Callable[[Server], tuple[Target, Load]] | None = None

    def suits(self, document: Document) -> bool:
        """Whether the case includes this document."""
        return not self.only_small or document not in (MIDDLE, LARGE)


def rest(server: Server, document: Document = SMALL, prefix: str = "") -> Target:
    """``GET`` a task."""
    return Target(server.http, f"{prefix}/api/tasks/{document.task_id}", document.body)


def rest_with_token(server: Server, document: Document) -> Target:
    """``GET`` a task with a token, one for all calls."""
    return replace(rest(server, document), headers=(("x-authorization", token_of(server.http, server.credentials)),))


def rest_inline(server: Server, document: Document) -> Target:
    """``GET`` a task from a peer with two ways to answer: the one with less code between call and store."""
    return rest(server, document, "/inline")


def get_task_json(server: Server, document: Document) -> Target:
    """Get a task as bytes."""
    answer = HttpBody(content_type="application/json", data=document.body).SerializeToString()
    return Target(server.grpc, f"/{SERVICE}/GetTaskJson", answer, _json_request(document))


def get_task(server: Server, document: Document) -> Target:
    """Get a task as a typed message."""
    request = GetTaskRequest(task_id=document.task_id).SerializeToString()
    return Target(server.grpc, f"/{SERVICE}/GetTask", _typed(document), request, _same_task)


def echo(server: Server, document: Document) -> Target:
    """Send the request of the other cases, and get it back."""
    return Target(server.grpc, grpc_echo.PATH, _json_request(document), _json_request(document))


def healthz(server: Server, _: Document) -> Target:
    """Call REST with almost no work beyond the way into Python and back."""
    return Target(server.http, "/healthz", b'{"healthy":true}')


def health_check(server: Server, _: Document) -> Target:
    """Call gRPC with almost no work: an empty request, answered with SERVING."""
    return Target(server.grpc, "/grpc.health.v1.Health/Check", b"\x08\x01", b"")


SERVERS: Mapping[str, Starter] = {
    "embedded": start_taskgate,
    "authenticated": start_authenticated,
    "measured": start_measured,
    "proxied": start_proxied,
    "echo": grpc_echo.start,
    "fastapi": fastapi_app.start,
    "direct": envoy_direct.start,
    "go": go_peer.start,
}
"""Cases by name."""

_PYTHON_OVER = {"proxied-rest": 3.0, "fastapi": 2.0, "fastapi-inline": 2.0}
_REST_OVER = {**_PYTHON_OVER, "direct": 0.45, "go-rest": None, "go-inline": None}
_JSON_OVER = {"echo": 4.0, "proxied-json": None, "go-json": None}
_TYPED_OVER = {"echo": None, "proxied-typed": None, "go-typed": None}
_HOP = "embedded, no more than the hop"

CASES = (
    Case("rest", "taskgate embedded: REST", "embedded", rest, _REST_OVER),
    Case("json", "taskgate embedded: gRPC GetTaskJson", "embedded", get_task_json, _JSON_OVER),
    Case("typed", "taskgate embedded: gRPC GetTask", "embedded", get_task, _TYPED_OVER, only_small=True),
    Case(
        "token",
        "taskgate embedded: REST with a token",
        "authenticated",
        rest_with_token,
        {"rest": 0.85},
        only_small=True,
    ),
    Case("metrics", "taskgate embedded: REST with --metrics", "measured", rest, {"rest": None}, only_small=True),
    Case("hop-rest", f"{_HOP}: /healthz", "embedded", healthz, {"direct": None}, only_small=True),
    Case("hop-grpc", f"{_HOP}: Health/Check", "embedded", health_check, {"echo": None}, only_small=True),
    Case("proxied-rest", "taskgate proxied: REST", "proxied", rest, {"fastapi": None}),
    Case("proxied-json", "taskgate proxied: gRPC GetTaskJson", "proxied", get_task_json, {"echo": None}),
    Case("proxied-typed", "taskgate proxied: gRPC GetTask", "proxied", get_task, only_small=True),
    Case("echo", "empty grpc.aio method", "echo", echo, only_small=True),
    Case("fastapi", "FastAPI on uvicorn, read in a thread", "fastapi", rest, only_small=True),
    Case("fastapi-inline", "FastAPI on uvicorn, read on the loop", "fastapi", rest_inline),
    Case("direct", "Envoy direct_response", "direct", rest),
    Case("go-rest", "Go: grpc-gateway over gRPC", "go", rest),
    Case("go-inline", "Go: grpc-gateway, calls within the process", "go", rest_inline, only_small=True),
    Case("go-json", "Go: gRPC GetTaskJson", "go", get_task_json),
    Case("go-typed", "Go: gRPC GetTask", "go", get_task, only_small=True),
)


def choose(keys: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Return the ``keys`` that match one of ``patterns`` (``rest``, ``go-*``), in their order; all without patterns.

    Raises Failed for a pattern without a match.
    """
    known, wanted = list(keys), list(patterns)
    for pattern in wanted:
        if not fnmatch.filter(known, pattern):
            raise Failed(f"--only {pattern}: there is only {', '.join(known)}")
    return [key for key in known if not wanted or any(fnmatch.fnmatchcase(key, pattern) for pattern in wanted)]


def _json_request(document: Document) -> bytes:
    return GetTaskJsonRequest(task_id=document.task_id).SerializeToString()


@cache
def _typed(document: Document) -> bytes:
    return GetTaskResponse(task=task_from_document(document.body)).SerializeToString()


def _same_task(answer: bytes, expected: bytes) -> bool:
    """Protobuf leaves the order of map entries open, so typed answers are compared as messages."""
    return bool(GetTaskResponse.FromString(answer) == GetTaskResponse.FromString(expected))

"""The rows of the tables: which server, which door, which request, and what must come back."""

import fnmatch
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

from google.api.httpbody_pb2 import HttpBody

from bench.errors import BenchError
from bench.loads import Load
from bench.peers.grpc_echo import ECHO_PATH
from bench.servers import Server
from bench.targets import GrpcCall, HttpGet, Target, ask
from bench.tasks import LARGE, MIDDLE, SMALL, Document
from taskgate.documents.task_message import task_from_document
from taskgate.v1.task_service_pb2 import GetTaskJsonRequest, GetTaskRequest, GetTaskResponse

SERVICE = "taskgate.v1.TaskService"

COUNTED_REQUESTS = 96
"""Calls in a round of a ``counted`` case with several connections, but at least one for each."""

COUNTED_LARGE_REQUESTS = 4
"""The same for the largest document, each of which takes a second or two."""

_CONDUCTOR_ADDS = {"": {"executionMetadata"}, "workflowTask": {"metadata"}}
"""Keys that today's Conductor writes, empty, into documents that were stored without them; by the key of the object."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row. ``target`` makes the request for a document of a running ``server`` (a name of ``servers.STARTERS``).

    Not ``everywhere``: measured in the main cell only, for it differs little from another row. ``one_large``: asked for
    one large document at a time, since each keeps a core busy for so long that more would only wait. ``counted``: so
    slow that calls for all but small documents are counted instead of timed.
    """

    key: str
    title: str
    server: str
    target: Callable[[Server, Document], Target]
    protocol: Literal["REST", "gRPC"] = "REST"
    everywhere: bool = True
    one_large: bool = False
    counted: bool = False
    only_small: bool = False

    def suits(self, document: Document, in_flight: int) -> bool:
        """Whether this row is measured with ``document`` and this many calls in flight."""
        if document is not SMALL and self.only_small:
            return False
        return not (self.one_large and document is LARGE and in_flight > 1)

    def load(self, document: Document, load: Load) -> Load:
        """What ``load`` is for this row."""
        if self.counted and document is LARGE:
            return replace(load, requests=COUNTED_LARGE_REQUESTS)
        if self.counted and document is MIDDLE and load.in_flight > 1 and load.requests is None:
            return replace(load, requests=max(COUNTED_REQUESTS, load.in_flight))
        return load


def rest(authority: str, document: Document = SMALL, prefix: str = "") -> HttpGet:
    """``GET`` a task."""
    return HttpGet(authority, f"{prefix}/api/tasks/{document.task_id}", document.body)


def get_task_json(authority: str, document: Document = SMALL) -> GrpcCall:
    """A task as bytes."""
    return get_task_json_as(authority, document.task_id, document.body)


def get_task_json_as(authority: str, task_id: str, body: bytes) -> GrpcCall:
    """The task with this ID, which must come as ``body``."""
    request = GetTaskJsonRequest(task_id=task_id).SerializeToString()
    answer = HttpBody(content_type="application/json", data=body).SerializeToString()
    return GrpcCall(authority, f"/{SERVICE}/GetTaskJson", request, answer)


def get_task(authority: str, document: Document = SMALL) -> GrpcCall:
    """A task as a typed message."""
    request = GetTaskRequest(task_id=document.task_id).SerializeToString()
    return GrpcCall(authority, f"/{SERVICE}/GetTask", request, _typed(document), _same_task)


def echo(authority: str, document: Document = SMALL) -> GrpcCall:
    """The request of the others, sent back."""
    request = GetTaskJsonRequest(task_id=document.task_id).SerializeToString()
    return GrpcCall(authority, ECHO_PATH, request, request)


def healthz(authority: str, document: Document = SMALL) -> HttpGet:
    """A call over REST that is little but its way into Python and back."""
    del document
    return HttpGet(authority, "/healthz", b'{"healthy":true}')


def health_check(authority: str, document: Document = SMALL) -> GrpcCall:
    """The same over gRPC: an empty request, answered with SERVING."""
    del document
    return GrpcCall(authority, "/grpc.health.v1.Health/Check", b"", b"\x08\x01")


def conductor_rest(authority: str, document: Document) -> HttpGet:
    """``GET`` a task from Conductor."""
    target = rest(authority, document)
    return replace(target, answer=conductor_answer(target, document), bare_status=True)


def conductor_answer(target: Target, document: Document) -> bytes:
    """What is said about a task by who writes the document anew, as Conductor does: it is the right answer from now on.

    Raises BenchError unless it has all that the document has, and nothing else but what Conductor adds to any.
    """
    answer = ask(target)
    if _without_additions(json.loads(answer)) != _without_additions(json.loads(document.body)):
        raise BenchError(
            f"{target.authority}{target.path}: for the {document.name} task comes another one: {answer[:200]!r}"
        )
    return answer


def _over_rest(
    key: str, title: str, server: str, call: Callable[[str, Document], Target] = rest, **settings: bool
) -> Case:
    return Case(key, title, server, lambda running, document: call(running.http, document), "REST", **settings)


def _over_grpc(key: str, title: str, server: str, call: Callable[[str, Document], Target], **settings: bool) -> Case:
    return Case(key, title, server, lambda running, document: call(running.grpc, document), "gRPC", **settings)


_rest_inline = partial(rest, prefix="/inline")
"""From a peer that has two ways to answer."""

_INSIDE, _GRPCIO = "taskgate-envoy", "taskgate-grpcio"

CASES = (
    _over_rest("envoy-rest", "taskgate inside Envoy: REST", _INSIDE),
    _over_grpc("envoy-json", "taskgate inside Envoy: gRPC GetTaskJson", _INSIDE, get_task_json),
    _over_grpc("envoy-typed", "taskgate inside Envoy: gRPC GetTask", _INSIDE, get_task, one_large=True, counted=True),
    _over_rest("envoy-hop-rest", "inside Envoy, no more than the hop: /healthz", _INSIDE, healthz, everywhere=False),
    _over_grpc(
        "envoy-hop-grpc",
        "inside Envoy, no more than the hop: gRPC health check",
        _INSIDE,
        health_check,
        everywhere=False,
    ),
    _over_rest("grpcio-rest", "taskgate on grpcio: REST through Envoy", _GRPCIO),
    _over_grpc("grpcio-json", "taskgate on grpcio: gRPC GetTaskJson", _GRPCIO, get_task_json),
    _over_grpc("grpcio-typed", "taskgate on grpcio: gRPC GetTask", _GRPCIO, get_task, one_large=True, counted=True),
    Case(
        "grpcio-via-envoy",
        "taskgate on grpcio: gRPC GetTaskJson through Envoy",
        _GRPCIO,
        lambda server, document: get_task_json(server.http, document),
        protocol="gRPC",
        everywhere=False,
    ),
    _over_grpc("echo", "empty grpc.aio echo", "grpc-echo", echo, only_small=True),
    _over_rest("fastapi", "FastAPI on uvicorn, read in a thread", "fastapi", everywhere=False),
    _over_rest("fastapi-inline", "FastAPI on uvicorn, read on the loop", "fastapi", _rest_inline),
    _over_rest("envoy-direct", "Envoy direct_response", "envoy-direct"),
    _over_rest("go-rest", "Go: grpc-gateway over gRPC", "go"),
    _over_rest("go-rest-inline", "Go: grpc-gateway, calls within the process", "go", _rest_inline, everywhere=False),
    _over_grpc("go-json", "Go: gRPC GetTaskJson", "go", get_task_json),
    _over_grpc("go-typed", "Go: gRPC GetTask", "go", get_task, one_large=True, counted=True),
    _over_rest("conductor", "Conductor: REST", "conductor", conductor_rest, one_large=True),
)


def choose(keys: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Those of ``keys`` that match one of ``patterns`` (``rest``, ``go-*``), in their order; all without patterns.

    Raises BenchError for a pattern that matches nothing.
    """
    known, wanted = list(keys), list(patterns)
    for pattern in wanted:
        if not fnmatch.filter(known, pattern):
            raise BenchError(f"--only {pattern}: there is only {', '.join(known)}")
    return [key for key in known if not wanted or any(fnmatch.fnmatchcase(key, pattern) for pattern in wanted)]


@cache
def _typed(document: Document) -> bytes:
    return GetTaskResponse(task=task_from_document(document.body)).SerializeToString()


def _same_task(answer: bytes, expected: bytes) -> bool:
    """Protobuf leaves the order of map entries open, so typed answers are compared as messages."""
    return bool(GetTaskResponse.FromString(answer) == GetTaskResponse.FromString(expected))


def _without_additions(task: dict[str, object]) -> dict[str, object]:
    plain = dict(task)
    for key, additions in _CONDUCTOR_ADDS.items():
        inner = plain if key == "" else dict(plain[key])  # type: ignore[call-overload]
        for addition in additions:
            inner.pop(addition, None)
        if key:
            plain[key] = inner
    return plain

"""What a caller gets for a task ID: one body of tests, every front door.

Named exceptions: the typed ``Task`` has no REST form, so REST doors take no part where it is asked for; ``ErrorInfo``
exists on gRPC only, where REST has the four keys of Conductor's error body.
"""

import json
import socket
import unicodedata
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.conductor_stub import conductor_get_task
from support.documents import (
    DOCUMENTED,
    DOCUMENTED_COMPACT,
    DOCUMENTED_ID,
    UNKNOWN_ID,
    put_row,
    task,
)
from support.doors import DOORS, Door, GrpcDoor, Http2Door, RestDoor, open_door
from support.full_task import plain
from support.running import System, eventually
from taskgate.v1.task_pb2 import Task


def refused_by_envoy(door: Door, task_id: str) -> bool:
    """Envoy takes NUL and encoded slashes of both kinds for attacks and answers 400 itself, before any route."""
    return isinstance(door, RestDoor | Http2Door) and any(character in task_id for character in "\0/\\")


def new_id() -> str:
    return str(uuid.uuid4())


def test_documented_task_comes_back_byte_for_byte(door: Door) -> None:
    """The documented task, without its insignificant whitespace and otherwise unchanged."""
    outcome = door.get_task_json(DOCUMENTED_ID)
    assert (outcome.status, outcome.document) == (200, DOCUMENTED_COMPACT)


def test_documented_task_equals_the_contract_key_for_key(door: Door) -> None:
    """Same keys in the same order, same values and types, as the documented task prints them."""
    received = json.loads(door.get_task_json(DOCUMENTED_ID).document, object_pairs_hook=list)
    assert json.loads(DOCUMENTED, object_pairs_hook=list) == received


EXACT = {
    "whitespace in strings": b'{"taskId":"%s","status":"COMPLETED","a":" b  c "}',
    "null, nested null, empty": b'{"taskId":"%s","status":"COMPLETED","a":null,"b":{"c":null},"d":{},"e":[]}',
    "key order": b'{"z":1,"taskId":"%s","a":2,"status":"FAILED","m":3}',
    "numbers as written": b'{"taskId":"%s","status":"COMPLETED","n":[1.0,1e5,1E-7,-0,-0.0,0.10]}',
    "beyond doubles": b'{"taskId":"%s","status":"COMPLETED","n":[1e400,123456789012345678901234567890]}',
    "beyond 2^53": b'{"taskId":"%s","status":"COMPLETED","n":9007199254740993}',
    "escapes as written": b'{"taskId":"%s","status":"COMPLETED","s":"\\u0041\\/\\n\\ud83d\\ude00\\u0000"}',
    "lone surrogates": b'{"taskId":"%s","status":"COMPLETED","s":"\\ud800 \\udc00","\\udfff":1}',
    "duplicate keys": b'{"taskId":"%s","status":"COMPLETED","a":1,"a":2}',
    "raw unicode": '{"taskId":"%s","status":"COMPLETED","s":"é 😀 \u2028"}'.encode(),
    "future status": b'{"taskId":"%s","status":"NOT_INVENTED_YET"}',
}


@pytest.mark.parametrize("template", EXACT.values(), ids=EXACT)
def test_stored_document_is_returned_exactly(door: Door, system: System, template: bytes) -> None:
    """Whatever is legal JSON comes back as it was stored, over every door."""
    task_id = new_id()
    document = template % task_id.encode()
    put_row(system.database, task_id, document.decode())
    outcome = door.get_task_json(task_id)
    assert (200, document) == (outcome.status, outcome.document)


MALFORMED = {
    "word": "not-a-uuid",
    "too short": DOCUMENTED_ID[:-1],
    "too long": DOCUMENTED_ID + "0",
    "space at the end": DOCUMENTED_ID + " ",
    "line break at the end": DOCUMENTED_ID + "\n",
    "braces": "{" + DOCUMENTED_ID + "}",
    "no hyphens": DOCUMENTED_ID.replace("-", ""),
    "full-width digit": "\uff16" + DOCUMENTED_ID[1:],
    "NUL": DOCUMENTED_ID[:-1] + "\0",
    "quote": "x'\"\\",
    "percent": "100%",
    "unicode": "é😀",
    "2000 characters": "x" * 2000,
    "8000 characters": "x" * 8000,
}


@pytest.mark.parametrize("task_id", MALFORMED.values(), ids=MALFORMED)
def test_malformed_id_is_400(door: Door, task_id: str) -> None:
    """A task ID that is not a UUID is refused with a message that says so."""
    outcome = door.get_task_json(task_id)
    assert outcome.status == 400
    assert len(outcome.message) < 400
    if not refused_by_envoy(door, task_id):
        assert outcome.message.startswith("Invalid task ID")
        assert "UUID" in outcome.message


def test_log_says_which_setting_takes_a_refused_id(door: Door, system: System) -> None:
    """Installations with their own IDs find it in the line of the call; the caller, who has no settings, does not."""
    task_id = f"fd7s88646e5a-4a9e-11f0-{door.name}"
    outcome = door.get_task_json(task_id)
    assert outcome.status == 400
    assert "--task-id-format" not in outcome.message
    (line,) = eventually(lambda: [call for call in system.events("call") if call["task_id"] == task_id], "its line")
    assert line["error"] == f"{outcome.message}; --task-id-format any takes other IDs"


def test_unknown_id_is_404_in_conductors_words(door: Door) -> None:
    """A well-formed ID without a task: Conductor's status and message."""
    outcome = door.get_task_json(UNKNOWN_ID)
    assert (404, f"Task not found for taskId: {UNKNOWN_ID}") == (outcome.status, outcome.message)


def test_ids_are_compared_exactly(door: Door, system: System) -> None:
    """The stored ID in other letters is another ID, as in Conductor."""
    task_id = new_id().upper()
    put_row(system.database, task_id, task(task_id).decode())
    assert door.get_task_json(task_id).status == 200
    assert door.get_task_json(task_id.lower()).status == 404


UNREADABLE = {
    "not JSON": "garbage secret",
    "cut": '{"taskId":"secret',
    "a list": "[]",
    "empty": "",
    "number": 5,
    "not UTF-8": b'{"a":"\xff"}',
    "too deep": '{"a":' + "[" * 2000 + "]" * 2000 + "}",
}


@pytest.mark.parametrize("stored", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_row_is_500_without_its_content(door: Door, system: System, stored: object) -> None:
    """A stored value that is no document is data loss: the message has the ID and nothing of the value."""
    task_id = new_id()
    put_row(system.database, task_id, stored)
    outcome = door.get_task_json(task_id)
    assert (500, f"The stored document of task {task_id} cannot be read") == (outcome.status, outcome.message)


@pytest.mark.parametrize("size", [100_000, 1_048_577, 10 * 1024 * 1024])
def test_large_document_comes_back_exactly(door: Door, system: System, size: int) -> None:
    """Documents of megabytes pass every door unchanged."""
    task_id = new_id()
    document = task(task_id, outputData={"text": "x" * size})
    put_row(system.database, task_id, document.decode())
    outcome = door.get_task_json(task_id)
    assert outcome.status == 200
    assert document == outcome.document


def test_largest_document_passes_and_a_larger_one_is_refused(door: Door, system: System) -> None:
    """32 MiB less the room for framing is the limit; beyond it, the refusal names both sizes."""
    limit = 32 * 1024 * 1024 - 4096
    for extra in (0, 1):
        task_id = new_id()
        frame = len(task(task_id, outputData={"text": ""}))
        document = task(task_id, outputData={"text": "x" * (limit - frame + extra)})
        put_row(system.database, task_id, document.decode())
        outcome = door.get_task_json(task_id)
        if extra == 0:
            assert outcome.status == 200
            assert document == outcome.document
        else:
            assert outcome.status == 500
            assert str(limit + 1) in outcome.message
            assert str(limit) in outcome.message


def test_200_concurrent_callers(system: System) -> None:
    """200 callers at once, spread over all doors, each get the right answer."""

    def ask(number: int) -> bytes:
        door = open_door(DOORS[number % len(DOORS)], system.http, system.grpc)
        try:
            answers = {door.get_task_json(DOCUMENTED_ID).document for _ in range(5)}
            assert door.get_task_json(UNKNOWN_ID).status == 404
        finally:
            door.close()
        (answer,) = answers
        return answer

    with ThreadPoolExecutor(200) as pool:
        assert {DOCUMENTED_COMPACT} == set(pool.map(ask, range(200)))


ODD_IDS = {
    "spaces": "a b",
    "unicode": "tâche-😀",
    "combining": "e\u0301",
    "punctuation": "a:b;c,d=e&f+g@h!i$j'k(l)m*n~o",
    "percent": "100%41",
    "question mark and hash": "a?b#c",
    "backslash": "a\\b",
    "slash": "a/b",
    "255 characters": "x" * 255,
    "quotes": "\"'`",
    "brackets": "{a}[b]<c>",
    "one dot in a name": "a.b",
}


@pytest.mark.parametrize("task_id", ODD_IDS.values(), ids=ODD_IDS)
def test_any_format_serves_odd_ids(any_id_door: Door, any_id_system: System, task_id: str) -> None:
    """With --task-id-format any, an ID is any text; percent-encoding is undone exactly once.

    Named exception: an ID with a slash or backslash cannot be had over REST (400), only over gRPC.
    """
    document = task(task_id)
    put_row(any_id_system.database, task_id, document.decode())
    outcome = any_id_door.get_task_json(task_id)
    if refused_by_envoy(any_id_door, task_id):
        assert outcome.status == 400
    else:
        assert (200, document) == (outcome.status, outcome.document)


@pytest.mark.parametrize("task_id", ["x" * 256, "x" * 1024, "é😀" * 170, "x" * 5000, "\u20ac" * 3000], ids=len)
def test_long_ids_are_unknown_as_in_conductor(any_id_door: Door, any_id_system: System, task_id: str) -> None:
    """With --task-id-format any: longer than any column, an ID is still an ID, and no task has it, until one does.

    Messages name 1,024 bytes of it: there are limits on headers, which hold errors of gRPC.
    """
    outcome = any_id_door.get_task_json(task_id)
    named = task_id if len(task_id.encode()) <= 1024 else task_id.encode()[:1024].decode(errors="ignore") + "…"
    assert (404, f"Task not found for taskId: {named}") == (outcome.status, outcome.message)
    stored = task_id + any_id_door.name
    put_row(any_id_system.database, stored, "{}")
    assert any_id_door.get_task_json(stored).document == b"{}"


@pytest.mark.parametrize("task_id", ["a\x00b", "a\nb", "a\x7fb"], ids=["NUL", "line break", "DEL"])
def test_any_format_still_refuses(any_id_door: Door, task_id: str) -> None:
    """With control characters, an ID is malformed whatever the format."""
    outcome = any_id_door.get_task_json(task_id)
    assert outcome.status == 400
    assert refused_by_envoy(any_id_door, task_id) or outcome.message.startswith("Invalid task ID")


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(task_id=st.text(min_size=1, max_size=255))
@example("..")
@example(".")
@example("%2e%2e")
@example("\ufeff")
@example("a" * 254 + "\U0001f600")
def test_any_text_is_an_id_of_its_own(any_id_door: Door, any_id_system: System, task_id: str) -> None:
    """With --task-id-format any, whatever has no control character names its task; the rest is malformed.

    Named exceptions over REST: slashes and backslashes are refused, and "." and ".." are steps in a path to HTTP.
    """
    document = task(task_id)
    put_row(any_id_system.database, task_id, document.decode())
    outcome = any_id_door.get_task_json(task_id)
    malformed = any(unicodedata.category(character) == "Cc" for character in task_id)
    if malformed or refused_by_envoy(any_id_door, task_id):
        assert outcome.status == 400
    elif task_id in {".", ".."} and not isinstance(any_id_door, GrpcDoor):
        assert outcome.status == 404
    else:
        assert (200, document) == (outcome.status, outcome.document)


# REST only: paths and versions of HTTP --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        *("search", "search?query=x", "search-v2", "%73earch", "externalstoragelocation", "external-storage-location"),
        *("update-v2", "queue/sizes", "queue/size", "queue/all", "queue/all/verbose", "queue/polldata"),
        *("queue/polldata/all", "queue/requeue/a", "poll/a", "poll/batch/a", f"{DOCUMENTED_ID}/log", "a/b/COMPLETED"),
        *("a/b/COMPLETED/sync", "a/COMPLETED/signal", "a/COMPLETED/signal/sync"),
    ],
)
def test_conductors_other_routes_are_no_routes(rest_door: RestDoor | Http2Door, path: str, method: str) -> None:
    """Conductor has more below /api/tasks than {taskId}: nobody is told that "search" is a malformed ID."""
    outcome = rest_door.get(f"/api/tasks/{path}", method)
    assert outcome.status == 404
    assert outcome.message == ("" if method == "HEAD" else "No such route")


@pytest.mark.parametrize("host", ["", "host: tasks.example\r\n"], ids=["no host", "host"])
@pytest.mark.parametrize(
    ("path", "status", "found"),
    [
        (f"/api/tasks/{DOCUMENTED_ID}", 200, DOCUMENTED_COMPACT),
        (f"/api/tasks/{UNKNOWN_ID}", 404, b"Task not found for taskId"),
        ("/healthz", 200, b'{"healthy":true}'),
        ("/nothing", 404, b"No such route"),
    ],
)
def test_http_1_0_is_answered(system: System, host: str, path: str, status: int, found: bytes) -> None:
    """As nginx asks what is behind it by default; the connection then ends, as HTTP/1.0 has it."""
    address, _, port = system.http.rpartition(":")
    with socket.create_connection((address, int(port)), 30) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n{host}connection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 %d " % status)
    assert b"transfer-encoding" not in head.lower()
    assert found in body
    assert b"content-length: %d\r\n" % len(body) in head.lower() + b"\r\n"


# gRPC only: the typed task and error details -----------------------------------------------------------------------


@pytest.fixture(params=["taskgate.v1.TaskService", "conductor.grpc.tasks.TaskService"])
def service(request: pytest.FixtureRequest) -> str:
    """Our service, and Conductor's name for it."""
    name: str = request.param
    return name


def test_typed_task_holds_the_document(grpc_door: GrpcDoor, service: str) -> None:
    """Scalars, maps and nested messages of the documented task arrive in the typed one, under both service names."""
    outcome, received = grpc_door.get_task(DOCUMENTED_ID, service)
    assert outcome.code == "OK"
    assert received.status == Task.COMPLETED
    assert (received.task_id, received.task_type, received.update_time) == (DOCUMENTED_ID, "HTTP", 1770621022078)
    body = received.output_data["response"].struct_value.fields["body"].struct_value.fields
    assert body["randomInt"].number_value == 2646
    assert received.workflow_task.task_reference_name == "http_ref"
    assert not received.HasField("task_definition")
    assert not received.HasField("reason_for_incompletion")


PAYLOADS = {"inputData", "outputData", "inputParameters", "metadata"}
"""Keys whose values are anybody's JSON."""


def set_in_proto3(value: Any, key: str = "") -> Any:
    """``value`` without what a proto3 message does not show: zeros, empty lists and maps, null; payloads are kept."""
    if not isinstance(value, dict) or key in PAYLOADS:
        return value
    return {inner: set_in_proto3(value[inner], inner) for inner in value if value[inner] not in (None, 0, "", [], {})}


def test_typed_task_equals_the_document(grpc_door: GrpcDoor, service: str) -> None:
    """Field by field, payloads included, the typed task is the document."""
    _, received = grpc_door.get_task(DOCUMENTED_ID, service)
    expected = set_in_proto3(json.loads(DOCUMENTED))
    expected["workflowTask"]["retryCount"] = -1  # Conductor's sign for a step that gives none (``ProtoMapper``)
    assert expected == plain(received)


def test_existing_conductor_stub_gets_the_task(grpc_door: GrpcDoor) -> None:
    """A client with Conductor's descriptors and nothing of ours, calling Conductor's path."""
    received = conductor_get_task(grpc_door.channel, DOCUMENTED_ID)
    assert received.DESCRIPTOR.full_name == "conductor.proto.Task"
    document = json.loads(DOCUMENTED)
    known = plain(received)
    assert {"taskId", "status", "updateTime", "inputData", "outputData", "workflowTask"} <= set(known)
    for key in set(known) - {"workflowTask"}:
        assert document[key] == known[key], key
    names = {"name", "taskReferenceName"}
    assert {name: document["workflowTask"][name] for name in names} == known["workflowTask"]


def test_existing_conductor_stub_reads_our_errors(grpc_door: GrpcDoor) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        conductor_get_task(grpc_door.channel, UNKNOWN_ID)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details() == f"Task not found for taskId: {UNKNOWN_ID}"


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"status": "NOT_INVENTED_YET"}, "status"),
        ({"seq": 2**31}, "seq"),
        ({"updateTime": 2**63}, "updateTime"),
        ({"outputData": {"list": [1, {"n": 10**400}]}}, "outputData.list[1].n"),
    ],
    ids=["unknown status", "int32 overflow", "int64 overflow", "beyond a double"],
)
def test_what_the_schema_cannot_hold_is_refused_with_the_place(
    grpc_door: GrpcDoor, system: System, service: str, changes: dict[str, object], path: str
) -> None:
    """The typed call fails and says where; the document itself is still served."""
    task_id = new_id()
    document = task(task_id, **changes)
    put_row(system.database, task_id, document.decode())
    outcome, received = grpc_door.get_task(task_id, service)
    assert received is None
    assert ("DATA_LOSS", "ERROR_REASON_TASK_NOT_REPRESENTABLE", path) == (
        outcome.code,
        outcome.reason,
        outcome.metadata["path"],
    )
    assert grpc_door.get_task_json(task_id).document == document


def test_typed_task_too_large_for_a_message_is_refused(grpc_door: GrpcDoor, system: System) -> None:
    """A document that fits may be a typed message that does not: refused with its size, not a broken call."""
    task_id = new_id()
    put_row(system.database, task_id, task(task_id, outputData={"n": [1] * 3_500_000}).decode())
    outcome, received = grpc_door.get_task(task_id)
    assert received is None
    assert (outcome.code, outcome.reason) == ("INTERNAL", "ERROR_REASON_DOCUMENT_TOO_LARGE")
    assert grpc_door.get_task_json(task_id).status == 200


@pytest.mark.parametrize(
    ("task_id", "code", "reason"),
    [
        ("x", "INVALID_ARGUMENT", "ERROR_REASON_INVALID_TASK_ID"),
        ("", "INVALID_ARGUMENT", "ERROR_REASON_INVALID_TASK_ID"),
        (UNKNOWN_ID, "NOT_FOUND", "ERROR_REASON_TASK_NOT_FOUND"),
    ],
    ids=["malformed", "empty", "unknown"],
)
def test_grpc_errors_carry_their_reason(
    grpc_door: GrpcDoor, service: str, task_id: str, code: str, reason: str
) -> None:
    """Each gRPC error has the code of the table and an ErrorInfo with its reason, on both methods."""
    typed, _ = grpc_door.get_task(task_id, service)
    exact = grpc_door.get_task_json(task_id)
    assert (code, reason) == (typed.code, typed.reason) == (exact.code, exact.reason)


@pytest.mark.parametrize(
    ("stored", "code", "reason"),
    [
        ('{"taskId":"secret', "DATA_LOSS", "ERROR_REASON_DOCUMENT_UNREADABLE"),
        ('{"a":"' + "x" * 33_554_432 + '"}', "INTERNAL", "ERROR_REASON_DOCUMENT_TOO_LARGE"),
    ],
    ids=["unreadable", "too large"],
)
def test_bad_documents_carry_their_reason(
    grpc_door: GrpcDoor, system: System, stored: str, code: str, reason: str
) -> None:
    """What the store holds wrongly is told apart on both methods, with the ID and without the content."""
    task_id = new_id()
    put_row(system.database, task_id, stored)
    typed, _ = grpc_door.get_task(task_id)
    exact = grpc_door.get_task_json(task_id)
    assert (code, reason) == (typed.code, typed.reason) == (exact.code, exact.reason)
    assert typed.metadata["task_id"] == exact.metadata["task_id"] == task_id
    assert "secret" not in str(typed) + str(exact)


@pytest.mark.parametrize("request_bytes", [b"\xff", b"\x0a\x05abc", b"\x0a\x01\xff", b"\x08"], ids=repr)
def test_bytes_that_are_no_request_are_invalid_argument(
    grpc_door: GrpcDoor, service: str, request_bytes: bytes
) -> None:
    """A malformed request message is the caller's fault and says so."""
    outcome, _ = grpc_door.call(f"/{service}/GetTask", request_bytes, {})
    assert (outcome.code, outcome.reason) == ("INVALID_ARGUMENT", "ERROR_REASON_INVALID_REQUEST")


@pytest.mark.parametrize(
    "path",
    ["/taskgate.v1.TaskService/Nope", "/conductor.grpc.tasks.TaskService/Poll", "/no.such.Service/Call"],
)
def test_unknown_methods_are_unimplemented(grpc_door: GrpcDoor, path: str) -> None:
    """What this server does not do is UNIMPLEMENTED, through Envoy too."""
    outcome, _ = grpc_door.call(path, b"", {})
    assert outcome.code == "UNIMPLEMENTED"


# REST only ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["taskId=x", "task_id=x", "task%5Fid=x", "taskId", "a=b&c=d", "?", "%00"])
def test_query_cannot_change_the_task(rest_door: RestDoor | Http2Door, query: str) -> None:
    """A query string is ignored, whatever it says."""
    outcome = rest_door.get(f"/api/tasks/{DOCUMENTED_ID}?{query}")
    assert (outcome.status, outcome.document) == (200, DOCUMENTED_COMPACT)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_405_with_allow(rest_door: RestDoor | Http2Door, method: str) -> None:
    """The route exists, the method does not."""
    outcome = rest_door.get(f"/api/tasks/{DOCUMENTED_ID}", method=method)
    assert outcome.status == 405
    assert "GET" in outcome.headers["allow"]


def test_head_is_405_and_leaves_the_connection_usable(rest_door: RestDoor | Http2Door) -> None:
    """No body follows, which the next answer on the connection would be taken for."""
    outcome = rest_door.get(f"/api/tasks/{DOCUMENTED_ID}", method="HEAD")
    assert (outcome.status, outcome.headers["allow"]) == (405, "GET")
    assert rest_door.get_task_json(DOCUMENTED_ID).document == DOCUMENTED_COMPACT


@pytest.mark.parametrize("path", ["/", "/api", "/api/tasks", "/api/tasks/", f"/api/tasks/{DOCUMENTED_ID}/log", "/x"])
def test_other_paths_are_404(rest_door: RestDoor | Http2Door, path: str) -> None:
    """No such route."""
    assert rest_door.get(path).status == 404


def test_token_is_404_while_there_is_no_authentication(rest_door: RestDoor | Http2Door) -> None:
    """SDKs with keys take this as "go on without"."""
    assert rest_door.get("/api/token", method="POST").status == 404


def test_base_url_with_a_slash_works(rest_door: RestDoor | Http2Door) -> None:
    """SDKs that do not trim their base URL ask for //tasks."""
    assert rest_door.get(f"/api//tasks/{DOCUMENTED_ID}").document == DOCUMENTED_COMPACT


@pytest.mark.parametrize(
    "headers",
    [
        {"grpc_timeout": "1n"},
        {"x_bin": "!!!"},
        {"content_type": "application/grpc"},
        {"content_type": "text/plain", "accept": "text/html"},
        {"x_envoy_original_path": "/api/tasks/x"},
        {"x_envoy_upstream_rq_timeout_ms": "1"},
        {"grpc_encoding": "gzip"},
    ],
    ids=",".join,
)
def test_headers_cannot_spoil_a_rest_call(rest_door: RestDoor | Http2Door, headers: dict[str, str]) -> None:
    """Protocol headers of gRPC and Envoy from a REST caller are dropped; Accept and Content-Type never matter."""
    outcome = rest_door.get(f"/api/tasks/{DOCUMENTED_ID}", **headers)
    assert (outcome.status, outcome.document) == (200, DOCUMENTED_COMPACT)

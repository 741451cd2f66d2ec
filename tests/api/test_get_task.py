"""The answer for a task ID: one body of tests, every client.

Named exceptions: the typed ``Task`` has no REST form, so its tests have no REST clients; ``ErrorInfo`` exists on gRPC
only, where REST has the four keys of Conductor's error body.
"""

import gzip
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

from support.clients import CLIENTS, Client, GrpcClient, Http2Client, RestClient, open_client
from support.conductor_stub import conductor_get_task
from support.documents import (
    DOCUMENTED,
    DOCUMENTED_COMPACT,
    DOCUMENTED_ID,
    UNKNOWN_ID,
    put_row,
    task,
)
from support.full_task import plain
from support.running import System, eventually


def refused_by_envoy(client: Client, task_id: str) -> bool:
    """Envoy treats NUL and encoded slashes of both kinds as attacks and answers 400 itself, before any route."""
    return isinstance(client, RestClient | Http2Client) and any(character in task_id for character in "\0/\\")


def new_id() -> str:
    return str(uuid.uuid4())


def test_documented_task_comes_back_byte_for_byte(client: Client) -> None:
    """The documented task, without its insignificant whitespace and otherwise unchanged."""
    outcome = client.get_task_json(DOCUMENTED_ID)
    assert (outcome.status, outcome.document) == (200, DOCUMENTED_COMPACT)


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


def test_stored_document_is_returned_exactly(client: Client, system: System, subtests: pytest.Subtests) -> None:
    """Whatever is legal JSON comes back as it was stored, to every client."""
    for name, template in EXACT.items():
        task_id = new_id()
        document = template % task_id.encode()
        put_row(system.database, task_id, document.decode())
        with subtests.test(name):
            outcome = client.get_task_json(task_id)
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


def test_malformed_id_is_400(client: Client, subtests: pytest.Subtests) -> None:
    """A task ID that is not a UUID is refused with a message that says so."""
    for name, task_id in MALFORMED.items():
        with subtests.test(name):
            outcome = client.get_task_json(task_id)
            assert outcome.status == 400
            assert len(outcome.message) < 400
            if not refused_by_envoy(client, task_id):
                assert outcome.message.startswith("Invalid task ID")
                assert "UUID" in outcome.message


def test_id_that_is_not_utf8_is_400_and_named(client: Client, subtests: pytest.Subtests) -> None:
    """The sentence speaks of the task ID, and of no message that REST callers never see."""
    for raw, shown in ((b"\xff", r"'\xff'"), (b"a\xc3", r"'a\xc3'"), (b"\xed\xa0\x80", r"'\xed\xa0\x80'")):
        if isinstance(client, GrpcClient):
            request = b"\x0a" + bytes([len(raw)]) + raw
            methods = (*(f"/{service}/GetTask" for service in SERVICES), "/taskgate.v1.TaskService/GetTaskJson")
            outcomes = [client.call(method, request, {})[0] for method in methods]
        else:
            outcomes = [client.get("/api/tasks/" + "".join(f"%{byte:02X}" for byte in raw))]
        for outcome in outcomes:
            with subtests.test(shown):
                assert (outcome.status, outcome.message) == (400, f"Invalid task ID {shown}: it is not UTF-8")
                assert outcome.reason in {None, "ERROR_REASON_INVALID_TASK_ID"}


def test_log_says_which_setting_takes_a_refused_id(client: Client, system: System) -> None:
    """Installations with their own IDs find it in the call's log line; the caller, who has no settings, does not."""
    task_id = f"fd7s88646e5a-4a9e-11f0-{client.name}"
    outcome = client.get_task_json(task_id)
    assert outcome.status == 400
    assert "--task-id-format" not in outcome.message
    (line,) = eventually(lambda: [call for call in system.events("call") if call["task_id"] == task_id], "its line")
    assert line["error"] == f"{outcome.message}; --task-id-format any takes other IDs"


def test_unknown_id_is_404_in_conductors_words(client: Client) -> None:
    """A well-formed ID without a task: Conductor's status and message."""
    outcome = client.get_task_json(UNKNOWN_ID)
    assert (404, f"Task not found for taskId: {UNKNOWN_ID}") == (outcome.status, outcome.message)


def test_ids_are_compared_exactly(client: Client, system: System) -> None:
    """The stored ID in other letters is another ID, as in Conductor."""
    task_id = new_id().upper()
    put_row(system.database, task_id, task(task_id).decode())
    assert client.get_task_json(task_id).status == 200
    assert client.get_task_json(task_id.lower()).status == 404


UNREADABLE = {
    "not JSON": "garbage secret",
    "cut": '{"taskId":"secret',
    "a list": "[]",
    "empty": "",
    "number": 5,
    "not UTF-8": b'{"a":"\xff"}',
    "too deep": '{"a":' + "[" * 2000 + "]" * 2000 + "}",
}


def test_unreadable_row_is_500_without_its_content(client: Client, system: System, subtests: pytest.Subtests) -> None:
    """A stored value that is no document is data loss: the message has the ID and nothing of the value."""
    for name, stored in UNREADABLE.items():
        task_id = new_id()
        put_row(system.database, task_id, stored)
        with subtests.test(name):
            outcome = client.get_task_json(task_id)
            assert (500, f"The stored document of task {task_id} cannot be read") == (outcome.status, outcome.message)


def test_large_document_comes_back_exactly(client: Client, system: System, subtests: pytest.Subtests) -> None:
    """Documents of megabytes reach every client unchanged."""
    for size in (100_000, 10 * 1024 * 1024):
        task_id = new_id()
        document = task(task_id, outputData={"text": "x" * size})
        put_row(system.database, task_id, document.decode())
        with subtests.test(f"{size} bytes"):
            outcome = client.get_task_json(task_id)
            assert (outcome.status, outcome.document == document) == (200, True)


def test_largest_document_passes_and_a_larger_one_is_refused(client: Client, system: System) -> None:
    """32 MiB less the room for framing is the limit; beyond it, the refusal names both sizes."""
    limit = 32 * 1024 * 1024 - 4096
    for extra in (0, 1):
        task_id = new_id()
        frame = len(task(task_id, outputData={"text": ""}))
        document = task(task_id, outputData={"text": "x" * (limit - frame + extra)})
        put_row(system.database, task_id, document.decode())
        outcome = client.get_task_json(task_id)
        if extra == 0:
            assert (outcome.status, outcome.document == document) == (200, True)
        else:
            assert outcome.status == 500
            assert str(limit + 1) in outcome.message
            assert str(limit) in outcome.message


def test_200_concurrent_callers(system: System) -> None:
    """200 callers at once, spread over all clients, each get the right answer."""

    def ask(number: int) -> bytes:
        client = open_client(CLIENTS[number % len(CLIENTS)], system.http, system.grpc)
        try:
            answers = {client.get_task_json(DOCUMENTED_ID).document for _ in range(5)}
            assert client.get_task_json(UNKNOWN_ID).status == 404
        finally:
            client.close()
        (answer,) = answers
        return answer

    with ThreadPoolExecutor(200) as pool:
        assert {DOCUMENTED_COMPACT} == set(pool.map(ask, range(200)))


def test_long_ids_are_unknown_as_in_conductor(
    any_id_client: Client, any_id_system: System, subtests: pytest.Subtests
) -> None:
    """With --task-id-format any, an ID longer than any column is still an ID, unknown until a task has it.

    Messages name 1,024 bytes of it: there are limits on headers, which hold errors of gRPC. They name it in its own
    letters, of any alphabet.
    """
    for task_id in ("日本 %41 ü", "x" * 256, "x" * 1024, "é😀" * 170, "x" * 5000, "\u20ac" * 3000):
        named = task_id if len(task_id.encode()) <= 1024 else task_id.encode()[:1024].decode(errors="ignore") + "…"
        stored = task_id + any_id_client.name
        put_row(any_id_system.database, stored, "{}")
        with subtests.test(f"{task_id[:9]}, {len(task_id)} characters"):
            outcome = any_id_client.get_task_json(task_id)
            assert (404, f"Task not found for taskId: {named}") == (outcome.status, outcome.message)
            assert any_id_client.get_task_json(stored).document == b"{}"


def test_any_format_still_refuses_control_characters(any_id_client: Client, subtests: pytest.Subtests) -> None:
    """With control characters, an ID is malformed in every format."""
    for task_id in ("a\x00b", "a\nb", "a\x7fb"):
        with subtests.test(ascii(task_id)):
            outcome = any_id_client.get_task_json(task_id)
            assert outcome.status == 400
            assert refused_by_envoy(any_id_client, task_id) or outcome.message.startswith("Invalid task ID")


@settings(derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(task_id=st.text(min_size=1, max_size=255))
@example("..")
@example(".")
@example("%2e%2e")
@example("\ufeff")
@example("a" * 254 + "\U0001f600")
@example("a b")
@example("tâche-😀")
@example("e\u0301")
@example("a:b;c,d=e&f+g@h!i$j'k(l)m*n~o")
@example("100%41")
@example("a?b#c")
@example("a\\b")
@example("a/b")
@example("\"'`{a}[b]<c>")
@example("a.b")
def test_any_text_is_an_id_of_its_own(any_id_client: Client, any_id_system: System, task_id: str) -> None:
    """With --task-id-format any, every text without control characters names its task; the rest is malformed.

    Percent-encoding is undone exactly once.

    Named exceptions over REST: slashes and backslashes are refused, and "." and ".." are steps in a path to HTTP.
    """
    document = task(task_id)
    put_row(any_id_system.database, task_id, document.decode())
    outcome = any_id_client.get_task_json(task_id)
    malformed = any(unicodedata.category(character) == "Cc" for character in task_id)
    if malformed or refused_by_envoy(any_id_client, task_id):
        assert outcome.status == 400
    elif task_id in {".", ".."} and not isinstance(any_id_client, GrpcClient):
        assert outcome.status == 404
    else:
        assert (200, document) == (outcome.status, outcome.document)


# REST only: paths and versions of HTTP --------------------------------------------------------------------------------


def test_http_1_0_is_answered(system: System, subtests: pytest.Subtests) -> None:
    """As nginx sends requests by default; the connection then ends, as HTTP/1.0 requires."""
    address, _, port = system.http.rpartition(":")
    for path, status, found in (
        (f"/api/tasks/{DOCUMENTED_ID}", 200, DOCUMENTED_COMPACT),
        (f"/api/tasks/{UNKNOWN_ID}", 404, b"Task not found for taskId"),
        ("/healthz", 200, b'{"healthy":true}'),
        ("/nothing", 404, b"No such route"),
    ):
        for host in ("", "host: tasks.example\r\n"):
            with (
                subtests.test(path, host=host),
                socket.create_connection((address, int(port)), 30) as connection,
            ):
                connection.sendall(f"GET {path} HTTP/1.0\r\n{host}connection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda c=connection: c.recv(65536), b""))
                head, _, body = answer.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.0 %d " % status)
                assert b"transfer-encoding" not in head.lower()
                assert found in body
                assert b"content-length: %d\r\n" % len(body) in head.lower() + b"\r\n"


def test_query_and_head_pass_the_whole_way(rest_client: RestClient | Http2Client) -> None:
    """Only the path names the task, and HEAD leaves no body behind for the next answer to begin with.

    The gateway's own tests have all queries, methods, headers and other paths.
    """
    assert rest_client.get(f"/api/tasks/{DOCUMENTED_ID}?taskId=x").document == DOCUMENTED_COMPACT
    refused = rest_client.get(f"/api/tasks/{DOCUMENTED_ID}", method="HEAD")
    assert (refused.status, refused.headers["allow"]) == (405, "GET")
    assert rest_client.get_task_json(DOCUMENTED_ID).document == DOCUMENTED_COMPACT


# gRPC only: the typed task and error details -----------------------------------------------------------------------


SERVICES = ("taskgate.v1.TaskService", "conductor.grpc.tasks.TaskService")
"""Our service, and Conductor's name for it."""

PAYLOADS = {"inputData", "outputData", "inputParameters", "metadata"}
"""Keys whose values are arbitrary JSON."""


def set_in_proto3(value: Any, key: str = "") -> Any:
    """``value`` without what a proto3 message does not show: zeros, empty lists and maps, null; payloads are kept."""
    if not isinstance(value, dict) or key in PAYLOADS:
        return value
    return {inner: set_in_proto3(value[inner], inner) for inner in value if value[inner] not in (None, 0, "", [], {})}


def test_typed_task_equals_the_document(grpc_client: GrpcClient) -> None:
    """Field by field, payloads included, the typed task is the document, under both service names."""
    expected = set_in_proto3(json.loads(DOCUMENTED))
    expected["workflowTask"]["retryCount"] = -1  # Conductor's sign for a step that gives none (``ProtoMapper``)
    for service in SERVICES:
        outcome, received = grpc_client.get_task(DOCUMENTED_ID, service)
        assert (service, outcome.code, plain(received)) == (service, "OK", expected)
        assert not received.HasField("task_definition")
        assert not received.HasField("reason_for_incompletion")


def test_existing_conductor_stub_gets_the_task(grpc_client: GrpcClient) -> None:
    """A client with Conductor's descriptors and without ours, calling Conductor's path."""
    received = conductor_get_task(grpc_client.channel, DOCUMENTED_ID)
    assert received.DESCRIPTOR.full_name == "conductor.proto.Task"
    document = json.loads(DOCUMENTED)
    known = plain(received)
    assert {"taskId", "status", "updateTime", "inputData", "outputData", "workflowTask"} <= set(known)
    for key in set(known) - {"workflowTask"}:
        assert document[key] == known[key], key
    names = {"name", "taskReferenceName"}
    assert {name: document["workflowTask"][name] for name in names} == known["workflowTask"]


def test_existing_conductor_stub_reads_our_errors(grpc_client: GrpcClient) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        conductor_get_task(grpc_client.channel, UNKNOWN_ID)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details() == f"Task not found for taskId: {UNKNOWN_ID}"


def test_what_the_schema_cannot_hold_is_refused_with_the_place(
    grpc_client: GrpcClient, system: System, subtests: pytest.Subtests
) -> None:
    """The typed call fails and names the place; the document itself is still served."""
    rows: dict[str, dict[str, object]] = {
        "status": {"status": "NOT_INVENTED_YET"},
        "seq": {"seq": 2**31},
        "updateTime": {"updateTime": 2**63},
        "outputData.list[1].n": {"outputData": {"list": [1, {"n": 10**400}]}},
    }
    for path, changes in rows.items():
        task_id = new_id()
        document = task(task_id, **changes)
        put_row(system.database, task_id, document.decode())
        for service in SERVICES:
            with subtests.test(path, service=service):
                outcome, received = grpc_client.get_task(task_id, service)
                assert received is None
                told = (outcome.code, outcome.reason, outcome.metadata["path"])
                assert told == ("DATA_LOSS", "ERROR_REASON_TASK_NOT_REPRESENTABLE", path)
                assert grpc_client.get_task_json(task_id).document == document


def test_typed_task_too_large_for_a_message_is_refused(grpc_client: GrpcClient, system: System) -> None:
    """A document that fits may be a typed message that does not: refused with its size, not a broken call."""
    task_id = new_id()
    # Numbers take six times as much in a message. The text is most of it: every number takes time to convert.
    put_row(system.database, task_id, task(task_id, outputData={"n": [1] * 200_000, "text": "x" * 32_000_000}).decode())
    outcome, received = grpc_client.get_task(task_id)
    assert received is None
    assert (outcome.code, outcome.reason) == ("INTERNAL", "ERROR_REASON_DOCUMENT_TOO_LARGE")
    assert grpc_client.get_task_json(task_id).status == 200


def test_grpc_errors_carry_their_reason(grpc_client: GrpcClient, subtests: pytest.Subtests) -> None:
    """Each gRPC error has the code of the table and one ErrorInfo with its reason, on both methods."""
    for task_id, code, reason in (
        ("x", "INVALID_ARGUMENT", "ERROR_REASON_INVALID_TASK_ID"),
        ("", "INVALID_ARGUMENT", "ERROR_REASON_INVALID_TASK_ID"),
        (UNKNOWN_ID, "NOT_FOUND", "ERROR_REASON_TASK_NOT_FOUND"),
    ):
        for service in SERVICES:
            with subtests.test(task_id, service=service):
                typed, _ = grpc_client.get_task(task_id, service)
                exact = grpc_client.get_task_json(task_id)
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
    grpc_client: GrpcClient, system: System, stored: str, code: str, reason: str
) -> None:
    """Wrong contents of the store are distinguished on both methods, with the ID and without the content."""
    task_id = new_id()
    put_row(system.database, task_id, stored)
    typed, _ = grpc_client.get_task(task_id)
    exact = grpc_client.get_task_json(task_id)
    assert (code, reason) == (typed.code, typed.reason) == (exact.code, exact.reason)
    assert typed.metadata["task_id"] == exact.metadata["task_id"] == task_id
    assert "secret" not in str(typed) + str(exact)


def test_bytes_that_are_no_request_are_invalid_argument(grpc_client: GrpcClient, subtests: pytest.Subtests) -> None:
    """A malformed request message is the caller's fault and says so."""
    compressed = gzip.compress(b"\x0a\x01x")  # by the caller's own code: to gRPC, a message like any other
    for method in (*(f"{service}/GetTask" for service in SERVICES), "taskgate.v1.TaskService/GetTaskJson"):
        for message in (b"\xff", b"\xff\xff\xff", b"\x0a\x05abc", b"\x08", compressed):
            with subtests.test(method, message=message):
                outcome, _ = grpc_client.call(f"/{method}", message, {})
                assert (outcome.code, outcome.reason) == ("INVALID_ARGUMENT", "ERROR_REASON_INVALID_REQUEST")


def test_unknown_methods_are_unimplemented(grpc_client: GrpcClient, subtests: pytest.Subtests) -> None:
    """Methods that this server does not have are UNIMPLEMENTED, through Envoy too."""
    for path in (
        "/taskgate.v1.TaskService/Nope",
        "/taskgate.v1.TaskService/GetTask/",
        "/TASKGATE.V1.TASKSERVICE/GETTASK",
        "/conductor.grpc.tasks.TaskService/Poll",
        "/no.such.Service/GetTask",
        "/Nope/GetTaskJson",
        "/",
        "/a/b/c",
    ):
        with subtests.test(path):
            outcome, _ = grpc_client.call(path, b"", {})
            assert outcome.code == "UNIMPLEMENTED"
            assert outcome.message

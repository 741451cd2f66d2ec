"""Who may read, asked at every front door: keys of our own, tokens of an identity provider, roles and masks.

Every log line of these runs is searched for the secrets and tokens that were used.
"""

import base64
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from api.conftest import MODES
from gateway.wire import PROTOCOLS, ask_over
from support.access import Credentials, change, create_keys, minter_of
from support.clients import CLIENTS, Client, GrpcClient, Http2Client, Outcome, RestClient, open_client
from support.documents import task
from support.key_server import KeyServer, body, key_set, running_key_server
from support.load import in_threads, rested
from support.raw_grpc import GET_TASK_JSON, RawGrpc, request_for
from support.running import Running, System, eventually, running_system
from support.tokens import EXPIRED, HOSTILE, WRONG_AUDIENCE, Minter
from taskgate.access.hashing import hash_secret
from taskgate.access.keyring import new_secret, with_changed_key, with_signing_key
from taskgate.access.roles import Role
from taskgate.access.signing import new_signing_key
from taskgate.base.addresses import Address
from taskgate.stores import open_writer
from taskgate.stores.base import StoredTask
from taskgate.transports.reflection import PATHS
from taskgate.v1.task_service_pb2 import GetTaskRequest
from taskgate.v1.token_service_pb2 import CreateTokenRequest, CreateTokenResponse

INVOICE, OTHER = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
ABSENT = "00000000-0000-4000-8000-000000000003"
CONTENT = "the content of the task"
DOCUMENTS = {
    INVOICE: task(INVOICE, workflowType="invoice", inputData={"password": CONTENT, "n": 1}, outputData={}),
    OTHER: task(OTHER, workflowType="other", inputData={"note": CONTENT}, outputData={}),
}
MASKED = DOCUMENTS[INVOICE].replace(f'"{CONTENT}"'.encode(), b'"***"')

INVALID = "The token is not valid"
MISSING = "The call needs a token: the bare token in x-authorization, or 'Bearer' and the token in authorization"
CREATE_TOKEN = "/taskgate.v1.TokenService/CreateToken"  # noqa: S105 - a path
LOCAL = "127.0.0.1"
RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAUTHENTICATED = 8, 12, 16


@dataclass
class Gated:
    """A running system that asks for tokens."""

    system: System
    minter: Minter
    keys: dict[str, Credentials] = field(default_factory=dict)
    auth_store: str = ""
    provider: KeyServer | None = None
    said: set[str] = field(default_factory=set)
    """Secrets and tokens that were sent."""

    def token(self, name: str = "reader", **claims: Any) -> str:
        """A token of the key ``name``."""
        return self.note(self.minter.token(sub=self.keys[name].key_id, **claims))

    def note(self, token: str) -> str:
        self.said.add(token)
        return token


def store_of_tasks(folder: Path) -> Path:
    database = folder / "tasks.db"
    with open_writer(f"sqlite:///{database}") as writer:
        writer.write([StoredTask(task_id, 1, document) for task_id, document in DOCUMENTS.items()])
    return database


@pytest.fixture(scope="package")
def keyed(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    """``taskgate up --auth keys`` with two workers."""
    folder = tmp_path_factory.mktemp("keys")
    url = f"sqlite:///{folder}/keys.db"
    keys = create_keys(
        url,
        reader=(Role.READER, None),
        admin=(Role.UNMASKED_READER, None),
        limited=(Role.UNMASKED_READER, ("invoice", "refund")),
        guessed=(Role.READER, None),
        disabled=(Role.READER, None),
        rotated=(Role.READER, None),
        wrong=(Role.READER, None),
    )
    options = ("--auth", "keys", "--auth-store", url, "--mask", "password", "--access-log", f"{folder}/access.log")
    with running_system(store_of_tasks(folder), *options, mode=mode, workers=2) as system:
        minter = minter_of(url, keys["reader"].key_id)
        gated = Gated(system, minter, keys, url)
        gated.said |= {key.secret for key in keys.values()}
        yield gated
        logged = "\n".join([*system.out, *system.log, (folder / "access.log").read_text()])
        assert '"event":"call"' in logged
        assert not [said for said in gated.said if len(said) > 20 and said in logged]
        assert "PRIVATE KEY" not in logged
        assert "Traceback" not in logged


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest, keyed: Gated) -> Iterator[Client]:
    opened = open_client(request.param, keyed.system.http, keyed.system.grpc)
    yield opened
    opened.close()


def ask(client: Client, task_id: str = INVOICE, **headers: str) -> list[Outcome]:
    """Ask for a task as a document and, over gRPC, also as a typed message."""
    outcomes = [client.get_task_json(task_id, **headers)]
    if isinstance(client, GrpcClient):
        outcomes.append(client.get_task(task_id, **headers)[0])
    return outcomes


def check_refusal(outcome: Outcome, kind: str, message: str) -> None:
    """The same refusal at every front door: 401 with ``error``, or UNAUTHENTICATED with the reason."""
    assert (outcome.status, outcome.message) == (401, message)
    if outcome.code is None:
        assert outcome.error == {"INVALID": "INVALID_TOKEN", "EXPIRED": "EXPIRED_TOKEN"}[kind]
        assert outcome.headers["www-authenticate"] == "Bearer"
    else:
        assert (outcome.code, outcome.reason) == ("UNAUTHENTICATED", f"ERROR_REASON_TOKEN_{kind}")


def audited(gated: Gated, since: int, count: int) -> list[dict[str, Any]]:
    """The ``count`` audit lines from line ``since`` of the log on."""
    find = lambda: gated.system.events("read denied", since)  # noqa: E731
    lines: list[dict[str, Any]] = eventually(lambda: len(find()) >= count and find(), "audit lines")
    assert len(lines) == count
    return lines


def check_hostile(gated: Gated, client: Client, tokens: dict[str, Callable[[Minter], str]]) -> None:
    """Each is refused alike, in one header or the other: 600 refusals a minute are allowed."""
    wrong = {}
    for number, (name, make) in enumerate(tokens.items()):
        token = gated.note(make(gated.minter))
        header = {"x_authorization": token} if number % 2 else {"authorization": f"Bearer {token}"}
        outcome = client.get_task_json(INVOICE, **header)
        try:
            check_refusal(outcome, "INVALID", INVALID)
        except AssertionError:
            wrong[name, *header] = outcome
    assert not wrong


class TestTokens:
    """Each front door, typed and as a document."""

    def test_a_valid_token_reads(self, keyed: Gated, client: Client) -> None:
        """In each of the headers; the scheme in either case."""
        token = keyed.token("admin")
        for headers in (
            {"x_authorization": token},
            {"authorization": f"Bearer {token}"},
            {"authorization": f"bearer {token}"},
            {"authorization": f"BEARER {token}"},
            {"x_authorization": token, "authorization": "Basic dXNlcjpwYXNz"},
        ):
            outcomes = ask(client, **headers)
            assert outcomes[0].document == DOCUMENTS[INVOICE], (headers.keys(), outcomes)
            assert {outcome.status for outcome in outcomes} == {200}

    def test_no_token_is_refused(self, keyed: Gated, client: Client) -> None:
        """Whether the task is there or not."""
        for task_id in (INVOICE, ABSENT, "no-uuid"):
            for headers in ({}, {"authorization": "Basic dXNlcjpwYXNz"}, {"cookie": f"token={keyed.token()}"}):
                for outcome in ask(client, task_id, **headers):
                    check_refusal(outcome, "INVALID", MISSING)

    def test_each_refusal_is_logged(self, keyed: Gated, client: Client) -> None:
        """By the service or, in front of servers, by Envoy, under the request ID that the caller gets."""
        by_envoy = keyed.system.mode == "proxied" and client.name != "grpc"
        event = "call refused by Envoy" if by_envoy else "call"
        token = keyed.note("no token, but a text that is long enough to be found in a log")
        sent = {"authorization": f"Bearer {token}", "x_envoy_original_method": "FORGED"}
        seen = client.get_task_json(ABSENT, **sent).headers["x-request-id"]
        find = lambda: [line for line in keyed.system.events(event) if line["request_id"] == seen]  # noqa: E731
        (line,) = eventually(find, f"the log line of {seen}")
        if by_envoy:
            assert line["token"].startswith("Jwt is not in the form")
            assert line["method"] == ("GET" if client.name.startswith("rest") else "POST")
            assert (line["address"], line["level"]) == ("127.0.0.1", "info")
            assert line["details"].startswith("rbac_access_denied")
            assert ABSENT in line["path"] or client.name.startswith("grpc")

    def test_two_different_tokens_are_refused(self, keyed: Gated, client: Client) -> None:
        """Whichever is valid; the same one twice is one."""
        token = keyed.token("admin")
        for other in ("", "no.to.ken", keyed.token("reader"), token):
            for headers in (
                {"x_authorization": token, "authorization": f"Bearer {other or 'x'}"},
                {"x_authorization": other, "authorization": f"Bearer {token}"},
            ):
                outcome = client.get_task_json(INVOICE, **headers)
                if other == token:
                    assert outcome.status == 200
                else:
                    check_refusal(outcome, "INVALID", INVALID)

    def test_every_method_asks_for_a_token(self, keyed: Gated) -> None:
        """Also those that no client here uses."""
        for address in (keyed.system.grpc, keyed.system.http):
            client = GrpcClient("grpc", address)
            for path in (
                "/taskgate.v1.TaskService/GetTask",
                "/taskgate.v1.TaskService/GetTaskJson",
                "/taskgate.v1.TaskService/StreamTaskJson",
                "/conductor.grpc.tasks.TaskService/GetTask",
            ):
                request = GetTaskRequest(task_id=INVOICE).SerializeToString()
                check_refusal(client.call(path, request, {})[0], "INVALID", MISSING)
                for forged in ("x_envoy_original_path", "x_taskgate_peer"):
                    refused, _ = client.call(path, request, {forged: "/grpc.health.v1.Health/Check"})
                    check_refusal(refused, "INVALID", MISSING)
            client.close()

    def test_hostile_tokens_are_refused(self, keyed: Gated, client: Client) -> None:
        check_hostile(keyed, client, HOSTILE)
        for outcome in ask(client, x_authorization=keyed.note(HOSTILE["none"](keyed.minter))):
            check_refusal(outcome, "INVALID", INVALID)

    def test_expired_tokens_are_refused_as_such(self, keyed: Gated, client: Client) -> None:
        for make in EXPIRED.values():
            for outcome in ask(client, x_authorization=keyed.note(make(keyed.minter))):
                check_refusal(outcome, "EXPIRED", "The token has expired; get a new one")

    def test_masks_hold_for_readers_and_not_for_unmasked_readers(self, keyed: Gated, client: Client) -> None:
        assert client.get_task_json(INVOICE, x_authorization=keyed.token("reader")).document == MASKED
        assert client.get_task_json(INVOICE, x_authorization=keyed.token("admin")).document == DOCUMENTS[INVOICE]
        if isinstance(client, GrpcClient):
            _, typed = client.get_task(INVOICE, x_authorization=keyed.token("reader"))
            assert typed.input_data["password"].string_value == "***"

    def test_a_forbidden_task_is_denied_and_audited(self, keyed: Gated, client: Client) -> None:
        """The caller learns nothing of its content; a task that is not there is not found."""
        token = keyed.token("limited")
        assert client.get_task_json(INVOICE, x_authorization=token).document == DOCUMENTS[INVOICE]
        assert client.get_task_json(ABSENT, x_authorization=token).status == 404
        before = len(keyed.system.log)
        outcomes = ask(client, OTHER, x_authorization=token)
        for outcome in outcomes:
            assert (outcome.status, outcome.message) == (403, "The key may not read this task")
            assert outcome.reason in {None, "ERROR_REASON_PERMISSION_DENIED"}
            assert CONTENT not in repr(outcome)
        for line in audited(keyed, before, len(outcomes)):
            assert (line["caller"], line["task_id"], line["address"]) == ("limited", OTHER, LOCAL)
            assert line["reason"] == "it is of workflow type 'other'"
        assert CONTENT not in "".join(keyed.system.log)


class TestRefusals:
    """How refused tokens, and requests for tokens that are no use, are answered by Envoy or the service."""

    def test_refused_tokens_are_limited(self, keyed: Gated) -> None:
        """600 of an address in a minute, by Envoy or the service; then 429 with a time to wait. Valid tokens go on."""
        rest = http.client.HTTPConnection(keyed.system.http, timeout=30, source_address=("127.0.0.3", 0))

        def ask_with(token: str) -> tuple[http.client.HTTPResponse, Any]:
            rest.request("GET", f"/api/tasks/{ABSENT}", headers={"x-authorization": token})
            answer = rest.getresponse()
            return answer, json.loads(answer.read())

        refused = 0
        while (last := ask_with("no token"))[0].status == 401:
            refused += 1
            assert refused < 3000, "never limited"
        answer, error = last
        assert refused >= 600
        assert (answer.status, error["retryable"]) == (429, True)
        seconds = answer.headers["retry-after"]
        assert error["message"] == f"Too many refused attempts; try again in {seconds} s"
        assert 1 <= int(seconds) <= 60
        assert ask_with(keyed.token())[0].status == 404
        rest.close()
        with RawGrpc(keyed.system.http, source="127.0.0.3") as connection:
            call = lambda: connection.call(request_for(ABSENT), GET_TASK_JSON, ("x-authorization", "x"))  # noqa: E731
            while (limited := call()).grpc_status == UNAUTHENTICATED:
                refused += 1
                assert refused < 6000, "never limited"
            assert limited.grpc_status == RESOURCE_EXHAUSTED
            assert limited.message.startswith("Too many refused attempts; try again in ")
        elsewhere = RestClient("rest", keyed.system.http)
        check_refusal(elsewhere.get_task_json(ABSENT), "INVALID", MISSING)
        elsewhere.close()

    def test_the_mark_of_a_verified_token_cannot_be_forged(self, keyed: Gated, client: Client) -> None:
        """In front of servers, Envoy marks verified calls with this header."""
        for value in ("taskgate", ""):
            for outcome in ask(client, x_taskgate_verified=value):
                check_refusal(outcome, "INVALID", MISSING)

    def test_a_late_or_broken_request_for_a_token_is_answered_in_json(
        self, mode: str, started: Callable[..., System], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """As other late requests are, over HTTP/1.1 and HTTP/2; one that says it is gRPC gets gRPC's status."""
        url = f"sqlite:///{tmp_path_factory.mktemp('late')}/keys.db"
        create_keys(url, reader=(Role.READER, None))
        system = started(mode, "--auth", "keys", "--auth-store", url, "--request-timeout", "2", workers=1)
        late = (408, "The request took too long to arrive; try again", True)
        malformed = (400, "Malformed HTTP request", False)
        form_of_body = "a JSON object with the texts keyId and keySecret, and perhaps the whole number expiration"
        unreadable = (400, f"The body is not {form_of_body}", False)
        large = (413, "The request body is too large", False)
        json_type, form, grpc_type = "application/json", "application/x-www-form-urlencoded", "application/grpc"
        cases: list[tuple[str, list[bytes], tuple[int, str, bool]]] = [
            (f"content-type: {json_type}\r\ncontent-length: 90", [], late),
            (f"content-type: {json_type}\r\ncontent-length: 90", [b'{"keyId":"'], late),
            ("content-length: 90", [b'{"keyId":"'], late),
            (f"content-type: {json_type}\r\ntransfer-encoding: chunked", [], late),
            (f"content-type: {json_type}\r\ntransfer-encoding: chunked", [b'a\r\n{"keyId":"\r\n'], late),
            (f"content-type: {json_type}\r\ntransfer-encoding: chunked", [b'a\r\n{"keyId":"\r\n0\r\n\r\n'], unreadable),
            (f"content-type: {json_type}\r\ntransfer-encoding: chunked", [b"no length\r\n"], malformed),
            (f"content-type: {form}\r\ncontent-length: 9", [b"keyId=abc"], unreadable),
            (f"content-type: {json_type}\r\ncontent-length: 17000", [b"x" * 17_000], large),
            (f"content-type: {json_type}\r\ntransfer-encoding: chunked", [b"4268\r\n", b"x" * 0x4268], large),
        ]
        host, _, port = system.http.rpartition(":")
        with ExitStack() as opened:  # all at once: those that are late take three seconds
            waiting = []
            for headers, parts, expected in cases:
                connection = opened.enter_context(socket.create_connection((host, int(port)), timeout=30))
                connection.sendall(
                    f"POST /api/token HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n".encode() + b"".join(parts)
                )
                waiting.append((connection, headers, expected))
            http2 = opened.enter_context(RawGrpc(system.http))
            streams = [http2.open("/api/token", content_type=json_type, without=["te"]) for _ in range(2)]
            http2.data(streams[0], b'{"keyId":"')
            cut = socket.create_connection((host, int(port)), timeout=30)
            cut.sendall(b"POST /api/token HTTP/1.1\r\nhost: x\r\ncontent-length: 90\r\n\r\n{")
            cut.close()
            with RawGrpc(system.http) as grpc_caller:
                says_grpc = grpc_caller.open("/api/token", content_type=grpc_type)
                assert grpc_caller.answer(says_grpc).grpc_status == UNIMPLEMENTED
            for connection, headers, expected in waiting:
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                error = json.loads(answer.read())
                assert (answer.status, error["message"], error["retryable"]) == expected, headers
                assert error["status"] == answer.status
            for stream in streams:
                answered = http2.answer(stream)
                assert (answered.one(":status"), json.loads(answered.body)["message"]) == ("408", late[1])
                assert answered.grpc_status is None
        over_http1 = http.client.HTTPConnection(system.http, timeout=30)
        over_http1.request("POST", "/api/token", b"{}", {"content-type": grpc_type})
        spoken = over_http1.getresponse()
        assert (spoken.read(), spoken.headers["grpc-status"]) == (b"", str(UNIMPLEMENTED))
        over_http1.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_cache_may_keep_an_answer(keyed: Gated, protocol: str) -> None:
    """Whoever answers, with whichever status: to a cache, X-Authorization is a header like any other."""
    ask = ask_over(protocol, Address.parse(keyed.system.http))
    credentials = json.dumps(keyed.keys["reader"].request).encode()
    requests: list[tuple[int, str, str, str, bytes | None]] = [
        (200, "GET", f"/api/tasks/{INVOICE}", keyed.token("limited"), None),
        (403, "GET", f"/api/tasks/{OTHER}", keyed.token("limited"), None),
        (404, "GET", f"/api/tasks/{ABSENT}", keyed.token("limited"), None),
        (400, "GET", "/api/tasks/no-uuid", keyed.token("limited"), None),
        (401, "GET", f"/api/tasks/{INVOICE}", "no token", None),
        (405, "HEAD", f"/api/tasks/{INVOICE}", "no token", None),
        (404, "GET", "/api/tasks/search", "no token", None),
        (404, "GET", "/anything", "no token", None),
        (400, "GET", "/api/tasks/a%2Fb", "no token", None),
        (200, "GET", "/healthz", "no token", None),
        (200, "POST", "/api/token", "no token", credentials),
        (400, "POST", "/api/token", "no token", b"{}"),
        (405, "GET", "/api/token", "no token", None),
        (413, "POST", "/api/token", "no token", b"x" * 20_000),
    ]
    for status, method, path, token, content in requests:
        sent = ask(path, method=method, headers=[("x-authorization", token)], body=content)
        assert (sent.status, sent.header("cache-control")) == (status, "no-store"), (method, path)
        if path == "/api/token" and status == 200:
            keyed.note(sent.json["token"])


class TestOpen:
    """What needs no token."""

    def test_health_and_reflection(self, keyed: Gated) -> None:
        for address in (keyed.system.grpc, keyed.system.http):
            client = GrpcClient("grpc", address)
            for path in PATHS:
                listed = services(client, path)
                assert listed >= {"taskgate.v1.TaskService", "taskgate.v1.TokenService", path.split("/")[1]}
            for name in ("", *listed):
                request = health_pb2.HealthCheckRequest(service=name).SerializeToString()
                _, response = client.call("/grpc.health.v1.Health/Check", request, {})
                assert response is not None
                assert health_pb2.HealthCheckResponse.FromString(response).status == 1, name
            client.close()
        rest = RestClient("rest", keyed.system.http)
        assert rest.get("/healthz").status == 200
        assert rest.get("/anything").status == 404
        rest.close()


def services(client: GrpcClient, path: str) -> set[str]:
    """The services that reflection lists."""
    listing = client.channel.stream_stream(path)
    request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    (response,) = listing(iter([request]), timeout=20)
    found = reflection_pb2.ServerReflectionResponse.FromString(response).list_services_response.service
    return {service.name for service in found}


class TestCreateToken:
    """``POST /api/token`` and ``TokenService/CreateToken``."""

    def test_credentials_give_a_token(self, keyed: Gated, rest: RestClient | Http2Client) -> None:
        """In all forms that released SDKs send, also with a stale token; the answer is never to be stored."""
        request = json.dumps(keyed.keys["reader"].request).encode()
        stale = keyed.note(EXPIRED["an hour ago"](keyed.minter))
        variants: list[Any] = [
            lambda: rest.post("/api/token", request),
            lambda: rest.post("/api/token", request + b"\n", x_authorization=stale),
            lambda: rest.post("/api/token", request, x_authorization="no token", authorization="Bearer no.to.ken"),
            lambda: rest.post("/api/token", request, content_type="application/json; charset=utf-8"),
            lambda: rest.post("/api/token", request, content_type="text/plain"),
            lambda: rest.post("/api/token?source=sdk", request),
            lambda: rest.post("/api//token", request),
        ]
        if isinstance(rest, RestClient):
            variants.append(lambda: rest.post("/api/token", iter([request[:10], request[10:]])))
        for variant in variants:
            outcome = variant()
            assert outcome.status == 200, outcome
            assert outcome.headers["cache-control"] == "no-store"
            answer = json.loads(outcome.document)
            assert list(answer) == ["token"]
            token = keyed.note(answer["token"])
            assert rest.get_task_json(INVOICE, x_authorization=token).document == MASKED

    def test_grpc_credentials_give_a_token(self, keyed: Gated) -> None:
        for address in (keyed.system.grpc, keyed.system.http):
            client = GrpcClient("grpc", address)
            key = keyed.keys["admin"]
            request = CreateTokenRequest(key_id=key.key_id, key_secret=key.secret).SerializeToString()
            outcome, response = client.call(CREATE_TOKEN, request, {"authorization": "Bearer stale"})
            assert response is not None, outcome
            token = keyed.note(CreateTokenResponse.FromString(response).token)
            assert client.get_task_json(INVOICE, authorization=f"Bearer {token}").document == DOCUMENTS[INVOICE]
            refused, _ = client.call(CREATE_TOKEN, b"\xff", {})
            assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "ERROR_REASON_INVALID_REQUEST")
            wrong = CreateTokenRequest(key_id=key.key_id, key_secret="x" * 43).SerializeToString()
            refused, _ = client.call(CREATE_TOKEN, wrong, {})
            assert (refused.code, refused.reason) == ("UNAUTHENTICATED", "ERROR_REASON_CREDENTIALS_INVALID")
            client.close()

    def test_wrong_credentials_are_refused(self, keyed: Gated, rest: RestClient | Http2Client) -> None:
        """Alike, and never with an ``error`` that makes SDKs ask again; malformed requests are 400."""
        key = keyed.keys["wrong"]
        secret = keyed.note(new_secret())
        wrong = [
            {"keyId": key.key_id, "keySecret": secret},
            {"keyId": key.key_id, "keySecret": "x" * 5000},
            {"keyId": "0" * 24, "keySecret": key.secret},
            {"keyId": key.secret, "keySecret": key.key_id},  # mixed up
            {"keyId": key.name, "keySecret": key.secret},
            {"keyId": key.key_id + "\n", "keySecret": key.secret},
        ]
        for credentials in wrong:
            outcome = rest.post("/api/token", json.dumps(credentials).encode())
            assert (outcome.status, outcome.error) == (401, "INVALID_CREDENTIALS"), credentials
            assert outcome.message == "Key ID and secret are not valid"
        malformed: list[bytes] = [
            b"",
            b"{}",
            b"[]",
            b"null",
            b"no JSON",
            json.dumps(key.request).encode()[:-1],
            json.dumps({"keyId": key.key_id}).encode(),
            json.dumps({"keyId": "", "keySecret": key.secret}).encode(),
            json.dumps({"keyId": key.key_id, "keySecret": [key.secret]}).encode(),
            b'{"keyId":' + b"[" * 5000 + b"]" * 5000 + b"}",
        ]
        for request in malformed:
            outcome = rest.post("/api/token", request)
            assert outcome.status == 400, (request, outcome)
            assert key.secret not in outcome.message
        assert rest.post("/api/token", json.dumps(key.request).encode()).status == 200

    def test_other_methods_and_sizes(self, keyed: Gated, rest: RestClient | Http2Client) -> None:
        got = rest.get("/api/token")
        assert (got.status, got.headers["allow"]) == (405, "POST")
        assert rest.get("/api/token/userInfo", x_authorization=keyed.token()).status == 404
        for size in (17_000, 60_000) if isinstance(rest, Http2Client) else (17_000, 70_000, 1 << 20):
            assert rest.post("/api/token", b'{"keyId":"' + b"x" * size + b'"}').status == 413, size

    def test_guesses_are_limited(self, keyed: Gated) -> None:
        """After ten wrong secrets in a minute, 429 with retry-after, for the right one too; other keys are not hit."""
        rest = RestClient("rest", keyed.system.http)
        key = keyed.keys["guessed"]
        guess = json.dumps(key.request | {"keySecret": keyed.note(new_secret())}).encode()
        outcomes = []
        while (last := rest.post("/api/token", guess)).status == 401:
            outcomes.append(last)
        assert 10 <= len(outcomes) <= 20, "ten for each worker"
        assert (last.status, last.retryable) == (429, True)
        assert 1 <= int(last.headers["retry-after"]) <= 60
        assert last.message == f"Too many refused attempts; try again in {last.headers['retry-after']} s"
        allowed = json.dumps(keyed.keys["reader"].request).encode()
        assert rest.post("/api/token", allowed).status == 200
        elsewhere = http.client.HTTPConnection(keyed.system.http, timeout=30, source_address=("127.0.0.2", 0))
        elsewhere.request("POST", "/api/token", json.dumps(key.request), {"content-type": "application/json"})
        answer = elsewhere.getresponse()
        assert answer.status == 200, "another address is not limited"
        keyed.note(json.loads(answer.read())["token"])
        elsewhere.close()
        direct = GrpcClient("grpc", keyed.system.grpc)
        request = CreateTokenRequest(key_id=key.key_id, key_secret=key.secret[:-1] + "x").SerializeToString()
        refused = [direct.call(CREATE_TOKEN, request, {})[0] for _ in range(12)][-1]
        assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "ERROR_REASON_TOO_MANY_ATTEMPTS")
        direct.close()
        rest.close()


@pytest.fixture(scope="module", params=["rest", "rest-h2"])
def rest(request: pytest.FixtureRequest, keyed: Gated) -> Iterator[RestClient | Http2Client]:
    opened = open_client(request.param, keyed.system.http, keyed.system.grpc)
    assert isinstance(opened, RestClient | Http2Client)
    yield opened
    opened.close()


class TestChanges:
    """Keys that change while the system runs."""

    def test_a_disabled_key_is_refused_soon(self, keyed: Gated, mode: str) -> None:
        """On every worker: within 5 s, 10 on a busy machine. Enabled again, its tokens are valid again."""
        token = keyed.token("disabled")
        name = keyed.keys["disabled"].name
        assert statuses(keyed, token) == {200}
        began = time.monotonic()
        change(keyed.auth_store, lambda keyring: with_changed_key(keyring, name, disabled=True))
        eventually(lambda: statuses(keyed, token) == {401}, "the token is refused", 10)
        print(f"{mode}: refused after {time.monotonic() - began:.1f} s")  # noqa: T201 - a figure to look at
        rest = RestClient("rest", keyed.system.http)
        refused = rest.post("/api/token", json.dumps(keyed.keys["disabled"].request).encode())
        assert (refused.status, refused.error) == (401, "INVALID_CREDENTIALS")
        rest.close()
        change(keyed.auth_store, lambda keyring: with_changed_key(keyring, name, disabled=False))
        eventually(lambda: statuses(keyed, token) == {200}, "the token is valid", 10)

    def test_a_secret_is_rotated(self, keyed: Gated) -> None:
        """The new one gives tokens, and so does the former one until its time; tokens stay valid."""
        key = keyed.keys["rotated"]
        new = keyed.note(new_secret())
        former = change(keyed.auth_store).keys
        (hashed,) = [stored.secret_hash for stored in former if stored.name == key.name]
        until = int(time.time()) + 3600
        rotate = {"secret_hash": hash_secret(new), "former_hash": hashed, "former_until": until}
        token = keyed.token("rotated")
        change(keyed.auth_store, lambda keyring: with_changed_key(keyring, key.name, **rotate))
        rest = RestClient("rest", keyed.system.http)

        def status(secret: str) -> int:
            return rest.post("/api/token", json.dumps({"keyId": key.key_id, "keySecret": secret}).encode()).status

        assert {status(new), status(key.secret), status(new)} == {200}, "at once, on every worker"
        change(keyed.auth_store, lambda keyring: with_changed_key(keyring, key.name, former_until=until - 7200))
        eventually(lambda: status(key.secret) != 200, "the former secret is refused", 10)
        assert statuses(keyed, token) == {200}
        rest.close()

    @pytest.mark.long
    def test_signing_keys_are_rotated_without_a_failed_call(self, keyed: Gated) -> None:
        """Under load at all doors, with tokens of before and tokens got meanwhile, until the new key signs."""
        outcomes: Counter[str] = Counter()
        kids: set[str] = set()
        before = keyed.minter.kid
        credentials = json.dumps(keyed.keys["admin"].request).encode()

        def call(number: int, stop: threading.Event) -> None:
            client = open_client(CLIENTS[number], keyed.system.http, keyed.system.grpc)
            issuer = RestClient("rest", keyed.system.http)
            old, token = keyed.token("admin"), ""
            asked = 0.0
            while not rested(stop):
                if time.monotonic() - asked > 0.2:
                    asked = time.monotonic()
                    answer = issuer.post("/api/token", credentials)
                    token = keyed.note(json.loads(answer.document)["token"])
                    kids.add(json.loads(b64decode(token.partition(".")[0]))["kid"])
                for used in (old, token):
                    outcome = client.get_task_json(INVOICE, x_authorization=used)
                    good = outcome.document == DOCUMENTS[INVOICE]
                    outcomes["ok" if good else repr(outcome)] += 1
            client.close()
            issuer.close()

        with in_threads(len(CLIENTS), call):
            eventually(lambda: outcomes["ok"] > 50, "calls", 20)
            kid, pem = new_signing_key()
            change(keyed.auth_store, lambda ring: with_signing_key(ring, kid, pem, now=int(time.time())))
            eventually(lambda: kid in kids, "a token of the new key", 40)
            answered = outcomes["ok"]
            eventually(lambda: outcomes["ok"] > answered + 400, "calls with its tokens", 40)
        assert set(outcomes) == {"ok"}, outcomes
        assert kids == {before, kid}


def b64decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def statuses(gated: Gated, token: str) -> set[int]:
    """The statuses of a call at each door, on new connections, so that all workers are asked."""
    time.sleep(0.3)  # those who wait for a status poll with this
    found = set()
    for name in (*CLIENTS, *CLIENTS):
        client = open_client(name, gated.system.http, gated.system.grpc)
        found.add(client.get_task_json(INVOICE, x_authorization=token).status)
        client.close()
    return found


ISSUER, AUDIENCE = "https://idp.example/realm", "taskgate-tests"


@pytest.fixture(scope="package")
def federated(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    """``taskgate up --auth jwt``, and an identity provider with a URL."""
    folder = tmp_path_factory.mktemp("jwt")
    minter = Minter.new("first", iss=ISSUER, aud=AUDIENCE, sub="alice", groups=["staff"])
    options = ("--auth", "jwt", "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--mask", "password")
    roles = ("--jwt-role-claim", "groups", "--jwt-roles", "staff=reader,admins=unmasked-reader")
    with running_key_server(body(key_set(minter.jwk()))) as provider:
        where = ("--jwks", provider.url)
        with running_system(store_of_tasks(folder), *options, *roles, *where, mode=mode, workers=1) as system:
            gated = Gated(system, minter, provider=provider)
            yield gated
            logged = "\n".join([*system.out, *system.log])
            assert not [said for said in gated.said if len(said) > 20 and said in logged]
            assert "Traceback" not in logged


@pytest.fixture(scope="module", params=CLIENTS)
def federated_client(request: pytest.FixtureRequest, federated: Gated) -> Iterator[Client]:
    opened = open_client(request.param, federated.system.http, federated.system.grpc)
    yield opened
    opened.close()


class TestIdentityProvider:
    """``--auth jwt`` at each front door."""

    def test_tokens_are_judged(self, federated: Gated, federated_client: Client) -> None:
        """Valid ones read with the role that their claim gives, or are denied; hostile ones are refused."""
        client, minter = federated_client, federated.minter

        def read(**claims: Any) -> list[Outcome]:
            return ask(client, x_authorization=federated.note(minter.token(**claims)))

        assert read()[0].document == MASKED
        assert read(aud=["elsewhere", AUDIENCE], groups=["admins", "others"])[0].document == DOCUMENTS[INVOICE]
        check_hostile(federated, client, HOSTILE | WRONG_AUDIENCE)
        for outcome in read(exp=int(time.time()) - 300):
            check_refusal(outcome, "EXPIRED", "The token has expired; get a new one")
        assert {outcome.status for outcome in read(exp=int(time.time()) - 30)} == {200}, "clocks may differ"
        assert {outcome.status for outcome in ask(client)} == {401}

    def test_a_caller_without_a_role_is_denied_and_audited(self, federated: Gated, federated_client: Client) -> None:
        """The audit names the task that was asked for, be it there or not, be its ID well formed or not."""
        for groups in (["others"], ..., {"staff": 1}):
            token = federated.note(federated.minter.token(groups=groups))
            for task_id in (INVOICE, ABSENT, "no-uuid"):
                before = len(federated.system.log)
                outcomes = ask(federated_client, task_id, x_authorization=token)
                for outcome in outcomes:
                    assert (outcome.status, outcome.message) == (403, "The key may not read this task")
                lines = audited(federated, before, len(outcomes))
                for line in lines:
                    assert (line["caller"], line["task_id"], line["address"]) == ("alice", task_id, LOCAL)
                    assert line["reason"] == "the caller has no role that may read tasks"

    def test_there_is_no_token_endpoint(self, federated: Gated) -> None:
        rest = RestClient("rest", federated.system.http)
        assert rest.post("/api/token", b'{"keyId":"a","keySecret":"b"}').status == 404
        rest.close()

    def test_the_provider_is_away_or_lies_and_rotates_its_keys(self, federated: Gated) -> None:
        """Known keys stay while it is away or sends nonsense; a new key is found within seconds of its first use."""
        provider, old = federated.provider, federated.minter
        assert provider is not None
        new = Minter.new("second", **old.claims)
        provider.answer = body(b"{}", 500)
        assert statuses(federated, federated.note(new.token())) == {401}
        assert statuses(federated, federated.note(old.token())) == {200}
        provider.answer = body(key_set(old.jwk(), new.jwk()))
        began = time.monotonic()
        eventually(lambda: statuses(federated, federated.note(new.token())) == {200}, "the new key is known", 40)
        print(f"known after {time.monotonic() - began:.1f} s")  # noqa: T201 - a figure to look at
        assert statuses(federated, federated.note(old.token())) == {200}


@pytest.mark.parametrize("mode", MODES)
def test_without_auth_there_are_no_tokens(mode: str, started: Callable[..., System]) -> None:
    """``POST /api/token`` is 404, so that SDKs go on without; TokenService is unknown, and tokens are ignored."""
    system = started(mode, workers=2)
    request = b'{"keyId":"key","keySecret":"secret"}'
    for client in (RestClient("rest", system.http), Http2Client("rest-h2", system.http)):
        assert client.post("/api/token", request).status == 404
        assert client.get("/api/token").status == 404
        absent = client.get_task_json(ABSENT, x_authorization="no token")
        assert (absent.status, absent.headers.get("cache-control")) == (404, None)
        client.close()
    for address in (system.grpc, system.http):
        direct = GrpcClient("grpc", address)
        assert direct.call(CREATE_TOKEN, b"", {})[0].code == "UNIMPLEMENTED"
        assert all("taskgate.v1.TokenService" not in services(direct, path) for path in PATHS)
        direct.close()


def test_serve_alone_asks_for_tokens(tmp_path: Path) -> None:
    """``taskgate serve``, without Envoy: tokens for keys, masks, refusals and their limit, a key that is disabled."""
    url = f"sqlite:///{tmp_path}/keys.db"
    keys = create_keys(url, app=(Role.READER, None), guessed=(Role.READER, None))
    options = ("--auth", "keys", "--auth-store", url, "--mask", "password", "--log-format", "json")
    store = f"sqlite:///{store_of_tasks(tmp_path)}"
    with Running("serve", "--store", store, "--grpc", "127.0.0.1:0", *options) as running:
        address = running.wait_for(r'"grpc":"([0-9.:]+)","event":"listening"', in_log=True)[1]
        client = GrpcClient("grpc", address)

        def create(key: Credentials, secret: str = "") -> tuple[Outcome, bytes | None]:
            request = CreateTokenRequest(key_id=key.key_id, key_secret=secret or key.secret).SerializeToString()
            return client.call(CREATE_TOKEN, request, {})

        _, response = create(keys["app"])
        assert response is not None
        token = CreateTokenResponse.FromString(response).token
        exact, (typed, task_message) = (
            client.get_task_json(INVOICE, x_authorization=token),
            client.get_task(INVOICE, authorization=f"Bearer {token}"),
        )
        assert (exact.document, typed.status) == (MASKED, 200)
        assert task_message.input_data["password"].string_value == "***"
        for outcome in ask(client):
            check_refusal(outcome, "INVALID", MISSING)
        for outcome in ask(client, x_authorization=HOSTILE["none"](minter_of(url, keys["app"].key_id))):
            check_refusal(outcome, "INVALID", INVALID)
        codes = [create(keys["guessed"], "x" * 43)[0].code for _ in range(12)]
        assert codes == ["UNAUTHENTICATED"] * 10 + ["RESOURCE_EXHAUSTED"] * 2
        change(url, lambda keyring: with_changed_key(keyring, "app", disabled=True))
        refused = lambda: client.get_task_json(INVOICE, x_authorization=token).code == "UNAUTHENTICATED"  # noqa: E731
        eventually(refused, "the token is refused", 10)
        client.close()
        assert running.stop() == 0
        logged = "\n".join([*running.out, *running.log])
        assert not [said for said in (token, keys["app"].secret, keys["guessed"].secret) if said in logged]

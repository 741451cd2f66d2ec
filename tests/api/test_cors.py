"""``--cors-origins``: pages of the listed origins read REST and call by gRPC-Web; HTTP/1.1 as a browser sends it."""

import http.client
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from grpc_health.v1 import health_pb2

from api.conftest import MODES
from gateway.running import Gateway, StubServer
from gateway.wire import Http1
from support import grpc_web
from support.access import create_keys
from support.documents import DOCUMENTED, DOCUMENTED_ID
from support.running import System, eventually, running_system
from taskgate.access.roles import Role
from taskgate.v1.task_service_pb2 import GetTaskRequest, GetTaskResponse

LISTED, OTHER_LISTED, FOREIGN = "https://tools.example.org", "http://localhost:3000", "https://evil.example.org"
ABSENT = "00000000-0000-4000-8000-000000000003"
TASK = f"/api/tasks/{DOCUMENTED_ID}"
GET_TASK = "/taskgate.v1.TaskService/GetTask"
PREFLIGHT = {"access-control-request-method": "GET", "access-control-request-headers": "x-authorization"}
LIMIT = 3
ADDRESSES = (f"127.0.{i}.{j}" for i in itertools.count(1) for j in range(1, 255))
UNAUTHENTICATED, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 16, 5, 8, 12, 13, 14


@dataclass
class Page:
    """What a page of ``origin`` sends and receives; None for a caller that is no page."""

    http: str
    origin: str | None = LISTED
    token: str | None = None
    address: str | None = None
    """Where it calls from; None for an address of its own for each call, which no limit concerns."""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> bytes:
        """Send one request; keep status and headers of the answer and return its body."""
        connection = http.client.HTTPConnection(
            *self.http.split(":"), source_address=(self.address or next(ADDRESSES), 0), timeout=30
        )
        try:
            connection.request(method, path, body, self._sent(headers))
            answer = connection.getresponse()
            pairs = [(name.lower(), value) for name, value in answer.getheaders()]
            self.status, self.headers = answer.status, dict(pairs)
            assert len(self.headers) == len(pairs), f"a header is there twice: {pairs}"
            return answer.read()
        finally:
            connection.close()

    def call(self, path: str, message: bytes, content_type: str = grpc_web.BINARY) -> grpc_web.WebAnswer:
        """Make one call of gRPC-Web."""
        headers, body = grpc_web.call(message, content_type)
        answer = self.ask(path, "POST", body, **headers)
        assert self.status == 200, (self.status, self.headers, answer)
        assert self.headers["content-type"].startswith(content_type)
        return grpc_web.read(self.headers, answer)

    def _sent(self, headers: dict[str, str]) -> dict[str, str]:
        own = {"origin": self.origin, "x-authorization": self.token}
        return {name: value for name, value in own.items() if value is not None} | headers

    def assert_readable(self) -> None:
        """The browser shows the last answer to the page, with the headers that explain a status."""
        assert self.headers["access-control-allow-origin"] == self.origin
        exposed = self.headers["access-control-expose-headers"].split(", ")
        assert {"grpc-status", "grpc-message", "grpc-status-details-bin", "retry-after", "x-request-id"} == set(exposed)
        assert self.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in self.headers

    def assert_hidden(self) -> None:
        """The browser hides the last answer from the page, and no cache gives it to another page."""
        assert "access-control-allow-origin" not in self.headers
        assert self.headers["vary"] == "Origin"


@pytest.fixture(scope="module", params=MODES)
def open_page(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Page]]:
    """Open a page of a system that asks for tokens and limits calls; each has an address of its own."""
    folder = tmp_path_factory.mktemp("cors")
    store = f"sqlite:///{folder}/keys.db"
    key = create_keys(store, page=(Role.READER, None))["page"]
    gated = ("--auth", "keys", "--auth-store", store, "--rate-limit", str(LIMIT))
    origins = ("--cors-origins", LISTED, "--cors-origins", OTHER_LISTED.upper())
    with running_system(folder / "tasks.db", "--demo", *gated, *origins, mode=request.param, workers=1) as system:

        def opened(origin: str | None = LISTED, *, token: bool = True) -> Page:
            return Page(system.http, origin, made if token else None)

        body, sent = json.dumps(key.request).encode(), {"content-type": "application/json"}
        page = opened(token=False)
        made = json.loads(page.ask("/api/token", "POST", body, **sent))["token"]
        page.assert_readable()
        yield opened


def test_preflights_are_answered_without_a_token_and_count_as_no_calls(open_page: Callable[..., Page]) -> None:
    page = open_page(token=False)
    page.address = next(ADDRESSES)
    for path in (TASK, GET_TASK, "/api/token", "/nowhere", *[TASK] * (10 * LIMIT)):
        assert (page.ask(path, "OPTIONS", **PREFLIGHT), page.status) == (b"", 200)
        page.assert_readable()
        allowed = page.headers["access-control-allow-headers"].split(", ")
        assert {"x-authorization", "authorization", "content-type", "x-grpc-web", "grpc-timeout"} < set(allowed)
        assert page.headers["access-control-allow-methods"] == "GET, HEAD, POST"
        assert int(page.headers["access-control-max-age"]) > 0
    foreign = open_page(FOREIGN, token=False)
    for path in (TASK, GET_TASK, "/nowhere"):
        foreign.ask(path, "OPTIONS", **PREFLIGHT)
        foreign.assert_hidden()


def test_a_page_reads_every_answer_of_rest_and_a_foreign_page_reads_none(open_page: Callable[..., Page]) -> None:
    """Whoever answers: the service, Envoy's filters or its routes, or Envoy before it has chosen a route."""
    asked = {
        TASK: 200,
        f"/api/tasks/{ABSENT}": 404,
        "/api/tasks/no-uuid": 400,
        "/api/tasks/a%2Fb": 400,
        "/api/tasks/search": 404,
        "/nowhere": 404,
        "/healthz": 200,
        "/openapi.json": 200,
    }
    pages = [open_page(origin) for origin in (LISTED, OTHER_LISTED, FOREIGN, None)]
    for page in pages:
        verdict = page.assert_readable if page.origin in {LISTED, OTHER_LISTED} else page.assert_hidden
        for path, status in asked.items():
            answer = page.ask(path)
            assert (page.status, bool(answer)) == (status, True)
            assert path != TASK or answer == json.dumps(json.loads(DOCUMENTED), separators=(",", ":")).encode()
            verdict()
        page.ask(TASK, "DELETE")
        assert page.status == 405
        verdict()
        page.token = None
        assert (json.loads(page.ask(TASK))["error"], page.status) == ("INVALID_TOKEN", 401)
        verdict()
        page.address = next(ADDRESSES)
        eventually(lambda: page.ask(TASK) and page.status == 429, "a call above the limit")  # noqa: B023
        assert page.headers["retry-after"] == "1"
        verdict()


@pytest.mark.parametrize("content_type", [grpc_web.BINARY, grpc_web.TEXT])
def test_a_page_calls_by_grpc_web(open_page: Callable[..., Page], content_type: str) -> None:
    """Messages, trailers and errors with their details, over HTTP/1.1; also errors that Envoy makes."""
    page = open_page()
    wanted = GetTaskRequest(task_id=DOCUMENTED_ID).SerializeToString()
    for service in ("taskgate.v1", "conductor.grpc.tasks"):
        answer = page.call(f"/{service}.TaskService/GetTask", wanted, content_type)
        assert answer.code == 0
        (message,) = answer.messages
        assert GetTaskResponse.FromString(message).task.task_id == DOCUMENTED_ID
        page.assert_readable()
    streamed = page.call("/taskgate.v1.TaskService/StreamTaskJson", wanted, content_type)
    assert streamed.code == 0
    assert DOCUMENTED_ID.encode() in b"".join(streamed.messages)
    refused = page.call(GET_TASK, GetTaskRequest(task_id=ABSENT).SerializeToString(), content_type)
    assert (refused.code, refused.reason) == (NOT_FOUND, "ERROR_REASON_TASK_NOT_FOUND")
    assert ABSENT in refused.trailers["grpc-message"]
    page.assert_readable()
    assert page.call("/no.Service/Call", b"", content_type).code == UNIMPLEMENTED
    page.token = None
    refused = page.call(GET_TASK, wanted, content_type)
    assert (refused.code, refused.reason) == (UNAUTHENTICATED, "ERROR_REASON_TOKEN_INVALID")
    page.assert_readable()
    page.address = next(ADDRESSES)

    def above_the_limit() -> grpc_web.WebAnswer | None:
        refused = page.call(GET_TASK, wanted, content_type)
        return None if refused.code == UNAUTHENTICATED else refused

    refused = eventually(above_the_limit, "a call above the limit")
    assert (refused.code, refused.reason) == (RESOURCE_EXHAUSTED, "ERROR_REASON_RATE_LIMITED")
    page.assert_readable()


def test_a_page_watches_the_health(open_page: Callable[..., Page]) -> None:
    """A message of a stream arrives while the stream is open."""
    page = open_page(token=False)
    headers, body = grpc_web.call(health_pb2.HealthCheckRequest().SerializeToString())
    connection = http.client.HTTPConnection(*page.http.split(":"), timeout=30)
    try:
        connection.request("POST", "/grpc.health.v1.Health/Watch", body, {**headers, "origin": LISTED})
        answer = connection.getresponse()
        assert answer.getheader("access-control-allow-origin") == LISTED
        prefix = answer.read(5)
        state = health_pb2.HealthCheckResponse.FromString(answer.read(int.from_bytes(prefix[1:])))
        assert state.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        connection.close()


def test_grpc_itself_still_needs_http2(open_page: Callable[..., Page]) -> None:
    """Its trailers would be lost; a caller cannot pass for Envoy's gRPC-Web."""
    page = open_page()
    _, body = grpc_web.call(GetTaskRequest(task_id=DOCUMENTED_ID).SerializeToString())
    forged = {"content-type": "application/grpc", "te": "trailers", "x-grpc-web": "1", "x-taskgate-grpc-web": "1"}
    page.ask(GET_TASK, "POST", body, **forged)
    assert page.headers["grpc-status"] == str(UNIMPLEMENTED)


def test_without_the_setting_there_is_neither_cors_nor_grpc_web(system: System) -> None:
    page = Page(system.http)
    headers, body = grpc_web.call(GetTaskRequest(task_id=DOCUMENTED_ID).SerializeToString())
    for path, method, sent, status in (
        (TASK, "GET", {}, 200),
        (TASK, "OPTIONS", PREFLIGHT, 405),
        ("/nowhere", "OPTIONS", PREFLIGHT, 404),
        (GET_TASK, "POST", headers, 404),
    ):
        page.ask(path, method, body if method == "POST" else None, **sent)
        assert page.status == status
        assert [name for name in page.headers if name.startswith("access-control-") or name == "vary"] == []
    marked = {"content-type": "application/grpc", "te": "trailers", "x-taskgate-grpc-web": "1"}
    page.ask(GET_TASK, "POST", body, **marked)
    assert page.headers["grpc-status"] == str(UNIMPLEMENTED)


def test_base64_that_is_none_is_a_readable_error(open_page: Callable[..., Page]) -> None:
    page = open_page()
    headers, _ = grpc_web.call(b"", grpc_web.TEXT)
    page.ask(GET_TASK, "POST", b"no base64!", **headers)
    assert (page.status, page.headers["grpc-status"]) == (200, str(INTERNAL))
    page.assert_readable()


def test_a_star_lets_every_page_read_also_that_no_server_is_there() -> None:
    with StubServer() as stub, Gateway(stub, cors_origins=("*",)) as gateway, Http1(gateway.address) as caller:
        for origin in (LISTED, FOREIGN, "null"):
            for path in ("/api/tasks/ok", "/nowhere"):
                assert caller.ask(path, headers=[("origin", origin)]).header("access-control-allow-origin") == origin
            preflight = caller.ask("/api/tasks/ok", "OPTIONS", [("origin", origin), *PREFLIGHT.items()])
            assert preflight.header("access-control-allow-origin") == origin
        stub.kill()
        answer = caller.ask("/api/tasks/ok", headers=[("origin", FOREIGN)])
        assert (answer.status, answer.header("access-control-allow-origin")) == (503, FOREIGN)
        headers, body = grpc_web.call(b"")
        answer = caller.ask(GET_TASK, "POST", [("origin", FOREIGN), *headers.items()], body)
        assert (answer.status, answer.header("grpc-status")) == (200, str(UNAVAILABLE))
        assert answer.header("grpc-message") == "No server could take the call; try again"
        assert answer.header("access-control-allow-origin") == FOREIGN

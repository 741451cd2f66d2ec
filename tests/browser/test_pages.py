"""Web pages of another origin in a real browser: what a listed one reads, and what a foreign one does not."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from api.conftest import MODES
from support import grpc_web
from support.access import Credentials, create_keys
from support.certificates import Authority
from support.documents import DOCUMENTED_ID
from support.running import running_system
from taskgate.access.roles import Role
from taskgate.v1.task_service_pb2 import GetTaskRequest, GetTaskResponse

if TYPE_CHECKING:  # Playwright is not there in `make test`, which collects these tests, too
    from playwright.sync_api import Page

pytestmark = pytest.mark.needs("chromium")

ABSENT = "00000000-0000-4000-8000-000000000003"
UNAUTHENTICATED, NOT_FOUND = 16, 5

# What the page runs: one request, as a promise of all that a script can see of its answer, or of the browser's refusal.
ASK = """
async ({url, method, headers, body}) => {
  const options = {method, headers, body: body === null ? undefined : new Uint8Array(body)};
  try {
    const answer = await fetch(url, options);
    const bytes = Array.from(new Uint8Array(await answer.arrayBuffer()));
    return {status: answer.status, headers: Object.fromEntries(answer.headers), bytes};
  } catch (refusal) {
    return {refusal: String(refusal)};
  }
}
"""


class _EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@contextmanager
def origin(certificate: tuple[Path, Path]) -> Iterator[str]:
    """Serve an empty page; return its origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _EmptyPage)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class Script:
    """A script of a page, which asks a service of another origin."""

    page: "Page"
    service: str

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> dict[str, Any]:
        """Return status, headers and body, or the browser's refusal."""
        sent = {"url": f"{self.service}{path}", "method": method, "headers": headers}
        seen: dict[str, Any] = self.page.evaluate(ASK, {**sent, "body": None if body is None else list(body)})
        return seen

    def call(self, task_id: str, content_type: str, **headers: str) -> grpc_web.WebAnswer:
        """Get a task by gRPC-Web."""
        framing, body = grpc_web.call(GetTaskRequest(task_id=task_id).SerializeToString(), content_type)
        seen = self.ask("/taskgate.v1.TaskService/GetTask", "POST", body, **framing, **headers)
        return grpc_web.read(seen["headers"], bytes(seen["bytes"]))


@pytest.fixture
def key(tmp_path: Path) -> Credentials:
    """A key in ``keys.db``."""
    return create_keys(f"sqlite:///{tmp_path}/keys.db", page=(Role.READER, None))["page"]


@pytest.fixture
def pages(browser: Any) -> Any:
    """A browser that opens pages, and trusts the tests' own authority."""
    return browser.new_context(ignore_https_errors=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_listed_page_reads_answers_and_errors_and_a_foreign_page_nothing(
    mode: str, key: Credentials, pages: Any, tmp_path: Path
) -> None:
    """Over TLS, and so HTTP/2: a token, a task and errors by REST and by gRPC-Web."""
    certificate = Authority().server().save(tmp_path, "server")
    tls = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    gated = ("--demo", "--auth", "keys", "--auth-store", f"sqlite:///{tmp_path}/keys.db", *tls)
    with origin(certificate) as listed, origin(certificate) as foreign:
        options = (*gated, "--cors-origins", listed)
        with running_system(tmp_path / "tasks.db", *options, mode=mode, workers=1) as system:
            script = Script(pages.new_page(), f"https://{system.http}")
            script.page.goto(listed)
            token = _token(script, key)
            _reads_by_rest(script, token)
            for content_type in (grpc_web.BINARY, grpc_web.TEXT):
                _reads_by_grpc_web(script, token, content_type)
            script.page.goto(foreign)
            for headers in ({}, {"x-authorization": token}):  # without a preflight, and with one
                assert "Failed to fetch" in script.ask(f"/api/tasks/{DOCUMENTED_ID}", **headers)["refusal"]


def _token(script: Script, key: Credentials) -> str:
    seen = script.page.evaluate(
        """async ({url, body}) => {
          const headers = {"content-type": "application/json"};
          const answer = await fetch(url, {method: "POST", headers, body: JSON.stringify(body)});
          return (await answer.json()).token;
        }""",
        {"url": f"{script.service}/api/token", "body": key.request},
    )
    return str(seen)


def _reads_by_rest(script: Script, token: str) -> None:
    seen = script.ask(f"/api/tasks/{DOCUMENTED_ID}", **{"x-authorization": token})
    assert seen["status"] == 200
    assert DOCUMENTED_ID.encode() in bytes(seen["bytes"])
    assert seen["headers"]["x-request-id"]
    for path, headers, status, text in (
        (f"/api/tasks/{ABSENT}", {"authorization": f"Bearer {token}"}, 404, ABSENT),
        (f"/api/tasks/{DOCUMENTED_ID}", {}, 401, "INVALID_TOKEN"),
        ("/nowhere", {}, 404, "No such route"),
    ):
        seen = script.ask(path, **headers)
        assert seen["status"] == status
        assert text.encode() in bytes(seen["bytes"])


def _reads_by_grpc_web(script: Script, token: str, content_type: str) -> None:
    answer = script.call(DOCUMENTED_ID, content_type, **{"x-authorization": token, "grpc-timeout": "20S"})
    assert answer.code == 0
    assert GetTaskResponse.FromString(answer.messages[0]).task.task_id == DOCUMENTED_ID
    refused = script.call(ABSENT, content_type, authorization=f"Bearer {token}")
    assert (refused.code, refused.reason) == (NOT_FOUND, "ERROR_REASON_TASK_NOT_FOUND")
    refused = script.call(DOCUMENTED_ID, content_type)
    assert (refused.code, refused.reason) == (UNAUTHENTICATED, "ERROR_REASON_TOKEN_INVALID")

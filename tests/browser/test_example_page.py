"""The page of examples/typescript-browser, built and served by its own commands, in a real browser."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from support.access import Credentials, create_keys
from support.certificates import Authority
from support.documented import blocks_of
from support.documents import DOCUMENTED, DOCUMENTED_ID, UNKNOWN_ID, task
from support.running import System, eventually, running_system
from taskgate.access.roles import Role
from taskgate.stores import open_writer
from taskgate.stores.base import StoredTask
from tools import stubs

if TYPE_CHECKING:  # Playwright is not there in `make test`, which collects these tests, too
    from playwright.sync_api import Page

pytestmark = [pytest.mark.needs("chromium", stubs.part_of("typescript")), pytest.mark.timeout(600)]

FOLDER = stubs.EXAMPLES / "typescript-browser"
WAYS = ("By gRPC-Web", "By REST")
NOT_IN_TIME = "Try again later: no answer in time"

EXACT_ID = "00000000-0000-4000-8000-000000000009"
EXACT = b'{"taskId":"%s","status":"FAILED","outputData":{"n":9007199254740993,"price":1.10}}' % EXACT_ID.encode()


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """The origin of the page, built and served as its README says, on a free port."""
    blocks = [block.text.splitlines() for block in blocks_of(FOLDER / "README.md") if block.language == "sh"]
    (server,), (stubs_first, enter, build, start) = blocks
    assert (stubs_first, enter) == ("make stubs LANGUAGES=typescript", "cd examples/typescript-browser")
    documented = shlex.split(server)[-1].removeprefix("http://")
    assert server == f".venv/bin/taskgate up --demo --cors-origins http://{documented}"
    assert f"--serve={documented}" in (FOLDER / "package.json").read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    folder = Path(sys.executable).parent
    environment = os.environ | {"PATH": os.pathsep.join((str(folder), os.environ["PATH"]))}
    built = subprocess.run(shlex.split(build), cwd=FOLDER, env=environment, capture_output=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    command = [*shlex.split(start), "--", f"--serve={address}"]
    started = subprocess.Popen(  # a pipe, as esbuild ends with its standard input
        command, cwd=FOLDER, env=environment, stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        eventually(lambda: _answers(f"http://{address}/"), "the page")
        yield f"http://{address}"
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.communicate(timeout=30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def key(tmp_path: Path) -> Credentials:
    """A key in ``keys.db``."""
    return create_keys(f"sqlite:///{tmp_path}/keys.db", page=(Role.READER, None))["page"]


@pytest.fixture
def page(browser: Any) -> "Page":
    """A tab that trusts the tests' own authority."""
    return browser.new_context(ignore_https_errors=True).new_page()


def ask(page: "Page", server: str, token: str, task_id: str, way: str) -> tuple[str, str]:
    """Fill in the form and press a button; return what the page says, and the output it shows."""
    for label, value in (("Server", server), ("Token", token), ("Task", task_id)):
        page.get_by_label(label).fill(value)
    page.get_by_role("button", name=way).click()
    said = page.get_by_role("status").filter(has_not_text="…")
    said.wait_for(timeout=60_000)
    return said.inner_text(), page.locator("pre").inner_text()


def test_page_shows_a_task_and_tells_errors_apart(
    origin: str, key: Credentials, page: "Page", tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """With TLS and a token, by gRPC-Web and by REST; REST's numbers keep their digits."""
    cert, secret = map(str, Authority().server().save(tmp_path, "server"))
    options = (
        "--auth",
        "keys",
        "--auth-store",
        f"sqlite:///{tmp_path}/keys.db",
        "--tls-cert",
        cert,
        "--tls-key",
        secret,
    )
    with open_writer(f"sqlite:///{tmp_path}/tasks.db") as writer:
        writer.write([StoredTask(EXACT_ID, 1, EXACT), StoredTask(DOCUMENTED_ID, 1, task(DOCUMENTED_ID))])
    with running_system(tmp_path / "tasks.db", *options, "--cors-origins", origin, workers=1) as system:
        server = f"https://{system.http}"
        page.goto(origin)
        token = page.request.post(f"{server}/api/token", data=key.request).json()["token"]
        for way in WAYS:
            with subtests.test(way):
                documented = json.loads(DOCUMENTED)
                said, shown = ask(page, server, token, DOCUMENTED_ID, way)
                assert (said, json.loads(shown)) == (documented["status"], documented["outputData"])
                assert ask(page, server, token, UNKNOWN_ID, way) == (f"There is no task {UNKNOWN_ID}", "")
                refused, _ = ask(page, server, "", DOCUMENTED_ID, way)
                assert refused.startswith(("ERROR_REASON_TOKEN_INVALID: ", "401 "))
        said, shown = ask(page, server, token, EXACT_ID, "By REST")
        assert said == "FAILED"
        assert '"n": 9007199254740993,' in shown
        assert '"price": 1.10' in shown
        _damage(system)
        for way, later in zip(WAYS, ("ERROR_REASON_STORE_UNAVAILABLE", "503 "), strict=True):
            with subtests.test(f"store unavailable, {way}"):
                said, shown = ask(page, server, token, DOCUMENTED_ID, way)
                assert said.startswith(f"Try again later: {later}")
                assert shown == ""


def _damage(system: System) -> None:
    system.database.write_bytes(b"damaged" * 1000)


@pytest.mark.parametrize("way", WAYS)
def test_page_waits_no_longer_than_its_deadline(way: str, origin: str, page: "Page") -> None:
    """For a server that takes the connection and stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        page.goto(origin)
        said, _ = ask(page, f"http://127.0.0.1:{silent.getsockname()[1]}", "", DOCUMENTED_ID, way)
    assert said == NOT_IN_TIME


class Broken(BaseHTTPRequestHandler):
    """Sends a page that is no JSON; for the task ``half``, the beginning of an answer, and no more."""

    def do_GET(self) -> None:
        self.send_response(502)
        self.send_header("access-control-allow-origin", "*")
        self.send_header("content-length", "100" if self.path.endswith("/half") else "6")
        self.end_headers()
        self.wfile.write(b"<html>")
        if self.path.endswith("/half"):
            self.rfile.read(1)  # until the page closes the connection


def test_page_says_in_a_sentence_what_is_wrong_with_a_body(origin: str, page: "Page") -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(origin)
        address = f"http://127.0.0.1:{server.server_port}"
        assert ask(page, address, "", "page", "By REST") == ("The answer is no JSON: HTTP status 502", "")
        assert ask(page, address, "", "half", "By REST") == (NOT_IN_TIME, "")
        server.shutdown()

"""The page of examples/typescript-browser, built and served by its own commands, in a real browser."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from support.access import Credentials, create_keys
from support.certificates import Authority
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

EXACT_ID = "00000000-0000-4000-8000-000000000009"
EXACT = b'{"taskId":"%s","status":"FAILED","outputData":{"n":9007199254740993,"price":1.10}}' % EXACT_ID.encode()


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """The origin of the page, served by ``npm start``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    folder = Path(sys.executable).parent
    environment = os.environ | {"PATH": os.pathsep.join((str(folder), os.environ["PATH"]))}
    npm = str(folder / "npm")
    built = subprocess.run([npm, "run", "build"], cwd=FOLDER, env=environment, capture_output=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    command = [npm, "start", "--", f"--serve={address}"]
    started = subprocess.Popen(  # a pipe, as esbuild ends with its standard input
        command, cwd=FOLDER, env=environment, stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        eventually(lambda: _answers(f"http://{address}/"), "the page", 60)
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
                assert refused.startswith(("Unauthenticated ERROR_REASON_TOKEN_INVALID: ", "401 "))
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
    assert said == "Try again later: no answer in time"

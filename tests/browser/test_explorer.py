"""The explorer in a real browser: a person sends the documented request, and reads the documented answer."""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from api.conftest import MODES
from support.access import Credentials, create_keys
from support.documents import DOCUMENTED, DOCUMENTED_ID
from support.running import System, running_system
from taskgate.access.roles import Role
from taskgate.stores import open_writer
from taskgate.stores.base import StoredTask

if TYPE_CHECKING:  # Playwright is not there in `make test`, which collects these tests, too
    from playwright.sync_api import Page, Request

pytestmark = pytest.mark.needs("chromium")

SCREENSHOTS = os.environ.get("TASKGATE_SCREENSHOTS")
"""A folder to keep pictures of what the tests saw; none by default."""


class Explorer:
    """The page ``/docs``, and what it asked for."""

    def __init__(self, page: "Page", system: System) -> None:
        self.page = page
        self.origin = f"http://{system.http}"
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", self._note)
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"{self.origin}/docs")

    def _note(self, request: "Request") -> None:
        self.asked.append(request.url)

    def send(self, operation: str, body: str | None = None) -> tuple[str, str]:
        """Open an operation and send its request as the page proposes it, or ``body``; return status and answer."""
        block = self.page.locator(f"#operations-{operation}")
        if not block.locator(".execute").is_visible():
            block.locator(".opblock-summary-control").click()
        if body is not None:
            block.locator("textarea.body-param__text").fill(body)
        with self.page.expect_response(lambda response: "/api/" in response.url) as received:
            block.locator(".execute").click()
        status = str(received.value.status)
        answer = block.locator(".live-responses-table tbody tr.response")
        answer.locator(".response-col_status", has_text=status).wait_for()
        return status, answer.locator("code").first.inner_text()

    def authorize(self, token: str) -> None:
        """Enter ``token`` in the page's dialog, for X-Authorization."""
        self.page.locator(".auth-wrapper .authorize").first.click()
        dialog = self.page.locator(".auth-container", has_text="X-Authorization")
        dialog.locator("input").fill(token)
        dialog.locator("button.authorize").click()
        self.page.locator(".btn-done").first.click()

    def picture(self, name: str) -> None:
        if SCREENSHOTS:
            self.page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)

    def assert_nothing_left_the_origin(self) -> None:
        """All requests went to the server of the page, and the browser refused none of its content."""
        foreign = [url for url in self.asked if not url.startswith((f"{self.origin}/", "data:"))]
        assert foreign == []
        assert self.complaints == []


@pytest.fixture
def key(tmp_path: Path) -> Credentials:
    """A key in ``keys.db``."""
    return create_keys(f"sqlite:///{tmp_path}/keys.db", person=(Role.READER, None))["person"]


@pytest.fixture
def page(browser: Any) -> "Page":
    return browser.new_page(viewport={"width": 1200, "height": 1600})


@pytest.mark.parametrize("mode", MODES)
def test_documented_request_shows_the_documented_answer(mode: str, page: "Page", tmp_path: Path) -> None:
    with running_system(tmp_path / "tasks.db", "--demo", mode=mode, workers=1) as system:
        explorer = Explorer(page, system)
        status, shown = explorer.send("tasks-getTask")
        assert (status, json.loads(shown)) == ("200", json.loads(DOCUMENTED))
        assert DOCUMENTED_ID in page.locator("#operations-tasks-getTask .request-url").inner_text()
        explorer.picture(f"{mode}-task")
        assert f"{explorer.origin}/api/tasks/{DOCUMENTED_ID}" in explorer.asked
        explorer.assert_nothing_left_the_origin()


def test_token_is_got_and_used_in_the_page(key: Credentials, page: "Page", tmp_path: Path) -> None:
    """Without a token the page shows the 401; with one from POST /api/token it shows the task."""
    options = ("--demo", "--auth", "keys", "--auth-store", f"sqlite:///{tmp_path}/keys.db")
    with running_system(tmp_path / "tasks.db", *options, workers=1) as system:
        explorer = Explorer(page, system)
        status, shown = explorer.send("tasks-getTask")
        assert (status, json.loads(shown)["error"]) == ("401", "INVALID_TOKEN")
        status, shown = explorer.send("tokens-createToken", json.dumps(key.request))
        assert status == "200"
        explorer.authorize(json.loads(shown)["token"])
        status, shown = explorer.send("tasks-getTask")
        assert (status, json.loads(shown)["taskId"]) == ("200", DOCUMENTED_ID)
        explorer.picture("keys-task")
        explorer.complaints.remove("Failed to load resource: the server responded with a status of 401 (Unauthorized)")
        explorer.assert_nothing_left_the_origin()


def test_numbers_are_shown_as_they_are_stored(page: "Page", tmp_path: Path) -> None:
    """A browser reads JSON's numbers as doubles; the page shows every digit, and keys that come twice."""
    written = (
        b'{"n":9007199254740993,"f":1.0,"e":1e400,"n":-0,"text":"a \\"{[,:\\u00e9","empty":[{},[]],"list":[1,null]}'
    )
    document = b'{"taskId":"%s","status":"COMPLETED","outputData":%s}' % (DOCUMENTED_ID.encode(), written)
    with open_writer(f"sqlite:///{tmp_path}/tasks.db") as writer:
        writer.write([StoredTask(DOCUMENTED_ID, 1, document)])
    with running_system(tmp_path / "tasks.db", workers=1) as system:
        status, shown = Explorer(page, system).send("tasks-getTask")
    assert status == "200"
    # Only spaces and line ends are added, none of them within a text.
    assert re.sub(r"\n *|(?<=\":) ", "", shown) == document.decode()
    assert '\n    "n": 9007199254740993,\n' in shown

"""The documents as a site, opened from a folder by a person without a network."""

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.documented import ROOT

if TYPE_CHECKING:  # Playwright is not there in `make test`, which collects these tests, too
    from playwright.sync_api import Page

pytestmark = pytest.mark.needs("chromium")


@pytest.fixture
def page(browser: Any) -> "Page":
    return browser.new_page()


def test_search_finds_a_page_and_nothing_is_asked_of_another_host(page: "Page") -> None:
    subprocess.run([sys.executable, str(ROOT / "tools/docs_site.py"), "build"], check=True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((ROOT / "build/site/index.html").as_uri())
    page.get_by_role("button", name="Search").first.click()
    page.keyboard.type("get-server-public-key")
    result = page.locator("a[href*='mysql.html?h=']")  # the page, with the words to mark there
    result.click(timeout=30_000)
    page.get_by_role("heading", level=1, name="MySQL and MariaDB").wait_for(timeout=30_000)
    assert asked
    assert [url for url in asked if not url.startswith("file:")] == []

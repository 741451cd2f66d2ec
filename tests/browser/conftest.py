"""A real browser for the tests here: Debian's Chromium, driven by Playwright."""

from collections.abc import Iterator
from typing import Any

import pytest

from tools.chromium import find_chromium


@pytest.fixture
def browser() -> Iterator[Any]:
    """Playwright's Browser. Its event loop leaves no room for another: fixtures that run one come before."""
    # Not there in `make test`, which collects these tests, too.
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - so it cannot stand above

    with sync_playwright() as playwright:
        # No sandbox: containers, and root, may not have one. The browser opens our own pages alone.
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()

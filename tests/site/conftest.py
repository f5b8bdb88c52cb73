"""The rendered book in _build/html, and the system's Chromium with the network closed."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_tools"))
from chromium import MISSING, chromium  # noqa: E402


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """What pytest-playwright starts. Whatever is not on this disk would have to pass a proxy where
    there is none; Chromium has no sandbox for root.
    """
    if chromium() is None:
        pytest.skip(MISSING)
    closed = ["--proxy-server=http://127.0.0.1:9", "--proxy-bypass-list=<-loopback>"]
    return {
        **browser_type_launch_args,
        "executable_path": chromium(),
        "args": ["--no-sandbox", "--disable-gpu", *closed],
    }


@pytest.fixture(scope="session")
def tab(browser: Browser) -> Page:
    """One for all tests: a new one for each would take a third longer. Every page in it has the
    functions of checks.js.
    """
    tab = browser.new_page()
    tab.add_init_script(path=Path(__file__).with_name("checks.js"))
    return tab


@pytest.fixture
def page(tab: Page) -> Page:
    """The tab, empty: what the page before may still wait for is given up, and where it did not
    open, the browser's own page on that is waited for.
    """
    for _ in range(20):
        with suppress(Error):
            tab.goto("about:blank")
            return tab
        tab.wait_for_timeout(100)
    raise TimeoutError("the page before does not let go of the tab")

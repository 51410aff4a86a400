"""The site as a person has it: in a browser, where Playwright and a Chromium are there."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = os.environ.get("VITSOM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium on the PATH, and VITSOM_CHROMIUM names none")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """One that fails the test where a script fails, or something is not there."""
    opened = browser.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("response", lambda answer: wrong.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    yield opened
    opened.close()
    assert not wrong


def test_every_page_opens(page: Any, address: str, site: Path) -> None:
    names = [path.relative_to(site).as_posix() for path in site.rglob("*.html")]
    assert len(names) > 20
    for name in names:
        page.goto(f"{address}/{name}")
        assert page.title(), name
        assert name == "search.html" or page.locator("h1").first.is_visible(), name
        broken = page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)")
        assert not broken, name


def test_the_search_finds_a_page(page: Any, address: str) -> None:
    page.goto(address)
    page.locator("input[name=q]").first.fill("collapse")
    page.locator("input[name=q]").first.press("Enter")
    page.wait_for_selector("ul.search li a")
    assert any("choosing" in (link.get_attribute("href") or "") for link in page.locator("ul.search li a").all())


def test_no_page_is_wider_than_a_telephone(page: Any, address: str) -> None:
    """Tables and code scroll within the page."""
    page.set_viewport_size({"width": 400, "height": 800})
    for name in ("index", "performance", "guide/choosing", "api/loss"):
        page.goto(f"{address}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, name

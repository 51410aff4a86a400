"""The site: built without a warning, no link that leads nowhere, every public name on it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from host_build import ROOT

import vitsom_fast

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """Where a page leads, and what of it can be led to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name == "id" and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path.resolve(): Page(path) for path in site.rglob("*.html")}


def test_every_link_leads_somewhere(pages: dict[Path, Page]) -> None:
    followed = 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert parts.scheme in ("https", "mailto", "data"), f"{path.name}: {link}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.name}: {link}"
            if parts.fragment and target in pages and path.name not in ("genindex.html", "search.html"):
                assert unquote(parts.fragment) in pages[target].anchors | {"top"}, f"{path.name}: {link}"
            followed += 1
    assert followed > 1000


def test_every_source_is_a_page(site: Path) -> None:
    sources = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert len(sources) > 20
    assert not [source for source in sources if not (site / source).is_file()]


def test_the_reference_has_every_public_name(pages: dict[Path, Page]) -> None:
    anchors = set().union(*(page.anchors for page in pages.values()))
    names = {f"vitsom_fast.{name}" for name in vitsom_fast.__all__ if name not in ("__version__", "ViTSOM")}
    assert names | {"vitsom_fast.models.ViTSOM", "vitsom_fast.metrics.purity", "vitsom_fast.SOM.fit"} <= anchors


def test_nothing_comes_from_elsewhere(pages: dict[Path, Page]) -> None:
    """No script, style or font of another server: the site can be read from a folder."""
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', text), path


def test_the_index_of_the_search_knows_the_words(site: Path) -> None:
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").rstrip(";\n").removesuffix(")"))
    pages = _as_list(index["terms"]["collaps"]) + _as_list(index["titleterms"]["collaps"])
    assert {"guide/choosing", "guide/recipes"} <= {index["docnames"][page] for page in pages}


def _as_list(pages: int | list[int]) -> list[int]:
    return [pages] if isinstance(pages, int) else pages

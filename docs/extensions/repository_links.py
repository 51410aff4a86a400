"""Links of a page to what lies in the repository and is no page: on the site they are names of files and folders.

In the repository ``[results](../benchmarks/results)`` leads somewhere, on the site nowhere.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def pages_only(text: str, folder: Path, docs: Path) -> str:
    """The text of a page in a folder of ``docs`` with each link that leaves ``docs`` as its words, and where they do not say
    it, the path from the root of the repository."""

    def written(link: re.Match[str]) -> str:
        words, target, place = link[1], Path(os.path.normpath(folder / link[2])), link[3] or ""
        if not target.exists() or not target.is_relative_to(docs.parent):
            return link[0]  # a dead link is for the builder to complain about
        page = _INCLUDED.get(target.relative_to(docs.parent).as_posix())
        if page is None and target.is_relative_to(docs) and target.suffix == ".md":
            page = target.relative_to(docs).as_posix()
        if page is not None:
            return f"[{words}](/{page}{place})"
        path = target.relative_to(docs.parent).as_posix()
        return f"`{path}`" if words.strip("`") in path else f"{words} (`{path}`)"

    return LINK.sub(written, text)


# Files of the root that are pages.
_INCLUDED = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def _read(app: Any, docname: str, source: list[str]) -> None:
    docs = Path(app.srcdir).resolve()
    source[0] = pages_only(source[0], (docs / docname).parent, docs)


def _included(app: Any, relative_path: Path, parent: str, source: list[str]) -> None:
    """An included file: its links are seen from where it lies."""
    docs = Path(app.srcdir).resolve()
    place = Path(os.path.normpath(docs / Path(parent).parent / relative_path)).parent
    source[0] = pages_only(source[0], place, docs)


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", _read)
    app.connect("include-read", _included)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""docs/estimator.md: every line runs, and prints what the page says."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO

import pytest
from host_build import ROOT

PAGE = ROOT / "docs" / "estimator.md"
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def test_the_tutorial_prints_what_it_says() -> None:
    """Words to the letter, numbers within a fifth: the last rows of a map may be others on another processor."""
    pytest.importorskip("pandas")
    blocks = re.findall(r"```python\n(.*?)```(?:\n```text\n(.*?)```)?", PAGE.read_text(), re.DOTALL)
    assert len(blocks) > 6
    names: dict[str, object] = {}
    for code, expected in blocks:
        out = StringIO()
        with redirect_stdout(out):
            exec(code, names)
        assert NUMBER.sub("#", out.getvalue()) == NUMBER.sub("#", expected), code
        for found, written in zip(NUMBER.findall(out.getvalue()), NUMBER.findall(expected), strict=True):
            assert float(found) == pytest.approx(float(written), rel=0.2, abs=1.0 if "." not in written else 0.03)

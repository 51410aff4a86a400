"""Examples of the estimator, on small data where theirs is large."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from host_build import ROOT
from PIL import Image

NAMES = ("colours", "digits", "missing_values", "million_cells", "texts")


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    yield importlib.import_module(request.param)
    sys.modules.pop(request.param, None)


def only(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", [name], indirect=True)


@only("colours")
def test_colours(example: Any, tmp_path: Path) -> None:
    coarse, fine = example.main(tmp_path, side=2), example.main(tmp_path, side=6)
    assert fine < coarse < 60
    with Image.open(tmp_path / "photograph.png") as picture:
        assert 4 < len(picture.getcolors()) <= 36
    with Image.open(tmp_path / "palette.png") as palette:
        assert palette.size == (6 * 32, 6 * 32)


@only("digits")
def test_digits(example: Any, tmp_path: Path) -> None:
    assert example.main(tmp_path, side=8) > 0.8
    assert {path.name for path in tmp_path.iterdir()} == {"prototypes.png", "classes.png", "u_matrix.png"}


@only("missing_values")
def test_missing_values(example: Any, tmp_path: Path) -> None:
    by_map, by_mean = example.main(tmp_path)
    assert by_map < 0.85 * by_mean
    lines = (tmp_path / "filled.csv").read_text().splitlines()
    assert len(lines) == 570
    assert "nan" not in lines[1]


@only("million_cells")
def test_cells(example: Any) -> None:
    rows, population = example.cells(20_000)
    assert rows.shape == (20_000, example.MARKERS)
    assert len(set(population.tolist())) == example.POPULATIONS
    assert example.main(20_000)[0] > 0.9


@only("texts")
def test_texts(example: Any, tmp_path: Path) -> None:
    assert example.main(tmp_path, count=600, side=8) > 0.9
    assert (tmp_path / "subjects.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", NAMES)
def test_each_says_how_it_is_called(name: str) -> None:
    """In the text that --help prints."""
    text = ast.get_docstring(ast.parse((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")))
    assert f"\npython examples/{name}.py" in (text or "")


def test_a_script_runs() -> None:
    command = [sys.executable, str(ROOT / "examples" / "million_cells.py"), "--cells", "20000", "--side", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "20000 cells in" in done.stdout


def test_every_example_is_listed() -> None:
    """In the folder's README, and on the page of the site."""
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert {f"{name}.py" for name in NAMES} < scripts
    for page in ("examples/README.md", "docs/guide/examples.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert not [name for name in scripts if name not in text], page

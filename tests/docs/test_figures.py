"""The figures of the guide are drawn by their scripts, and are on a page."""

from __future__ import annotations

import importlib
import sys

import pytest
from host_build import ROOT

FIGURES = ROOT / "docs" / "figures"
NAMES = sorted(path.stem for path in FIGURES.glob("*.py") if not path.stem.startswith("_"))


def test_every_picture_has_a_script_and_a_page() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert len(NAMES) > 4
    for name in NAMES:
        assert (FIGURES / f"{name}.png").stat().st_size < 100_000
        assert f"figures/{name}.png)" in pages, name
    assert {path.stem for path in FIGURES.glob("*.png")} == set(NAMES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FIGURES))
    monkeypatch.delitem(sys.modules, name, raising=False)
    figure = importlib.import_module(name).draw()
    assert all(axes.has_data() for axes in figure.axes)
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_what_the_figures_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page says of the first: a net that begins too narrow is twisted, one that ends too wide is shrunken."""
    monkeypatch.syspath_prepend(str(FIGURES))
    radius = importlib.import_module("radius")
    twisted, shrunken, good = (radius.fitted(*radii) for radii in radius.CASES.values())
    points = radius.points()
    assert twisted.topographic_error(points) > 3 * max(good.topographic_error(points), 0.01)
    assert abs(shrunken.prototypes_).max() < 0.8 * abs(good.prototypes_).max()
    assert shrunken.quantization_error(points) > 1.5 * good.quantization_error(points)
    monkeypatch.delitem(sys.modules, "radius")

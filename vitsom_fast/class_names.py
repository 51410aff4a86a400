"""Names of classes on a picture, whatever they are: Matplotlib would read mathematics in them, or leave them out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.path import Path as MplPath
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

_LARGEST = 14  # points
_LONGEST_IN_LEGEND = 40  # characters of a name
_LEGEND_WIDTH = 100  # characters in a line


def numbered(labels: Any, classes: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Labels of any kind as integers that index classes, -1 for none, in their shape; and the classes' names. Whole numbers
    index ``classes`` as they are, where there are some; -1, NaN and None are no label.

    Raises:
        ValueError: a label that is no whole number, and none of ``classes`` either.
    """
    values = np.asarray(labels, dtype=object)
    flat = [_label(value) for value in values.ravel()]
    known = [value for value in flat if value is not None]
    if all(isinstance(value, int) and not isinstance(value, bool) for value in known):
        if classes:
            numbers = [-1 if value is None else value for value in flat]
            return np.array(numbers, dtype=np.int64).reshape(values.shape), list(classes)
        names = list(map(str, sorted(set(known))))
    else:
        names = [*classes] or sorted({str(value) for value in known})
    places = {name: place for place, name in enumerate(names)}
    if lacking := sorted({str(value) for value in known} - places.keys()):
        raise ValueError(f"labels must index classes or be among them, {names}, got {lacking[0]!r}")
    numbers = [-1 if value is None else places[str(value)] for value in flat]
    return np.array(numbers, dtype=np.int64).reshape(values.shape), names


def _label(value: Any) -> Any:
    """A label, a whole number as an int; None where there is none."""
    if value is None or type(value).__name__ == "NAType" or value != value:
        return None
    if isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer():
        return None if value == -1 else int(float(value))
    return value


def letters(names: Sequence[str], size: float) -> float:
    """How large the letters of the longest name are, in points, where those of one of two letters have ``size``."""
    return min(size / max(1, 0.55 * max(map(len, names), default=0)), _LARGEST)


def write_names(axes: Axes, cells: NDArray[np.float64], names: Sequence[str], size: float) -> None:
    """Write each name into its cell, an outline (corners, 2), in letters of ``size`` points, smaller the longer it is."""
    for cell, name in zip(cells, map(drawable, names), strict=True):
        fontsize = letters([name], size)
        x, y = cell.mean(axis=0)
        text = axes.text(
            x,
            y,
            name,
            ha="center",
            va="center_baseline",
            fontsize=fontsize,
            path_effects=[withStroke(linewidth=fontsize / 4, foreground="white")],
            parse_math=False,
            usetex=False,
            clip_on=True,
        )
        # A name of a thousand characters, in the smallest letters that there are, leaves its neighbours and the map their room.
        text.set_clip_path(MplPath(cell), axes.transData)


def add_legend(axes: Axes, names: Sequence[str], colors: NDArray[np.float64]) -> None:
    """A legend below the axes: a square of each colour, (classes, 4), with its name, which is cut where it is very long."""
    shown = [name if len(name) <= _LONGEST_IN_LEGEND else name[:_LONGEST_IN_LEGEND] + "…" for name in map(drawable, names)]
    columns = max(1, min(len(shown), 10, _LEGEND_WIDTH // (5 + max(map(len, shown), default=0))))
    marks = [axes.scatter([], [], color=color, marker="s") for color in colors]
    # Matplotlib leaves out what begins with an underscore, and is told about mathematics before it sees a name.
    legend = axes.legend(marks, ["-"] * len(marks), ncols=columns, loc="upper center", bbox_to_anchor=(0.5, 0.0), frameon=False)
    for text, name in zip(legend.get_texts(), shown, strict=True):
        text.set_parse_math(False)
        text.set_usetex(False)
        text.set_text(name)


def drawable(name: str) -> str:
    """The name without what no font has: control characters, and halves of surrogate pairs."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", name))

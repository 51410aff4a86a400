"""The paper's figure 1: how good models are against how large they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from vitsom_fast.reproduction.published import Published

_MARKERS = "osD^vP*Xph"
_UNITS = {"K": 1e3, "M": 1e6}


def plot_sizes(rows: Sequence[dict[str, Any]], published: Sequence[Published], *, score: str, published_score: str) -> Figure:
    """On the left the rows of a comparison, mean and standard deviation of "accuracy" over seeds against "parameters", the
    sizes of each model along a line; on the right the paper's.

    Args:
        score, published_score: what "accuracy" and the paper's scores are.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("rows must be those of at least one model, got none")
    figure = Figure(figsize=(12, 6), dpi=140, layout="constrained")
    ours, theirs = figure.subplots(1, 2)
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        groups.setdefault(row["model"], {}).setdefault(row["size"], []).append(row)
    for index, (model, sizes) in enumerate(groups.items()):
        _draw_model(ours, model, sizes, index)
    data = {each.data: None for each in published}
    for index, name in enumerate(data):
        points = [(_number(each.parameters), each.score, each.model) for each in published if each.data == name]
        x, y, _ = zip(*points, strict=True)
        theirs.scatter(x, y, label=name, **_style(index))
    for index, model in enumerate({each.model: None for each in published}):
        scores = sorted((each.score, _number(each.parameters)) for each in published if each.model == model)
        score_there, size = scores[-1] if index % 2 == 0 else scores[0]  # names in turns above and below, as sizes are alike
        offset = (0, 7) if index % 2 == 0 else (0, -15)
        theirs.annotate(model, (size, score_there), offset, textcoords="offset points", ha="center", fontsize=8)
    for axes, title, what in (
        (ours, "Here", score),
        (theirs, "As published (Luo & Yuan 2025), on other data", published_score),
    ):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.12)
        axes.set_title(title)
        axes.set_xlabel("parameters")
        axes.set_ylabel(what)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)
    return figure


def _draw_model(axes: Axes, model: str, sizes: dict[str, list[dict[str, Any]]], index: int) -> None:
    points = []
    for size, group in sizes.items():
        scores = [row["accuracy"] for row in group if row.get("accuracy") is not None and not math.isnan(row["accuracy"])]
        if scores:
            deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
            points.append((group[0]["parameters"], statistics.fmean(scores), deviation, size))
    if not points:
        return
    points.sort()
    x, y, deviations, names = zip(*points, strict=True)
    style = _style(index)
    axes.errorbar(x, y, np.array(deviations), linewidth=1, capsize=2, markersize=6, label=model, **style)
    for place, name in zip(zip(x, y, strict=True), names, strict=True):
        offset = (5, 5) if name == names[-1] else (5, -9)
        axes.annotate(name, place, offset, textcoords="offset points", fontsize=6.5, color=style["color"])


def _style(index: int) -> dict[str, Any]:
    return {"color": colormaps["tab10"](index % 10), "marker": _MARKERS[index % len(_MARKERS)]}


def _number(text: str) -> float:
    """Of "2.5M"."""
    return float(text[:-1]) * _UNITS[text[-1]]

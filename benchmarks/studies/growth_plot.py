"""Pictures of ``growth.py``: time and memory against the number of prototypes, on logarithmic axes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# This package in red; PyTorch in shades of grey; the peers told apart by their labels more than by their colours.
_COLORS = {
    "cpu": "#d62728",
    "torch": "#f08a6c",
    "eager": "#222222",
    "matmul": "#222222",
    "compile": "#777777",
    "faiss": "#1f5fb4",
    "sklearn": "#2c8c4a",
    "keops": "#8a5a3c",
    "fastersom": "#7b3fa0",
    "minisom": "#b8860b",
    "xpysom": "#148f96",
    "torchsom": "#c2579b",
}
_OURS = {"cpu": "vitsom_fast cpu", "torch": "vitsom_fast torch"}
_LEAST_MB = 1.0  # below, the allocator's own pages are all that is seen
_GAP = 0.042  # between two labels, as a share of the height
_LEAST = 64 * 64  # prototypes: below, what a search has to do whatever the map hides how it grows
_LABELS_WIDTH = 0.5  # as a share of the width that the points take

Point = Mapping[str, str]  # a row of the CSV


def plot_growth(points: Sequence[Point], operation: str) -> Figure:
    """Time to the left and memory to the right, a line for each contender of an operation, labelled where it ends."""
    points = [point for point in points if point["operation"] == operation]
    figure = Figure(figsize=(12.5, 5.6), dpi=130, layout="constrained")
    time, memory = figure.subplots(1, 2)
    _draw(time, points, "median_ms", 0.0)
    _draw(memory, points, "memory_mb", _LEAST_MB)
    time.set_title("time")
    time.yaxis.set_major_formatter(FuncFormatter(_milliseconds))
    memory.set_title("peak memory beyond inputs and gradients")
    memory.yaxis.set_major_formatter(FuncFormatter(lambda mb, _: f"{mb:g} MB" if mb < 1000 else f"{mb / 1000:g} GB"))
    memory.text(0.01, 0.012, "1 MB or less", transform=memory.transAxes, fontsize=7.5, color="#555555")
    what = {"step": "A training step: loss and gradients", "search": "The search for best-matching units"}[operation]
    figure.suptitle(f"{what}: 4096 latents, 192 features, fp32, {points[0]['threads']} threads of an {points[0]['cpu']}")
    return figure


def plot_exponents(points: Sequence[Point]) -> Figure:
    """Time of the search on maps in order, the exponents that it grows with, and a slope of 1 beside ours."""
    figure = Figure(figsize=(9.5, 6.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    powers = exponents(points)
    _draw(axes, points, "median_ms", 0.0, {name: f"$K^{{{power:.2f}}}$" for name, power in powers.items()})
    axes.yaxis.set_major_formatter(FuncFormatter(_milliseconds))
    if "cpu" in powers:
        first, *_, last = (point for point in _lines(points, "median_ms", 0.0)["cpu"] if point[0] >= _LEAST)
        axes.plot([first[0], last[0]], [first[1], first[1] * last[0] / first[0]], "--", color=_COLORS["cpu"], linewidth=1)
    axes.set_title(
        "The search for best-matching units on a map in order\n"
        f"4096 photo patches of 192 features, fp32, {points[0]['threads']} threads of an {points[0]['cpu']}\n"
        f"exponents: of time against prototypes K, from 64 x 64 on; dashed: ours, if it were 1",
        fontsize=10,
    )
    return figure


def exponents(points: Sequence[Point]) -> dict[str, float]:
    """The power of K that a contender's time grows with, by least squares of the logarithms from 64 x 64 on; of those with two
    points there."""
    found = {}
    for name, line in _lines(points, "median_ms", 0.0).items():
        fitted = [(math.log(prototypes), math.log(ms)) for prototypes, ms in line if prototypes >= _LEAST]
        if len(fitted) > 1:
            found[name] = statistics.linear_regression(*zip(*fitted, strict=True)).slope
    return found


def _lines(points: Sequence[Point], quantity: str, least: float) -> dict[str, list[tuple[int, float]]]:
    """What was measured of each contender: (prototypes, quantity)."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for point in points:
        if point[quantity]:
            prototypes = int(point["rows"]) * int(point["cols"])
            lines.setdefault(point["contender"], []).append((prototypes, max(float(point[quantity]), least)))
    return lines


def _draw(axes: Axes, points: Sequence[Point], quantity: str, least: float, remarks: Mapping[str, str] | None = None) -> None:
    lines = _lines(points, quantity, least)
    ends = {
        point["contender"]: f"{_in_short(point['note'])} at {point['rows']} x {point['cols']}"
        for point in points
        if not point[quantity] and point["contender"] in lines
    }
    for name, line in lines.items():
        width = 2.6 if name == "cpu" else 1.4
        axes.plot(*zip(*line, strict=True), "o-", color=_COLORS[name], linewidth=width, markersize=1.6 * width, zorder=width)
    sizes = sorted({prototypes for line in lines.values() for prototypes, _ in line})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(sizes[0] / 1.3, sizes[-1] * (sizes[-1] / sizes[0]) ** _LABELS_WIDTH)
    low, high = axes.get_ylim()
    axes.set_ylim(least or low, 2 * high)  # room for names above the highest line
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda prototypes, _: f"{math.isqrt(int(prototypes))} x {math.isqrt(int(prototypes))}")
    )
    axes.set_xlabel("prototypes")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    _label(axes, lines, ends, remarks or {})


def _milliseconds(ms: float, _: int) -> str:
    return f"{ms:g} ms" if ms < 1000 else f"{ms / 1000:g} s"


def _in_short(note: str) -> str:
    return "out of memory" if note.startswith("does not fit") else note


def _label(
    axes: Axes, lines: Mapping[str, Sequence[tuple[int, float]]], ends: Mapping[str, str], remarks: Mapping[str, str]
) -> None:
    """The contenders' names, each beside the last point of its line, pushed apart where they would lie on each other."""
    low, high = (math.log(limit) for limit in axes.get_ylim())
    for last in sorted({line[-1][0] for line in lines.values()}):
        names = sorted((name for name, line in lines.items() if line[-1][0] == last), key=lambda name: lines[name][-1][1])
        heights = [(math.log(lines[name][-1][1]) - low) / (high - low) for name in names]
        for name, height in zip(names, _apart(heights), strict=True):
            text = f"{_OURS.get(name, name)} {remarks.get(name, '')}".rstrip() + (f": {ends[name]}" if name in ends else "")
            axes.annotate(
                text,
                lines[name][-1],
                xytext=(last * 1.35, math.exp(low + height * (high - low))),
                color=_COLORS[name],
                fontsize=8.5,
                fontweight="bold" if name == "cpu" else "normal",
                verticalalignment="center",
                arrowprops={"arrowstyle": "-", "color": _COLORS[name], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2},
            )


def _apart(heights: Iterable[float]) -> list[float]:
    """Ascending heights within [0, 1], moved as little as a pass upwards and one downwards need to keep them ``_GAP`` apart."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + _GAP if moved else _GAP / 2))
    ceiling = 1.0
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - _GAP
    return moved

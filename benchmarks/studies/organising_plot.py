"""The picture of ``organising.py``: how well the map fits, and how much of it a search looks at, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

_OURS, _REFERENCE = "#d62728", "#222222"

Epoch = Mapping[str, str]  # a row of the CSV


def plot_organising(epochs: Sequence[Epoch]) -> Figure:
    """The quantization error of both runs to the left, the tiles that the search of ours looks into to the right."""
    ours, theirs = ([epoch for epoch in epochs if epoch["backend"] == backend] for backend in ("cpu", "reference"))
    figure = Figure(figsize=(11.5, 4.4), dpi=130, layout="constrained")
    fit, search = figure.subplots(1, 2)
    for run, color, style, label in (
        (theirs, _REFERENCE, "o", f"reference: {float(theirs[-1]['seconds']):.0f} s"),
        (ours, _OURS, ".-", f"vitsom_fast cpu: {float(ours[-1]['seconds']):.1f} s"),
    ):
        errors = [float(epoch["quantization_error"]) for epoch in run]
        fit.plot([int(epoch["epoch"]) for epoch in run], errors, style, color=color, markerfacecolor="none", label=label)
    fit.set_yscale("log")
    fit.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    fit.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:g}"))
    fit.yaxis.set_minor_locator(NullLocator())
    fit.set_title("how far a new patch is from its nearest prototype\n(quantization error, cosine distance)", fontsize=10)
    fit.legend(frameon=False, title=f"{ours[-1]['epoch']} epochs take")
    shares = [100 * float(epoch["tiles"]) for epoch in ours]
    search.plot([int(epoch["epoch"]) for epoch in ours], shares, ".-", color=_OURS)
    search.annotate(
        f"{shares[-1]:.1f} %", (int(ours[-1]["epoch"]), shares[-1]), (0, 8), textcoords="offset points", ha="center"
    )
    search.set_ylim(0, 105)
    search.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g} %"))
    search.set_title("how much of the map its search has to look into\n(tiles of 4 x 4 prototypes)", fontsize=10)
    for axes in (fit, search):
        _plain(axes)
    figure.suptitle(f"A random map of {ours[0]['rows']} x {ours[0]['cols']} prototypes learns photo patches")
    return figure


def _plain(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)

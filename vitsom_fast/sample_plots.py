"""Pictures of samples: where their latents lie, and what a ViT looks at in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from vitsom_fast.class_names import add_legend

_PANEL = 3.0  # inches a side
_DPI = 140
_MOST_IN_LEGEND = 20
_NO_LABEL = "#555555"


def plot_embedding(
    places: Mapping[str, NDArray[np.float64]], *, labels: Tensor | None = None, classes: Sequence[str] = (), how: str = ""
) -> Figure:
    """Latents in two dimensions, a panel for each moment of a training (the paper's figure 3).

    Args:
        places: by the title of the panel, (N, 2).
        labels: (N,) integers that index ``classes``, -1 for none; None for one colour.
        how: two dimensions were made of many.
    """
    figure = Figure(figsize=(_PANEL * max(len(places), 2), _PANEL + 0.9), dpi=_DPI, layout="constrained")
    grid = figure.add_gridspec(2, len(places), height_ratios=(1, 0.01))
    colors = np.tile(to_rgba(_NO_LABEL), (len(next(iter(places.values()))), 1))
    palette = _palette(len(classes))
    if labels is not None and len(classes):
        known = labels.numpy() >= 0
        colors[known] = palette[labels.numpy()[known]]
    for index, (title, where) in enumerate(places.items()):
        axes = figure.add_subplot(grid[0, index])
        axes.scatter(where[:, 0], where[:, 1], s=7, c=colors, linewidths=0, alpha=0.85)
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(f"Latents of {len(colors)} images{', ' + how if how else ''}")
    if labels is not None and 0 < len(classes) <= _MOST_IN_LEGEND:
        below = figure.add_subplot(grid[1, :])
        below.set_axis_off()
        add_legend(below, classes, palette)
    return figure


def plot_attention(images: Tensor, attention: Tensor, *, title: str, names: Sequence[str]) -> Figure:
    """Images (N, C, H, W) in [0, 1], and below each how much its patches are looked at, (N, rows, cols), each number a share of
    the whole; 1 in the picture is what all would have if it were even.

    Args:
        names: of the images.
    """
    count = len(images)
    figure = Figure(figsize=(1.25 * max(count, 5) + 0.8, 3.3), dpi=_DPI, layout="constrained")
    figure.suptitle(title)
    times = (attention * attention[0].numel()).numpy()  # [N, rows, cols]
    grid = figure.add_gridspec(2, count)
    lower = []
    for index in range(count):
        above, below = (figure.add_subplot(grid[row, index]) for row in (0, 1))
        above.set_title(names[index], fontsize=9, parse_math=False)
        pixels = images[index].permute(1, 2, 0).numpy()  # [H, W, C]
        above.imshow(pixels if pixels.shape[2] == 3 else pixels.mean(axis=2), cmap="gray", vmin=0, vmax=1)
        shown = below.imshow(times[index], cmap="inferno", vmin=times.min(), vmax=times.max())
        lower.append(below)
        for axes in (above, below):
            axes.set_xticks([])
            axes.set_yticks([])
    figure.colorbar(shown, ax=lower, label="attention", shrink=0.9, aspect=12, pad=0.02)
    return figure


def _palette(count: int) -> NDArray[np.float64]:
    if count <= 20:
        return np.asarray(colormaps["tab10" if count <= 10 else "tab20"](np.arange(count)))
    return colormaps["turbo"](np.linspace(0, 1, count))

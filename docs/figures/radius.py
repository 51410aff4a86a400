"""A map of points of the plane, with a radius that begins too small, ends too large, or neither."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitsom_fast import SOM

SIDE = 12
CASES = {
    "begins too small: 1 to 0.5": (1.0, 0.5),
    "ends too large: 6 to 3": (6.0, 3.0),
    "6 to 0.5": (6.0, 0.5),
}


def points() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (4000, 2))


def fitted(first: float, last: float) -> SOM:
    return SOM(SIDE, SIDE, init="random", sigma_initial=first, sigma_final=last, n_epochs=30, random_state=0).fit(points())


def draw() -> Figure:
    figure = Figure(figsize=(10.5, 4.0), layout="constrained")
    for axes, (title, radii) in zip(figure.subplots(1, 3), CASES.items(), strict=True):
        som = fitted(*radii)
        draw_net(axes, som.prototypes_.reshape(SIDE, SIDE, 2))
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(
            f"quantization error {som.quantization_error(points()):.3f}, topographic {som.topographic_error(points()):.2f}"
        )
    return figure


def draw_net(axes: Axes, net: np.ndarray) -> None:
    """The prototypes (rows, cols, 2) over the points, each joined to its neighbours."""
    axes.scatter(*points().T, s=2, color="#c9d6e2", linewidths=0)
    for line in (*net, *net.transpose(1, 0, 2)):
        axes.plot(*line.T, color="#1f4e79", linewidth=0.9, marker="o", markersize=2.2)
    axes.set(xticks=[], yticks=[], aspect="equal")

"""178 wines with proline in hundreds and the other features in ones, and with all features alike."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from vitsom_fast import SOM

COLOURS = np.array(["#0072b2", "#e69f00", "#009e73"])


def draw() -> Figure:
    rows, kind = load_wine(return_X_y=True)
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    given, standardised = figure.subplots(1, 2)
    scatter(given, rows, kind, "as given")
    scatter(standardised, StandardScaler().fit_transform(rows), kind, "standardised")
    return figure


def scatter(axes: Axes, rows: np.ndarray, kind: np.ndarray, title: str) -> None:
    """Each wine on its unit, by its kind, a little aside of it."""
    som = SOM(9, 8).fit(rows)
    row, column = np.divmod(som.labels_, som.n_cols)
    aside = np.random.default_rng(0).uniform(-0.3, 0.3, (2, len(rows)))
    axes.scatter(column + aside[0], row + aside[1], c=COLOURS[kind], s=14)
    own = sum(np.bincount(kind[som.labels_ == unit]).max() for unit in np.unique(som.labels_))
    axes.set_title(f"{title}: {own / len(rows):.2f} are where most are of their kind", fontsize=11)
    axes.set(xticks=range(som.n_cols), yticks=range(som.n_rows), xlim=(-0.6, 7.6), ylim=(8.6, -0.6), aspect="equal")

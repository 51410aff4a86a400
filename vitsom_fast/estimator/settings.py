"""The settings of a map: whether they are right, and what those that are None stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from vitsom_fast import backends, neighborhoods
from vitsom_fast.arguments import finite_number, whole_number
from vitsom_fast.estimator.rows import Rows
from vitsom_fast.functional import DISTANCES, MISSING, check_choice
from vitsom_fast.grid import Grid
from vitsom_fast.initialization import METHODS
from vitsom_fast.messages import one_line
from vitsom_fast.schedules import SCHEDULES, Schedule


def check(som: Any) -> None:
    """Raises the TypeError or ValueError that names a setting which is wrong."""
    neighborhoods.check(som.grid, som.neighborhood)
    check_choice("metric", som.metric, DISTANCES)
    check_choice("schedule", som.schedule, tuple(SCHEDULES))
    check_choice("missing", som.missing, MISSING)
    check_choice("backend", som.backend, ("auto", *backends.NAMES))
    if isinstance(som.init, str):
        check_choice("init", som.init, METHODS)
    whole_number("n_epochs", som.n_epochs)
    if som.batch_size is not None:
        whole_number("batch_size", som.batch_size)
    for name in ("sigma_initial", "sigma_final"):
        value = getattr(som, name)
        if value is not None and finite_number(name, value) <= 0:
            raise ValueError(f"{name} must be above 0 or None, got {value}")


def fitted_prototypes(som: Any) -> NDArray[np.float64]:
    """(K, D) of a fitted map.

    Raises:
        NotFittedError: it is none.
        TypeError, ValueError: a setting is wrong, or its size was changed since.
    """
    check_is_fitted(som)
    check(som)
    if len(som.prototypes_) != som.grid.num_prototypes:
        raise ValueError(
            f"n_rows and n_cols must be those of the fitted map of {len(som.prototypes_)} units, got {som.n_rows} and"
            f" {som.n_cols}: fit it anew"
        )
    return np.asarray(som.prototypes_)


def temperature(som: Any) -> Schedule:
    """The neighborhood radius of every epoch."""
    is_ordered = not isinstance(som.init, str) or som.init == "pca"
    longest = max(som.n_rows, som.n_cols)
    first = max(longest / (4 if is_ordered else 2), 1.0) if som.sigma_initial is None else som.sigma_initial
    last = min(0.5, first) if som.sigma_final is None else som.sigma_final
    return SCHEDULES[som.schedule](first, last, som.n_epochs)


def initial(som: Any, rows: Rows) -> str | Tensor:
    """Where the prototypes begin: a method, or the prototypes (K, D) fp64 where the rows are."""
    if isinstance(som.init, str):
        return som.init
    prototypes = checked_prototypes("init", som.init, som.grid)
    if prototypes.shape[1] != rows.dim:
        raise ValueError(f"init must have the {rows.dim} features of X, got shape {np.shape(som.init)}")
    return torch.from_numpy(prototypes).to(rows.device)


def as_numbers(name: str, value: Any) -> NDArray[np.float64]:
    """An array, list or table as fp64.

    Raises:
        ValueError: it holds what is no real number; the message names it.
    """
    array = np.asarray(value)
    try:
        if array.dtype.kind == "c":
            raise TypeError("complex numbers")
        return np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be of real numbers: {one_line(error)}") from error


def checked_prototypes(name: str, table: Any, grid: Grid) -> NDArray[np.float64]:
    """(K, D) of a table (K, D) or (rows, cols, D)."""
    if isinstance(table, Tensor):
        table = table.detach().cpu().double().numpy()
    prototypes = as_numbers(name, table).copy()
    shapes = f"({grid.num_prototypes}, D) or ({grid.rows}, {grid.cols}, D)"
    if prototypes.ndim == 3 and prototypes.shape[:2] == (grid.rows, grid.cols):
        prototypes = prototypes.reshape(grid.num_prototypes, -1)
    if prototypes.ndim != 2 or len(prototypes) != grid.num_prototypes or prototypes.shape[1] < 1:
        raise ValueError(f"{name} must have shape {shapes}, got {prototypes.shape}")
    if not np.isfinite(prototypes).all():
        raise ValueError(f"{name} must be finite, got numbers that are not")
    return np.ascontiguousarray(prototypes)

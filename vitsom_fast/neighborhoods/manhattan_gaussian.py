"""The Gaussian of the Manhattan distance, ``exp(-d_1^2 / T^2)``, on rectangular grids."""

from __future__ import annotations

import torch
from torch import Tensor

from vitsom_fast.grid import Grid
from vitsom_fast.neighborhoods.assumptions import Neighborhood, radius_of
from vitsom_fast.neighborhoods.inseparable import grouped, low_rank, terms_of_table

TOPOLOGIES = ("rectangular",)


def terms(
    grid: Grid, temperature: float | Tensor, *, device: torch.device, dtype: torch.dtype, weigh: object = None
) -> Neighborhood:
    """About ten terms in fp32, each weight right to within 2^-21 of the largest one. The value of a tensor is read, which waits
    for its device."""
    return terms_of_table(grid, temperature, weights, low_rank, device=device, dtype=dtype)


def relative_terms(
    grid: Grid, temperature: float | Tensor, *, device: torch.device, dtype: torch.dtype, weigh: object = None
) -> Neighborhood:
    """A term for each offset along the shorter axis, and each weight right in relation to itself: a mean may be of far units
    only."""
    return terms_of_table(grid, temperature, weights, grouped, device=device, dtype=dtype)


def weights(grid: Grid, row_lengths: Tensor, col_lengths: Tensor, temperature: float | Tensor) -> Tensor:
    """(P, Q) at these lengths, in rows and in columns."""
    ratio = (row_lengths[:, None] + col_lengths) / radius_of(temperature, col_lengths)
    return (-ratio.square()).exp()

"""The bubble: 1 where ``d <= T``, else 0.

Row offsets that reach equally far along the columns are one term, of zeros and ones: that is exact, and as few as any terms
could be, for this is the rank of the table. A disc of radius T has about 0.6 T of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vitsom_fast.grid import Grid
from vitsom_fast.neighborhoods.assumptions import Neighborhood
from vitsom_fast.neighborhoods.inseparable import grouped, terms_of_table


def terms(
    grid: Grid, temperature: float | Tensor, *, device: torch.device, dtype: torch.dtype, weigh: object = None
) -> Neighborhood:
    """The value of a tensor is read, which waits for its device."""
    return terms_of_table(grid, temperature, weights, grouped, device=device, dtype=dtype)


def weights(grid: Grid, row_lengths: Tensor, col_lengths: Tensor, temperature: float | Tensor) -> Tensor:
    """(P, Q) at these lengths, in rows and in columns. They are compared in the precision of T: neighbours on a hexagonal grid
    are within 1, and what is sqrt(3) away within a T of sqrt(3) in fp32."""
    pitch = 0.75 if grid.topology == "hexagonal" else 1.0  # squared
    distance = (pitch * row_lengths[:, None].square() + col_lengths.square()).sqrt()
    if not isinstance(temperature, Tensor):
        return (distance <= temperature).to(distance.dtype)
    inside = (distance.to(temperature.dtype) <= temperature).to(distance.dtype)
    return torch.where(temperature > 0, inside, math.nan)

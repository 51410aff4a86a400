"""The triangle, ``max(0, 1 - |offset| / T)`` along both axes, multiplied: one term for each part of the offsets."""

from __future__ import annotations

import torch
from torch import Tensor

from vitsom_fast.grid import Grid
from vitsom_fast.neighborhoods.assumptions import Neighborhood, radius_of, widest_on
from vitsom_fast.neighborhoods.offsets import by_axis, squared_offsets


def terms(
    grid: Grid, temperature: float | Tensor, *, device: torch.device, dtype: torch.dtype, weigh: object = None
) -> Neighborhood:
    squared = squared_offsets(grid, device, widest_on(device))
    weights = (1 - squared.sqrt() / radius_of(temperature, squared)).clamp_min(0)
    return Neighborhood(*by_axis(grid, weights.to(dtype)))

"""The Gaussian of the paper, ``exp(-d^2 / (2 T^2))``: a product over the axes, one term for each part of the offsets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitsom_fast.grid import Grid
from vitsom_fast.neighborhoods.assumptions import Neighborhood, radius_of
from vitsom_fast.neighborhoods.offsets import by_axis, squared_offsets


def terms(
    grid: Grid,
    temperature: float | Tensor,
    *,
    device: torch.device,
    dtype: torch.dtype,
    weigh: Callable[[Tensor, float | Tensor], Tensor] | None = None,
) -> Neighborhood:
    """``weigh``: ``gaussian_weights`` or a backend's own form of it."""
    table = squared_offsets(grid, device, dtype)
    return Neighborhood(*by_axis(grid, (weigh or gaussian_weights)(table, temperature)))  # one call for both axes


def gaussian_weights(squared_offsets: Tensor, temperature: float | Tensor) -> Tensor:
    """``exp(-offset^2 / (2 T^2))`` in the dtype and on the device of the offsets; NaN where a tensor T is not positive."""
    radius = radius_of(temperature, squared_offsets)
    exponent = -0.5 / (radius.square() if isinstance(radius, Tensor) else radius**2)
    return (squared_offsets * exponent).exp_()

"""The Mexican hat, ``(1 - d^2 / T^2) exp(-d^2 / (2 T^2))``: near units are pulled along, those beyond T pushed away.

With e the Gaussian of the offset along an axis and a = offset^2 / T^2, both axes have their share of d^2:
``(1 - a_r - a_c) e_r e_c = (1 - a_r) e_r e_c - e_r a_c e_c``, two terms for each part of the offsets.
"""

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
    radius = radius_of(temperature, squared)
    ratio = squared / radius / radius
    gaussian = (-0.5 * ratio).exp()
    bent = torch.where(gaussian == 0, 0.0, ratio * gaussian)  # an offset may be infinite
    (row_gaussian, col_gaussian), (row_bent, col_bent) = by_axis(grid, gaussian), by_axis(grid, bent)
    rows = torch.cat([row_gaussian - row_bent, row_gaussian])
    cols = torch.cat([col_gaussian, -col_bent])
    return Neighborhood(rows.to(dtype), cols.to(dtype))

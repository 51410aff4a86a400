"""What a neighborhood is to those who apply it, and what they may assume of its factors; a test holds every kind to it.

- The weight of a BMU itself is 1, and no weight is larger in size. Weights may be negative: whether one is negligible is asked
  of its magnitude, never of its sign.
- The sum of the terms is symmetric in its two units. A single term need not be, where rows of the grid are shifted.
- No factor is larger than ``LARGEST_FACTOR`` in size, as the fp16 halves of the Triton smoothing hold less than 4.
- A backend may drop what is smaller in size than ``NEGLIGIBLE`` in a factor, in its loss: with a partner of at most
  ``LARGEST_FACTOR`` it moves a weight by less than fp32 sees beside the 1 of the BMU. Gradients count what a short prototype
  makes large, and the primitive ``smooth`` drops nothing.
- Where a temperature that is a tensor is not positive, every weight is NaN: a check would have to wait for the device.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LARGEST_FACTOR = 2.0
NEGLIGIBLE = 2.0**-28

# -1 / (2 T^2) must stay finite in fp32; a Gaussian this narrow is already 1 at its centre and exactly 0 elsewhere.
_SMALLEST_TEMPERATURE = 1e-18
_LARGEST_TEMPERATURE = 1e18


class Neighborhood(NamedTuple):
    """The weights h between all units: ``h[(r, c), (s, d)] = sum_t rows[t, r, s] * cols[t, c, d]``.

    ``rows`` is (terms, R, R) and ``cols`` (terms, C, C) for a grid of R rows and C columns.
    """

    rows: Tensor
    cols: Tensor


def radius_of(temperature: float | Tensor, like: Tensor) -> float | Tensor:
    """T within what every dtype can square, a tensor in dtype and on device of another; NaN where it is not positive."""
    if not isinstance(temperature, Tensor):
        return min(max(temperature, _SMALLEST_TEMPERATURE), _LARGEST_TEMPERATURE)
    radius = temperature.detach().to(like)
    return torch.where(radius > 0, radius.clamp(_SMALLEST_TEMPERATURE, _LARGEST_TEMPERATURE), math.nan)


def widest_on(device: torch.device) -> torch.dtype:
    """The dtype in which factors are computed before they are rounded once: fp64, but for devices that have none."""
    return torch.float32 if device.type == "mps" else torch.float64

"""How strongly the units of a map pull on one another: one small file a kind, each with ``terms(grid, temperature)``.

A neighborhood is handed to the backends as data, a sum of separable terms, so that no backend knows what a kind or a topology
is. What they may assume of it is in ``assumptions``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitsom_fast.arguments import device_of
from vitsom_fast.grid import Grid
from vitsom_fast.neighborhoods import gaussian
from vitsom_fast.neighborhoods.assumptions import Neighborhood

__all__ = ["NEIGHBORHOODS", "Neighborhood", "check", "neighborhood"]

_KINDS = {"gaussian": gaussian}
NEIGHBORHOODS = tuple(_KINDS)


def neighborhood(
    grid: Grid,
    temperature: float | Tensor,
    kind: str = "gaussian",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weigh: Callable[[Tensor, float | Tensor], Tensor] | None = None,
) -> Neighborhood:
    """The weights between all units of a grid, as separable factors.

    Args:
        temperature: T > 0, in units of the grid; a float, or a 0-dim tensor that is read on its device. A tensor that holds no
            positive number gives NaN weights: a check would have to wait for the device.
        kind: one of ``NEIGHBORHOODS``.
        device, dtype: where and in what the factors are.
        weigh: a backend's own form of ``gaussian.gaussian_weights``.

    Raises:
        TypeError: a dtype that is not floating.
        ValueError: an unknown kind or device.
    """
    check(grid, kind)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating torch.dtype, got {dtype!r}")
    return _KINDS[kind].terms(grid, temperature, device=device_of(device), dtype=dtype, weigh=weigh)


def check(grid: Grid, kind: str) -> None:
    """Raises the ValueError that says why a grid cannot have this kind of neighborhood."""
    if kind not in NEIGHBORHOODS:
        raise ValueError(f"neighborhood must be one of {NEIGHBORHOODS}, got {kind!r}")

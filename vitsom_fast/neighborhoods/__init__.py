"""How strongly the units of a map pull on one another: one small file a kind, each with ``terms(grid, temperature)``.

A neighborhood is handed to the backends as data, a sum of separable terms, so that no backend knows what a kind or a topology
is. What they may assume of it is in ``assumptions``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vitsom_fast.arguments import device_of
from vitsom_fast.grid import TOPOLOGIES, Grid
from vitsom_fast.neighborhoods import bubble, gaussian, manhattan_gaussian, mexican_hat, triangle
from vitsom_fast.neighborhoods.assumptions import Neighborhood

__all__ = ["NEIGHBORHOODS", "SIGNED", "Neighborhood", "check", "neighborhood"]

_KINDS: dict[str, Any] = {
    "gaussian": gaussian,
    "bubble": bubble,
    "mexican_hat": mexican_hat,
    "triangle": triangle,
    "manhattan_gaussian": manhattan_gaussian,
}
NEIGHBORHOODS = tuple(_KINDS)

# Kinds that have negative weights.
SIGNED = ("mexican_hat",)

# Factors are square matrices of an axis. Losses do without on a longer one (``vitsom_fast.long_axis``, ``long_axis_pairs``).
LONGEST_AXIS = 4096


def neighborhood(
    grid: Grid,
    temperature: float | Tensor,
    kind: str = "gaussian",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weigh: Callable[[Tensor, float | Tensor], Tensor] | None = None,
    relative: bool = False,
) -> Neighborhood:
    """The weights between all units of a grid, as separable factors.

    Args:
        temperature: T > 0, in units of the grid; a float, or a 0-dim tensor that is read on its device. A tensor that holds no
            positive number gives NaN weights: a check would have to wait for the device.
        kind: one of ``NEIGHBORHOODS``. With d the distance on the grid and d_1 the sum of the two offsets,
            "gaussian": exp(-d^2 / (2 T^2)); "bubble": 1 where d <= T, else 0;
            "mexican_hat": (1 - d^2 / T^2) exp(-d^2 / (2 T^2)), negative beyond T;
            "triangle": max(0, 1 - |offset| / T) along both axes, multiplied;
            "manhattan_gaussian": exp(-d_1^2 / T^2), on rectangular grids.
            For "bubble" and "manhattan_gaussian" the value of a tensor is read: that waits for the device.
        device, dtype: where and in what the factors are.
        weigh: a backend's own form of ``gaussian.gaussian_weights``; other kinds have no use for it.
        relative: whether each weight must be right in relation to itself, not to the largest one: more terms for
            "manhattan_gaussian", the same for all others.

    Raises:
        TypeError: a dtype that is not floating.
        ValueError: an unknown kind or device, a kind that the topology does not have, or, but for the Gaussian, an axis of more
            than 4096 units.
    """
    check(grid, kind)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating torch.dtype, got {dtype!r}")
    if kind != "gaussian" and not has_factors(grid):
        raise ValueError(
            f"neighborhood {kind!r} has factors on a grid of at most {LONGEST_AXIS} units along an axis, got {grid.rows} x"
            f" {grid.cols}"
        )
    own = _KINDS[kind]
    terms = getattr(own, "relative_terms", own.terms) if relative else own.terms
    return terms(grid, temperature, device=device_of(device), dtype=dtype, weigh=weigh)


def has_factors(grid: Grid) -> bool:
    """Whether no axis of this grid is longer than any that factors are made of."""
    return max(grid.rows, grid.cols) <= LONGEST_AXIS


def check(grid: Grid, kind: str) -> None:
    """Raises the ValueError that says why a grid cannot have this kind of neighborhood."""
    if kind not in NEIGHBORHOODS:
        raise ValueError(f"neighborhood must be one of {NEIGHBORHOODS}, got {kind!r}")
    if grid.topology not in getattr(_KINDS[kind], "TOPOLOGIES", TOPOLOGIES):
        raise ValueError(f"neighborhood {kind!r} needs a rectangular topology, got {grid.topology!r}")

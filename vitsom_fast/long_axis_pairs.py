"""Losses and sums on a map with an axis too long for its matrix, under every distance and neighborhood: the formulas as they
stand, for some samples at a time. Time O(B K D), memory O(B D + K D).

The loss by cosine with the Gaussian has a form of its own (``long_axis``), which leaves out what is out of reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vitsom_fast import neighborhoods, reference
from vitsom_fast.backends import transforms
from vitsom_fast.backends.centred import poison
from vitsom_fast.backends.unit_rows import widest
from vitsom_fast.grid import Grid
from vitsom_fast.neighborhoods.assumptions import radius_of

if TYPE_CHECKING:
    from vitsom_fast.backends.compose import Primitives

# Pairs of a sample and a unit at a time: 1 M are 8 MB in fp64, of which there are about ten.
_PAIRS = 1 << 20


def sample_losses(
    bmu: Tensor, z: Tensor, prototypes: Tensor, grid: Grid, temperature: float | Tensor, distance: str, neighborhood: str
) -> Tensor:
    """``L_i = sum_k h_ik d_ik``, (B,) in the widest dtype, for BMUs (B,), latents (B, D) and prototypes (K, D); differentiable.
    Distances are made once more in the backward pass."""
    x, units = z.to(widest(z)), prototypes.to(widest(z))
    weights = PairWeights(grid, temperature, neighborhood, x)

    def losses(bmu: Tensor, x: Tensor, units: Tensor) -> Tensor:
        return (weights.of(bmu) * reference.distances(x, units, distance)).sum(dim=1)

    if transforms.is_at_work():  # which know of no recomputing
        return losses(bmu, x, units) + poison(z, prototypes)
    parts = [
        checkpoint(losses, bmu[part], x[part], units, use_reentrant=False, preserve_rng_state=False)
        for part in _parts(len(x), grid)
    ]
    return torch.cat([x.sum(dim=1)[:0], *parts]) + poison(z, prototypes)


def pulling(
    own: Primitives, grid: Grid, temperature: float | Tensor, neighborhood: str, like: Tensor
) -> Callable[[Tensor], Tensor]:
    """What applies ``G'`` to K rows of the device and dtype of ``like``: a backend's smoothing, or on a long axis the weights
    of those units that have anything to spread."""
    if neighborhoods.has_factors(grid):
        factors = neighborhoods.neighborhood(
            grid, temperature, neighborhood, device=like.device, dtype=like.dtype, relative=True
        )
        return lambda x: own.smooth(x, factors.rows.mT, factors.cols.mT)

    def pull(x: Tensor) -> Tensor:
        units = (x != 0).any(dim=1).nonzero()[:, 0]
        return spread(x[units], units, grid, temperature, neighborhood).to(x.dtype)

    return pull


def spread(x: Tensor, bmu: Tensor, grid: Grid, temperature: float | Tensor, neighborhood: str) -> Tensor:
    """``G' A``, (K, C): to each unit the rows x (B, C), weighted with the neighborhood of their BMUs (B,)."""
    total = x.new_zeros(grid.num_prototypes, x.shape[1], dtype=widest(x))
    weights = PairWeights(grid, temperature, neighborhood, total)
    for part in _parts(len(x), grid):
        total += weights.of(bmu[part]).T @ x[part].to(total.dtype)
    return total


class PairWeights:
    """The weights between BMUs and all units, cut out of one table of all offsets: a weight depends on nothing else, but on a
    hexagonal grid for the parity of the BMU's row.

    Args:
        like: a tensor of the dtype and on the device that they are to have.
    """

    def __init__(self, grid: Grid, temperature: float | Tensor, neighborhood: str, like: Tensor) -> None:
        radius = radius_of(temperature, like)
        down = torch.arange(1 - grid.rows, grid.rows, device=like.device)  # [2 R - 1]
        across = torch.arange(1 - grid.cols, grid.cols, device=like.device).to(like.dtype)  # [2 C - 1]
        tables = []
        for parity in range(1 + (grid.topology == "hexagonal")):
            shift = 0.5 * ((down + parity) % 2 - parity).to(like.dtype) * (grid.topology == "hexagonal")  # [2 R - 1]
            offset = torch.stack(torch.broadcast_tensors(down.to(like.dtype)[:, None], across + shift[:, None]), dim=-1)
            tables.append(reference.weights_of_offsets(offset, grid, radius, neighborhood))
        table = torch.stack(tables) + 0 * radius  # [parities, 2 R - 1, 2 C - 1], NaN where T is not positive
        self._grid = grid
        self._windows = table.unfold(1, grid.rows, 1).unfold(2, grid.cols, 1)  # [parities, R, C, R, C], in the same memory

    def of(self, bmu: Tensor) -> Tensor:
        """(n, K) of BMUs (n,)."""
        row, col = bmu.div(self._grid.cols, rounding_mode="floor"), bmu % self._grid.cols
        return self._windows[row % len(self._windows), self._grid.rows - 1 - row, self._grid.cols - 1 - col].flatten(1)


def _parts(batch: int, grid: Grid) -> Iterator[slice]:
    step = max(1, _PAIRS // grid.num_prototypes)
    return (slice(first, first + step) for first in range(0, batch, step))

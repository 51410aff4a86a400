"""Losses and sums on a map with an axis too long for its matrix, under every distance and neighborhood: the formulas as they
stand, for some samples at a time. Time O(B K D), memory O(B D + K D).

The loss by cosine with the Gaussian has a form of its own (``long_axis``), which leaves out what is out of reach.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vitsom_fast import neighborhoods, reference
from vitsom_fast.backends import transforms
from vitsom_fast.backends.distances.losses import poison_of
from vitsom_fast.backends.unit_rows import widest
from vitsom_fast.grid import Grid

# Pairs of a sample and a unit at a time: 1 M are 8 MB in fp64, of which there are about ten.
_PAIRS = 1 << 20


def serves(grid: Grid) -> bool:
    """Whether an axis of this grid is longer than any that factors are made of."""
    return max(grid.rows, grid.cols) > neighborhoods.LONGEST_AXIS


def sample_losses(
    bmu: Tensor, z: Tensor, prototypes: Tensor, grid: Grid, temperature: float | Tensor, distance: str, neighborhood: str
) -> Tensor:
    """``L_i = sum_k h_ik d_ik``, (B,) in the widest dtype, for BMUs (B,), latents (B, D) and prototypes (K, D); differentiable.
    Distances are made once more in the backward pass."""
    x, units = z.to(widest(z)), prototypes.to(widest(z))

    def losses(bmu: Tensor, x: Tensor, units: Tensor) -> Tensor:
        weights = reference.neighborhood_weights(bmu, grid, temperature, x.dtype, neighborhood)  # [n, K]
        return (weights * reference.distances(x, units, distance)).sum(dim=1)

    if transforms.is_at_work():  # which know of no recomputing
        return losses(bmu, x, units) + poison_of(z, prototypes)
    parts = [
        checkpoint(losses, bmu[part], x[part], units, use_reentrant=False, preserve_rng_state=False)
        for part in _parts(len(x), grid)
    ]
    return torch.cat([x.sum(dim=1)[:0], *parts]) + poison_of(z, prototypes)


def spread(x: Tensor, bmu: Tensor, grid: Grid, temperature: float | Tensor, neighborhood: str) -> Tensor:
    """``G' A``, (K, C): to each unit the rows x (B, C), weighted with the neighborhood of their BMUs (B,)."""
    total = x.new_zeros(grid.num_prototypes, x.shape[1], dtype=widest(x))
    for part in _parts(len(x), grid):
        weights = reference.neighborhood_weights(bmu[part], grid, temperature, total.dtype, neighborhood)  # [n, K]
        total += weights.T @ x[part].to(total.dtype)
    return total


def _parts(batch: int, grid: Grid) -> Iterator[slice]:
    step = max(1, _PAIRS // grid.num_prototypes)
    return (slice(first, first + step) for first in range(0, batch, step))

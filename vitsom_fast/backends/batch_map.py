"""One step of a batch SOM in two halves: the sums of the rows of each unit, which may come in chunks and from many machines,
and the means that the neighborhood makes of them (Kohonen 2001, section 3.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vitsom_fast.backends.unit_rows import widest

if TYPE_CHECKING:
    from vitsom_fast.backends.compose import Primitives


def no_sums(prototypes: Tensor, *, by_feature: bool = False) -> Tensor:
    """Zeros in the widest dtype for the units of prototypes (K, D): (K, D + 1), the sums of the rows and their weight, or,
    where each feature has a weight of its own, (K, 2 D)."""
    num_prototypes, dim = prototypes.shape
    return torch.zeros(num_prototypes, dim + (dim if by_feature else 1), dtype=widest(prototypes), device=prototypes.device)


def add_rows(
    own: Primitives,
    sums: Tensor,
    x: Tensor,
    bmu: Tensor,
    sample_weight: Tensor | None = None,
    known: Tensor | None = None,
) -> None:
    """Adds the rows x (B, D) of the BMUs (B,), each of its weight (B,), to ``sums`` of ``no_sums``; with ``known`` (B, D), of
    sums by feature, only the features that it says. Repeatable bit for bit."""
    dim = x.shape[1]
    if sample_weight is None and known is None:
        added, counts = own.sum_by_bmu(x, bmu, sums.shape[0])
        sums[:, :dim] += added
        sums[:, dim] += counts
        return
    wide = x.to(sums.dtype)
    weights = torch.ones_like(wide[:, :1]) if known is None else known.to(sums.dtype)  # [B, 1] or [B, D]
    if sample_weight is not None:
        weights = weights * sample_weight[:, None]
    both = torch.cat([wide * weights, weights], dim=1)
    if x.device.type == "cpu":
        sums.index_add_(0, bmu, both)
    else:  # on a GPU index_add_ adds with atomics; index_put_ sorts the indices first
        sums.index_put_((bmu,), both, accumulate=True)


def means(
    own: Primitives,
    sums: Tensor,
    prototypes: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    origin: Tensor | float = 0.0,
) -> Tensor:
    """(K, D): the mean of the rows that are in ``sums``, weighted with the neighborhood of their BMUs, ``(G A)_k / (G
    counts)_k``, from where they are counted from. A unit that no row reaches, since its weight underflows, stays where it
    is."""
    dim = prototypes.shape[1]
    smoothed = own.smooth(sums.to(prototypes.dtype), row_factors.mT, col_factors.mT)
    total, weight = smoothed[:, :dim], smoothed[:, dim:]
    least = torch.finfo(prototypes.dtype).tiny
    return torch.where(weight > least, total / weight.clamp_min(least) + origin, prototypes)

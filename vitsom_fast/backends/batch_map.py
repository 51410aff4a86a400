"""One step of a batch SOM in two halves: the sums of the rows of each unit, which may come in chunks and from many machines,
and the means that the neighborhood makes of them (Kohonen 2001, section 3.6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vitsom_fast.backends.centred import pieces
from vitsom_fast.backends.unit_rows import widest

if TYPE_CHECKING:
    from vitsom_fast.backends.compose import Primitives

# Of the largest sum of weights: below, what is left of weights of both signs is no sum of theirs to go by.
_CANCELLED = 1e-6

# Times the data's own reach that a mean by weights of both signs may be away: near where they cancel it has no bound.
_FAR = 10.0


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
    dim, on_cpu = x.shape[1], x.device.type == "cpu"
    is_plain = sample_weight is None and known is None
    add_by_bmu = getattr(own, "add_by_bmu", None)
    if is_plain and add_by_bmu is not None:
        add_by_bmu(sums, x, bmu)
        return
    if is_plain and not on_cpu:
        added, counts = own.sum_by_bmu(x, bmu, sums.shape[0])
        sums[:, :dim] += added
        sums[:, dim] += counts
        return
    for rows in pieces(x) if on_cpu else (slice(None),):
        wide = x[rows].to(sums.dtype)
        if is_plain:
            sums[:, :dim].index_add_(0, bmu[rows], wide)
            continue
        weights = torch.ones_like(wide[:, :1]) if known is None else known[rows].to(sums.dtype)  # [B, 1] or [B, D]
        if sample_weight is not None:
            weights = weights * sample_weight[rows, None]
        both = torch.cat([wide * weights, weights], dim=1)
        if on_cpu:
            sums.index_add_(0, bmu[rows], both)
        else:  # on a GPU index_add_ adds with atomics; index_put_ sorts the indices first
            sums.index_put_((bmu,), both, accumulate=True)
    if is_plain:
        sums[:, dim] += torch.bincount(bmu, minlength=sums.shape[0])


def means(
    pull: Callable[[Tensor], Tensor],
    sums: Tensor,
    prototypes: Tensor,
    origin: Tensor | float = 0.0,
    *,
    signed: bool = False,
) -> Tensor:
    """(K, D): the mean of the rows that are in ``sums``, weighted with the neighborhood of their BMUs, ``(G' A)_k / (G'
    counts)_k``, from where they are counted from; ``pull`` applies G' to K rows. A unit that no row reaches, since its weight
    underflows, stays where it is; and where weights are ``signed`` also one whose weights cancel: they add up to less than 1e-6
    of the largest sum, or their mean lies ten times as far from where rows are counted from as the mean of the rows of any
    unit, in a feature that has a weight of its own or, else, in all of them together."""
    dim = prototypes.shape[1]
    info = torch.finfo(sums.dtype)
    # What rows weigh is right up to a factor: a power of two brings it to where fp32 holds it.
    exponent = sums[:, dim:].amax().log2().floor().clamp(math.log2(info.tiny) + 2, math.log2(info.max) - 2)
    smoothed = pull((sums * torch.exp2(-exponent)).to(prototypes.dtype))
    total, weight = smoothed[:, :dim], smoothed[:, dim:]
    least: Tensor | float = torch.finfo(prototypes.dtype).tiny
    if signed:
        least = (weight.amax() * _CANCELLED).clamp_min(least)
    mean = total / weight.clamp_min(least)
    is_reached = weight > least
    if signed:
        own = sums[:, :dim] / sums[:, dim:].clamp_min(info.tiny)
        is_reached = is_reached & ~(_size(mean, weight) > _FAR * _size(own, weight).amax(dim=0))
    return torch.where(is_reached, mean + origin, prototypes)


def _size(means: Tensor, weight: Tensor) -> Tensor:
    """How far means (K, D) are from the origin: (K, D) where each feature has a weight of its own, else (K, 1)."""
    return means.abs() if weight.shape[1] > 1 else torch.linalg.vector_norm(means, dim=1, keepdim=True)

"""The primitives in PyTorch operations: any device, any dtype. Nothing of size B x K outlives a chunk of the search."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vitsom_fast.backends.centred import centred_units, deltas, prototype_centre, row_products, slices
from vitsom_fast.backends.compose import CONTEXT_DTYPE, FEW_FEATURES, attract
from vitsom_fast.backends.products import product
from vitsom_fast.backends.smoothing import smooth, total_weight
from vitsom_fast.backends.spec import Spec, accumulation_dtype, reduction_scale
from vitsom_fast.backends.ties import lowest_equal
from vitsom_fast.backends.unit_rows import unit_rows, widest

__all__ = ["search", "smooth", "som_forward", "sum_by_bmu", "unavailable", "unsupported"]

# Scores searched at a time: 16 M keep a chunk at 64 MB in fp32, and larger ones were no faster.
_CHUNK = 1 << 24

# Products B K D below which the number of launches is all that counts.
_SMALL = 1 << 14


def unavailable() -> str | None:
    return None


def unsupported(spec: Spec) -> str | None:
    return None


def search(z: Tensor, prototypes: Tensor, rows: int = 0, cols: int = 0) -> tuple[Tensor, Tensor]:
    """BMU (B,) int64 and cosine distance (B,) of each row of z (B, D) among the prototypes (K, D)."""
    dtype = accumulation_dtype(z.dtype)
    z, prototypes = z.to(dtype), prototypes.to(dtype)
    if _is_small(z, prototypes):
        best, bmu = _scores(unit_rows(z).unit, unit_rows(prototypes).unit).max(dim=1)
        return bmu, (1 - best).clamp_(0, 2).to(dtype)
    bmu = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
    distance = torch.empty(z.shape[0], dtype=dtype, device=z.device)
    centre = prototype_centre(prototypes)
    delta, norm = deltas(prototypes, centre)
    for chunk in _chunks(z, prototypes):
        unit, _ = centred_units(z[chunk], centre)
        bmu[chunk] = found = product(unit, delta.T).argmax(dim=1)  # from [rows, K]
        distance[chunk] = (1 - row_products(unit, delta, found, centre)).clamp_(0, 2)
    return lowest_equal(prototypes, norm, bmu), distance


def som_forward(
    z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``compose.som_forward``, with what the search has made of its operands."""
    dtype = accumulation_dtype(z.dtype)
    z, prototypes = z.to(dtype), prototypes.to(dtype)
    if _is_small(z, prototypes):  # all in fp64, as seen from the origin
        unit, unit_prototypes = unit_rows(z).unit, unit_rows(prototypes).unit
        bmu = _scores(unit, unit_prototypes).argmax(dim=1)
        at_bmu = smooth(unit_prototypes, row_factors.to(unit.dtype), col_factors.to(unit.dtype))[bmu]
        total = (total_weight(row_factors, col_factors)[bmu].sum() - (unit * at_bmu).sum()).to(dtype)
        attraction = torch.cat([at_bmu, at_bmu.new_zeros(1, z.shape[1])]).to(dtype)
    else:
        if z.shape[1] <= FEW_FEATURES:
            z, prototypes, row_factors, col_factors = (x.to(widest(x)) for x in (z, prototypes, row_factors, col_factors))
        centre = prototype_centre(prototypes)
        delta, norm = deltas(prototypes, centre)
        unit, along = centred_units(z, centre)
        bmu = torch.empty(z.shape[0], dtype=torch.int64, device=z.device)
        for rows in _chunks(z, prototypes):
            bmu[rows] = product(unit[rows], delta.T).argmax(dim=1)  # from [rows, K]
        bmu = lowest_equal(prototypes, norm, bmu)
        total, attraction = attract(smooth, unit, along, delta, norm, centre, bmu, row_factors, col_factors)
    scale = reduction_scale(reduction, z.shape[0], prototypes.shape[0])
    return (total * scale).to(dtype), bmu, attraction.to(dtype), z.new_empty(0, dtype=CONTEXT_DTYPE)


def _is_small(z: Tensor, prototypes: Tensor) -> bool:
    """Whether the number of launches is all that counts."""
    return z.shape[0] * prototypes.numel() <= _SMALL


def _scores(unit: Tensor, unit_prototypes: Tensor) -> Tensor:
    """(B, K) from (B, D) and (K, D), the same for prototypes that are the same, as products of matrices need not be."""
    return (unit[:, None, :] * unit_prototypes).sum(dim=2)


def _chunks(z: Tensor, prototypes: Tensor) -> Iterator[slice]:
    """Rows of z that are searched at a time."""
    return slices(z.shape[0], _CHUNK // max(prototypes.shape))


def sum_by_bmu(x: Tensor, bmu: Tensor, num_prototypes: int) -> tuple[Tensor, Tensor]:
    """Added in the widest dtype, 20000 samples of one unit summed up in fp32 are wrong by 6e-6, and in an order that does not
    change from run to run."""
    batch, dtype = x.shape[0], accumulation_dtype(x.dtype)
    x = x.to(widest(x))
    index = torch.arange(batch, device=bmu.device)
    # The samples of a BMU are summed up at the place of its first one: (B, D) is the smaller table where fp64 matters. Units
    # without samples have their place behind the last.
    places = torch.full((num_prototypes,), batch, device=bmu.device).scatter_reduce_(0, bmu, index, "amin")  # [K]
    first = places[bmu]  # [B]
    sums = x.new_zeros(batch + 1, x.shape[1])
    if x.device.type == "cpu":
        sums.index_add_(0, first, x)
    else:  # on a GPU index_add_ adds with atomics; index_put_ sorts the indices first
        sums.index_put_((first,), x, accumulate=True)
    pulled = sums.to(dtype)[places]
    counts = pulled.new_zeros(num_prototypes).index_add_(0, bmu, pulled.new_ones(batch))  # whole numbers, in any order
    return pulled, counts


def add_sums(sums: Tensor, x: Tensor, bmu: Tensor) -> None:
    """Adds both to ``sums`` (K, D + 1) in the widest dtype, the counts in its last column: ``add_by_bmu`` of a backend, where
    its kernels cannot do it."""
    added, counts = sum_by_bmu(x.to(sums.dtype), bmu, sums.shape[0])
    sums[:, :-1] += added
    sums[:, -1] += counts

"""Forward, backward and the update of a batch SOM, made of three primitives: the search, the sums of samples by their BMU, and
the product with the neighborhood. A backend that has no more than these is whole; forms of its own replace these."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from vitsom_fast.backends.batch_map import add_rows, means, no_sums
from vitsom_fast.backends.centred import centred_units, deltas, gradient_through, near_centre, prototype_centre, row_products
from vitsom_fast.backends.smoothing import smooth, smooth_widely, total_weight
from vitsom_fast.backends.spec import Spec, accumulation_dtype, reduction_scale
from vitsom_fast.backends.unit_rows import centre_of, unit_rows, widest


class Primitives(Protocol):
    """What every backend has. Tensors are on the device that it serves; accumulation dtype: ``spec.accumulation_dtype``."""

    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, or None."""

    def unsupported(self, spec: Spec) -> str | None:
        """Why it cannot serve such problems, or None."""

    def search(self, z: Tensor, prototypes: Tensor, rows: int = 0, cols: int = 0) -> tuple[Tensor, Tensor]:
        """BMU (B,) int64, the lowest index on ties, and distance (B,) in the accumulation dtype, of z (B, D) among the
        prototypes (K, D). A row that is not finite gets an index within range and the distance NaN. ``rows`` and ``cols`` are
        those of the grid, 0 where there is none: they may save time, and never change what is found.

        A backend may have ``search_two`` as well, the same for the nearest two: (B, 2) each, the nearest first; what there is
        no unit for is 0 with the distance NaN. Elsewhere they are found in PyTorch operations (``distances.nearest``)."""

    def sum_by_bmu(self, x: Tensor, bmu: Tensor, num_prototypes: int) -> tuple[Tensor, Tensor]:
        """Sums (K, D) and counts (K,) of the rows x (B, D) of every BMU (B,), in the accumulation dtype. Repeatable bit for
        bit; 20000 rows of one BMU are summed up to within 1e-6.

        A backend may have ``add_by_bmu(sums, x, bmu)`` as well, which adds both to ``sums`` (K, D + 1), the counts in its last
        column, in the widest dtype and in place."""

    def smooth(self, x: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
        """G x (K, D) for x (K, D), all in the accumulation dtype; factors (terms, R, R) and (terms, C, C) in any strides.
        Every weight counts, however small."""


CONTEXT_DTYPE = torch.float32

# Features up to which the forward pass is in fp64: over more, roundings of the smoothed prototypes even out; of these, opposite
# prototypes leave 3e-7 of the weight in the loss, where 1e-7 is promised (of 4 features, 1.2e-7 in one case of 15000).
FEW_FEATURES = 6


def context_size(batch: int, rows: int, cols: int) -> int:
    return 0


def attraction_rows(batch: int, num_prototypes: int) -> int:
    """G delta at the BMU of each sample, then the centre."""
    return batch + 1


def som_forward(
    own: Primitives, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss (), BMU (B,), attraction (B + 1, D) and an empty context."""
    dtype = accumulation_dtype(z.dtype)
    if z.shape[0] == 0:  # no sample pulls, not even on a prototype that is not finite
        nothing = z.new_empty(0, dtype=torch.int64)
        return (
            z.new_zeros((), dtype=dtype),
            nothing,
            z.new_zeros(1, z.shape[1], dtype=dtype),
            z.new_empty(0, dtype=CONTEXT_DTYPE),
        )
    bmu, _ = own.search(z, prototypes, row_factors.shape[1], col_factors.shape[1])
    is_few = z.shape[1] <= FEW_FEATURES
    z, prototypes = (x.to(widest(x) if is_few else dtype) for x in (z, prototypes))
    centre = prototype_centre(prototypes)
    delta, norm = deltas(prototypes, centre)
    unit, along = centred_units(z, centre)
    through = smooth if is_few else own.smooth
    row_factors, col_factors = row_factors.to(z.dtype), col_factors.to(z.dtype)
    total, attraction = attract(through, unit, along, delta, norm, centre, bmu, row_factors, col_factors)
    scale = reduction_scale(reduction, z.shape[0], prototypes.shape[0])
    return (total * scale).to(dtype), bmu, attraction.to(dtype), z.new_empty(0, dtype=CONTEXT_DTYPE)


def attract(
    smooth: Callable[[Tensor, Tensor, Tensor], Tensor],
    unit: Tensor,
    along: Tensor,
    delta: Tensor,
    norm: Tensor,
    centre: Tensor,
    bmu: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
) -> tuple[Tensor, Tensor]:
    """The sum of the loss over samples and prototypes, and the attraction (B + 1, D): of unit latents (B, D) with their
    products with the centre (B,), and of unit prototypes less the centre (K, D) and their norms (K, 1)."""
    # 0 unless a prototype is not finite: be its weight 0, which a smoothing may skip, 0 * NaN is NaN.
    poison = (0 * norm).sum()
    smoothed = smooth(delta, row_factors, col_factors)  # [K, D]
    attraction = torch.empty(unit.shape[0] + 1, unit.shape[1], dtype=unit.dtype, device=unit.device)
    torch.index_select(smoothed, 0, bmu, out=attraction[:-1])
    attraction[-1] = centre + poison  # which every gradient takes a share of
    weight = total_weight(row_factors, col_factors)[bmu]  # [B]
    total = (weight * (1 - along) - row_products(unit, smoothed, bmu)).sum() + poison
    return _not_below_zero(total, row_factors, col_factors).to(unit.dtype), attraction


def _not_below_zero(total: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """0 for what roundings have taken below it, which on a collapsed map they do; weights of both signs may mean it."""
    if total.device.type == "cpu" and not total < 0:  # elsewhere that would wait for the device
        return total
    is_signed = (row_factors.amin() < 0) | (col_factors.amin() < 0)
    return torch.where(is_signed | ~(total < 0), total, 0.0)


def som_backward(
    own: Primitives,
    grad_loss: Tensor,
    z: Tensor,
    prototypes: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    bmu: Tensor,
    attraction: Tensor,
    context: Tensor,
    reduction: str,
    for_z: bool,
    for_prototypes: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients (B, D) and (K, D) in the dtype of their input; an empty tensor for one that is not asked for."""
    if z.shape[0] == 0:  # no sample pulls, not even on a prototype that is not finite
        return z.new_empty(z.shape if for_z else 0), prototypes.new_zeros(prototypes.shape if for_prototypes else 0)
    dtype = accumulation_dtype(z.dtype)
    centre = attraction[-1].to(widest(z))
    factor = grad_loss.to(centre.dtype) * -reduction_scale(reduction, z.shape[0], prototypes.shape[0])
    grad_z, grad_prototypes = z.new_empty(0), prototypes.new_empty(0)
    if for_z:
        weight = total_weight(row_factors, col_factors)[bmu]  # [B]
        grad_z = gradient_through(z, attraction[:-1], weight, centre, factor)
    if for_prototypes:
        row_factors, col_factors = row_factors.mT, col_factors.mT
        latents = unit_rows(z.to(dtype))
        centre = centre_of(latents.unit)  # of the latents, whose pulls are what is smoothed
        near, rest = near_centre(latents, centre)  # [B], [B, D]
        sums, _ = own.sum_by_bmu(rest.to(dtype), bmu, prototypes.shape[0])
        spread = own.smooth(sums, row_factors, col_factors)  # [K, D]
        hits = centre.new_zeros(prototypes.shape[0]).index_add_(0, bmu, near)  # whole numbers, in any order
        weight = smooth_widely(hits, row_factors, col_factors) + (0 * latents.norm).sum()  # [K], NaN if a latent is not finite
        grad_prototypes = gradient_through(prototypes, spread, weight, centre, factor)
    return grad_z, grad_prototypes


def batch_update(
    own: Primitives,
    x: Tensor,
    bmu: Tensor,
    prototypes: Tensor,
    pull: Callable[[Tensor], Tensor],
    sample_weight: Tensor | None = None,
    known: Tensor | None = None,
    *,
    signed: bool = False,
) -> Tensor:
    """(K, D): the mean of the rows x (B, D), weighted with the neighborhood of their BMUs: ``(G' A)_k / (G' c)_k`` (Kohonen
    2001, section 3.6); ``pull`` applies G' to K rows. Units stay where they are as ``batch_map.means`` says."""
    if x.shape[0] == 0:
        return prototypes
    middle = x.mean(dim=0)  # far from the origin, sums would cancel
    if known is not None:  # which features (B, D) count: each has a weight of its own
        middle = x.sum(dim=0) / known.sum(dim=0).clamp_min(1)
    sums = no_sums(prototypes, by_feature=known is not None)
    add_rows(own, sums, x - middle, bmu, sample_weight, known)
    return means(pull, sums, prototypes, middle, signed=signed)


# What a backend may have of its own, all or the forward pass alone; it then keeps what the composed forms would.
_FORMS = ("CONTEXT_DTYPE", "context_size", "attraction_rows", "som_forward", "som_backward")


class Composed:
    """A whole backend out of its primitives, as ``vitsom_fast.backends.Backend``."""

    CONTEXT_DTYPE = CONTEXT_DTYPE

    def __init__(self, own: Primitives) -> None:
        self._own = own
        self.context_size, self.attraction_rows = context_size, attraction_rows
        self.som_forward = functools.partial(som_forward, own)
        self.som_backward = functools.partial(som_backward, own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def whole(own: Any) -> Any:
    """A backend with every form: its own, where it has one."""
    if all(hasattr(own, name) for name in _FORMS):
        return own
    composed = Composed(own)
    for name in _FORMS:
        if hasattr(own, name):
            setattr(composed, name, getattr(own, name))
    return composed

"""The nearest one or two units of every sample: scores in fp32 rule out all but a few candidates, fp64 decides among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vitsom_fast.backends.centred import slices
from vitsom_fast.backends.products import product
from vitsom_fast.backends.spec import accumulation_dtype
from vitsom_fast.backends.unit_rows import EPS, unit_rows, widest

# Scores at a time: 4 M are 16 MB, and as much again for what is compared with them.
_SCORES = 1 << 22
# Elements of candidates that are computed with in fp64 at a time.
_ELEMENTS = 1 << 22
# Candidates of a sample where their number must not depend on the data: to ask for it would wait for the device.
_CANDIDATES = 8

# The largest relative error of one operation in fp32.
_ROUNDING = 2.0**-24


class Rows(NamedTuple):
    """Samples and units as one distance compares them."""

    x: Tensor  # [B, D], in the widest dtype
    v: Tensor  # [K, D]
    scores: Callable[[slice], tuple[Tensor, Tensor]]  # of some samples: [n, K], and how far they may be off, [n]
    exact: Callable[[Tensor, Tensor], Tensor]  # distances [...] of rows x [..., D] and v [..., D]
    shrunk: Tensor | None = None  # [B, 1]: what 1 - distance is to be multiplied with


def search(
    z: Tensor, prototypes: Tensor, distance: str, k: int = 1, prepared: Callable[[Tensor, Tensor, str], Rows] | None = None
) -> tuple[Tensor, Tensor]:
    """Units (B, k) int64, the nearest first and the lowest index on ties, and distances (B, k) in the accumulation dtype, of z
    (B, D) among the prototypes (K, D). A row that is not finite gets indices within range and NaN; so does what there is no
    unit for, where k is 2 and K is 1. On a CPU the units are those of fp64 arithmetic; elsewhere the best of the 8 best in
    fp32."""
    dtype = accumulation_dtype(z.dtype)
    rows = (prepared or _prepared)(z, prototypes, distance)
    units = torch.zeros(z.shape[0], k, dtype=torch.int64, device=z.device)
    nearest = torch.full((z.shape[0], k), torch.nan, dtype=rows.x.dtype, device=z.device)
    decide = _among_all_in_reach if z.device.type == "cpu" else _among_the_best
    for chunk in slices(z.shape[0], _SCORES // max(prototypes.shape[0], prototypes.shape[1])):
        decide(rows, chunk, units[chunk], nearest[chunk])
    if rows.shrunk is not None:
        nearest = 1 - (1 - nearest) * rows.shrunk
    return units, nearest.to(dtype)


def _prepared(z: Tensor, prototypes: Tensor, distance: str) -> Rows:
    if distance == "manhattan":  # differences of numbers as they are given: nothing cancels
        x, v = (each.to(widest(z)) for each in (z, prototypes))
        unit = _to_about_one(x, v)
        samples, table = (each.mul(unit).to(accumulation_dtype(z.dtype)) for each in (x, v))
        return Rows(x, v, lambda chunk: _manhattan_scores(samples[chunk], table), _manhattan)
    x, v = z.to(widest(z)), prototypes.to(widest(z))
    if distance == "cosine":
        (x, norm), v = unit_rows(x), unit_rows(v).unit
        # A latent below eps has the nearest units of its direction; that it is short only takes its distances closer to 1.
        x = x * (EPS / norm.clamp(torch.finfo(norm.dtype).tiny, EPS))
        return Rows(x, v, product_scores(x, v - about_centre(v), None), _cosine, (norm / EPS).clamp_max(1))
    centre = about_centre(v)
    seen = v - centre
    scores = product_scores(x - centre, seen, seen.square().sum(dim=1).mul_(-0.5))
    return Rows(x, v, scores, _squared if distance == "sqeuclidean" else _euclidean)


def about_centre(v: Tensor) -> Tensor:
    """(D,): about the mean of the rows. Any would be right; from this one they are short."""
    return v.nan_to_num(0.0, 0.0, 0.0).mean(dim=0)


def product_scores(x: Tensor, v: Tensor, bias: Tensor | None) -> Callable[[slice], tuple[Tensor, Tensor]]:
    """``x . v + bias`` in fp32 and what it may be off by, once a power of two has brought the largest element to about 1."""
    unit = _to_about_one(x, v)
    samples, table = (x * unit).float(), (v * unit).float().T
    length = torch.linalg.vector_norm(_finite(samples), dim=1)  # [B]
    longest = torch.linalg.vector_norm(_finite(table), dim=0).amax()
    # Of a sum of D products in any order, of operands that were rounded, and of subnormals.
    off = _ROUNDING * (x.shape[1] + 4) * length * longest + 1e-37
    offsets = None
    if bias is not None:  # which is rounded, and its sum with the product once more
        offsets = (bias * unit * unit).float()
        off += _ROUNDING * 2 * longest.square()

    def scores(chunk: slice) -> tuple[Tensor, Tensor]:
        products = product(samples[chunk], table)
        return products if offsets is None else products.add_(offsets), off[chunk].float()

    return scores


def _finite(x: Tensor) -> Tensor:
    """x in the widest dtype, with 0 for what is not finite."""
    return x.to(widest(x)).nan_to_num(0.0, 0.0, 0.0)


def _largest(x: Tensor) -> Tensor:
    """The largest of all elements that are finite, (); 0 where there is none."""
    return _finite(x).abs().amax() if x.numel() else x.new_zeros(())


def _to_about_one(x: Tensor, v: Tensor) -> Tensor:
    """The power of two that brings the largest element of both to between 1 and 2."""
    largest = torch.maximum(_largest(x), _largest(v))
    return torch.exp2(-torch.log2(torch.where(largest > 0, largest, 1.0)).floor())


def _manhattan_scores(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.cdist(x, v, p=1).neg_().nan_to_num_(-torch.inf, -torch.inf, -torch.inf)
    rounding = torch.finfo(x.dtype).eps * (x.shape[1] + 3)
    return scores, scores.amax(dim=1).neg_().mul_(rounding)


def _cosine(x: Tensor, v: Tensor) -> Tensor:
    return (1 - (x * v).sum(dim=-1)).clamp_(0, 2)


def _squared(x: Tensor, v: Tensor) -> Tensor:
    return (x - v).square_().sum(dim=-1)


def _euclidean(x: Tensor, v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x - v, dim=-1)


def _manhattan(x: Tensor, v: Tensor) -> Tensor:
    return (x - v).abs_().sum(dim=-1)


def _among_all_in_reach(rows: Rows, chunk: slice, units: Tensor, nearest: Tensor) -> None:
    """Every unit that the error of the scores does not rule out is a candidate."""
    scores, off = rows.scores(chunk)
    scores.nan_to_num_(-torch.inf, -torch.inf, -torch.inf)
    k = units.shape[1]
    best = scores.topk(min(k, scores.shape[1]), dim=1).values
    # All that are numbers, where there are not as many as asked for; none of a row that is not finite.
    fewer = scores.new_full((len(scores),), torch.inf).masked_fill_(best[:, 0].isfinite(), torch.finfo(scores.dtype).min)
    least = torch.where(best[:, -1].isfinite(), best[:, -1] - 2 * off, fewer)
    sample, unit = (scores >= least[:, None]).nonzero(as_tuple=True)  # in the order of the samples, then of the units
    x = rows.x[chunk]
    distance = torch.cat([rows.exact(x[sample[part]], rows.v[unit[part]]) for part in _parts(len(sample), x.shape[1])])
    by_distance = distance.sort(stable=True).indices
    order = by_distance[sample[by_distance].sort(stable=True).indices]
    sample, unit, distance = sample[order], unit[order], distance[order]
    counts = torch.bincount(sample, minlength=len(x))
    first = counts.cumsum(0) - counts  # where the candidates of each sample begin
    for place in range(k):
        has = counts > place
        at = (first + place)[has]
        units[has, place] = unit[at]
        nearest[has, place] = distance[at]


def _parts(count: int, dim: int) -> Iterator[slice]:
    return slices(max(count, 1), _ELEMENTS // dim)


def _among_the_best(rows: Rows, chunk: slice, units: Tensor, nearest: Tensor) -> None:
    """A number of candidates that is always the same."""
    scores, _ = rows.scores(chunk)
    scores = scores.nan_to_num_(-torch.inf, -torch.inf, -torch.inf)
    k = units.shape[1]
    found = scores.topk(min(_CANDIDATES, scores.shape[1]), dim=1).indices.sort(dim=1).values  # [n, candidates]
    x = rows.x[chunk]
    for part in slices(len(x), _ELEMENTS // (x.shape[1] * found.shape[1])):
        distance = rows.exact(x[part, None, :], rows.v[found[part]])  # [n, candidates]
        distance = torch.where(distance.isinf(), torch.nan, distance)  # the Manhattan distance of what is infinite
        order = distance.nan_to_num(torch.inf).sort(dim=1, stable=True).indices[:, :k]
        width = order.shape[1]
        units[part, :width] = found[part].gather(1, order)
        nearest[part, :width] = distance.gather(1, order)

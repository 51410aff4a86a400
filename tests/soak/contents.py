"""What latents and prototypes hold: a base, and twists that make it worse. All in fp64, (B, D) and (K, D)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # z [B, D], prototypes [K, D]


@dataclass
class Source:
    """The random numbers of one case, its sizes, and the limits of its dtype."""

    generator: torch.Generator
    batch: int
    rows: int
    cols: int
    dim: int
    largest: float  # element
    smallest: float  # normal element

    @property
    def units(self) -> int:
        return self.rows * self.cols

    def normal(self, count: int, dim: int | None = None) -> Tensor:
        return torch.randn(count, self.dim if dim is None else dim, generator=self.generator, dtype=torch.float64)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def power(self, low: float, high: float) -> float:
        """10 to a power within these bounds."""
        return 10 ** self.uniform(low, high, 1).item()

    def pick(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator)

    def index(self, below: int) -> int:
        return int(self.pick(below, 1))

    def some(self, count: int) -> Tensor:
        """(count,) bool: none, few, or most of them."""
        return self.uniform(0, 1, count) < self.uniform(0, 1, 1).item() ** 2

    def pair(self) -> Pair:
        return self.normal(self.batch), self.normal(self.units)


# Bases


def _positive(source: Source) -> Pair:
    z, w = source.pair()
    return z.abs(), w.abs()


def _surface(source: Source) -> Tensor:
    """A map in order: a surface over the grid that bends as it likes, but smoothly."""
    row, col = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (source.rows, source.cols)), indexing="ij")
    unit = torch.stack((row, col), dim=-1).view(-1, 2) / max(source.rows, source.cols)  # [K, 2]
    basis = torch.cat((unit, unit.square(), unit.prod(1, keepdim=True), (3 * unit).sin()), dim=1)
    return source.normal(1) + source.power(-2, 0.5) * basis @ source.normal(basis.shape[1])


def _near(source: Source, w: Tensor) -> Tensor:
    noise = source.power(-5, 0.5) * w.norm(dim=1).mean().item() / math.sqrt(source.dim)
    return w[source.pick(len(w), source.batch)] + noise * source.normal(source.batch)


def _organised(source: Source) -> Pair:
    w = _surface(source)
    return _near(source, w), w


def _opposite_clusters(source: Source) -> Pair:
    """Data whose mean was removed: half of the map lies opposite to the other."""
    w = _surface(source)
    w = w - w.mean(dim=0)
    return _near(source, w), w


def _collapsed(source: Source) -> Pair:
    centre, spread = source.normal(1), source.power(-9, -1)
    z, w = source.pair()
    return centre + spread * z, centre + spread * w


def _far_from_the_map(source: Source) -> Pair:
    z, w = _collapsed(source)
    return -z, w


def _constant(source: Source) -> Pair:
    """Features all alike: what rounding does to one product it does to all of them."""
    ones = torch.ones(1, source.dim, dtype=torch.float64)
    z, w = (source.uniform(0.5, 1.5, count, 1) * ones for count in (source.batch, source.units))
    return z, w * (1 + source.power(-5, -2) * source.normal(source.units) * source.some(source.units)[:, None])


def _sparse(source: Source) -> Pair:
    z, w = source.pair()
    return z * (source.uniform(0, 1, *z.shape) < 0.1), w * (source.uniform(0, 1, *w.shape) < 0.1)


def _one_hot(source: Source) -> Pair:
    z, w = (torch.eye(source.dim, dtype=torch.float64)[source.pick(source.dim, n)] for n in (source.batch, source.units))
    return z * source.uniform(-1, 1, source.batch, 1), w


def _integers(source: Source) -> Pair:
    z, w = source.pair()
    return z.round(), w.round()


def _latents_that_are_prototypes(source: Source) -> Pair:
    w = source.normal(source.units)
    return w[source.pick(source.units, source.batch)], w


def _opposites(source: Source) -> Pair:
    z, w = _latents_that_are_prototypes(source)
    return -z, w


def _near_ties(source: Source) -> Pair:
    kinds = source.normal(max(1, source.units // 5))
    w = kinds[source.pick(len(kinds), source.units)] + source.power(-9, -2) * source.normal(source.units)
    return _near(source, w), w


def _cancelling(source: Source) -> Pair:
    """Products of large elements that add up to nothing, and small ones that decide."""
    z, w = source.pair()
    half, large = source.dim // 2, source.power(0, 4)
    z[:, :half], w[:, :half] = large, large
    w[:, : half // 2] *= -1
    return z, w


BASES: dict[str, Callable[[Source], Pair]] = {
    "random": Source.pair,
    "positive": _positive,
    "organised": _organised,
    "opposite clusters": _opposite_clusters,
    "collapsed": _collapsed,
    "far from the map": _far_from_the_map,
    "constant": _constant,
    "sparse": _sparse,
    "one-hot": _one_hot,
    "integers": _integers,
    "latents that are prototypes": _latents_that_are_prototypes,
    "opposites": _opposites,
    "near ties": _near_ties,
    "cancelling": _cancelling,
}


# Twists


def _duplicates(source: Source, z: Tensor, w: Tensor) -> Pair:
    return z, w[source.pick(1 + source.index(len(w)), len(w))]


def _powers_of_two(source: Source, z: Tensor, w: Tensor) -> Pair:
    """The same directions at other lengths: ties in any arithmetic."""
    z, w = _duplicates(source, z, w)
    exponents = min(60, int(math.log2(source.largest)) - 2)
    return z, w * 2.0 ** (source.pick(2 * exponents + 1, len(w))[:, None] - exponents)


def _mixed_lengths(source: Source, z: Tensor, w: Tensor) -> Pair:
    exponents = min(60.0, math.log2(source.largest) - 2)
    return tuple(x * 2 ** source.uniform(-exponents, exponents, len(x), 1) for x in (z, w))  # type: ignore[return-value]


def _mixed_elements(source: Source, z: Tensor, w: Tensor) -> Pair:
    exponents = min(60.0, math.log2(source.largest) - 2)
    return tuple(x * 2 ** source.uniform(-exponents, exponents, *x.shape) for x in (z, w))  # type: ignore[return-value]


def _short_prototypes(source: Source, z: Tensor, w: Tensor) -> Pair:
    """Gradients in proportion to 1 / |w|: a far prototype's may be the largest."""
    return z, torch.where(source.some(len(w))[:, None], w * source.power(-13, -1), w)


def _around_eps(source: Source, z: Tensor, w: Tensor) -> Pair:
    """Lengths around 1e-12, below which rows are not normalised."""

    def shrunk(x: Tensor) -> Tensor:
        unit = x / x.norm(dim=1, keepdim=True).clamp_min(1e-300)
        return torch.where(source.some(len(x))[:, None], unit * 1e-12 * 10 ** source.uniform(-1, 1, len(x), 1), x)

    return shrunk(z), shrunk(w)


def _zeros(source: Source, z: Tensor, w: Tensor) -> Pair:
    return z * ~source.some(len(z))[:, None], w * ~source.some(len(w))[:, None]


def _subnormal(source: Source, z: Tensor, w: Tensor) -> Pair:
    scale = source.smallest * source.power(-7, 3)
    return torch.where(source.some(len(z))[:, None], z * scale, z), torch.where(source.some(len(w))[:, None], w * scale, w)


def _extreme(source: Source, z: Tensor, w: Tensor) -> Pair:
    """Elements up to the largest of the dtype, so that rows are longer than any number of it."""

    def stretched(x: Tensor) -> Tensor:
        peak = x.abs().amax(dim=1, keepdim=True).clamp_min(1e-300)
        scale = source.largest * 10 ** source.uniform(-1, 0, len(x), 1) / peak
        return torch.where(source.some(len(x))[:, None], x * scale, x)

    return stretched(z), stretched(w)


def _large_elements(source: Source, z: Tensor, w: Tensor) -> Pair:
    size = source.power(1, min(15.0, math.log10(source.largest) - 1))
    for x in (z, w):
        x[torch.arange(len(x)), source.pick(source.dim, len(x))] *= size
    return z, w


def _not_finite(source: Source, z: Tensor, w: Tensor) -> Pair:
    bad = (math.nan, math.inf, -math.inf)[source.index(3)]
    for x in ((z, w), (z,), (w,))[source.index(3)]:
        rows = source.some(len(x)).nonzero()[:, 0]
        x[rows, source.pick(source.dim, len(rows))] = bad
    return z, w


TWISTS: dict[str, Callable[[Source, Tensor, Tensor], Pair]] = {
    "duplicates": _duplicates,
    "powers of two": _powers_of_two,
    "mixed lengths": _mixed_lengths,
    "mixed elements": _mixed_elements,
    "short prototypes": _short_prototypes,
    "around eps": _around_eps,
    "zeros": _zeros,
    "subnormal": _subnormal,
    "extreme": _extreme,
    "large elements": _large_elements,
    "not finite": _not_finite,
}

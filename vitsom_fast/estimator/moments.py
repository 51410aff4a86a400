"""What a fit asks of its data before it begins: their mean and spread, and where the prototypes are to start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitsom_fast.backends.unit_rows import widest
from vitsom_fast.estimator import ranks
from vitsom_fast.estimator.frame import Frame, directions, power_of_two
from vitsom_fast.estimator.rows import Rows
from vitsom_fast.grid import Grid
from vitsom_fast.initialization import axes_of_covariance, initial_prototypes, plane_along

# Features up to which all products of two are added up: 32 MB in fp64. Of more, some rows stand for all.
_MOST_PRODUCTS = 2048
_STANDING = 4096


class Moments:
    """Weights, sums and products of features, as seen from a place among the data in a unit of about their size; a ``Work``.
    Each is of the rows that have the feature, a product of those that have both; under the cosine distance rows are
    directions."""

    def __init__(self, metric: str, missing: str, origin: Tensor, unit: float, *, products: bool) -> None:
        self._metric, self._missing, self._origin, self._unit, self._products = metric, missing, origin, unit, products

    def totals(self) -> list[Tensor]:
        """Weights and sums (D,), and variances (D,) or products (D, D); where something is missing, for each pair of features
        also the weights of the rows that have both, and the sums of the first of the two over these."""
        dim = len(self._origin)
        shapes: list[tuple[int, ...]] = [(dim,), (dim,), (dim, dim) if self._products else (dim,)]
        if self._products and self._missing == "ignore":
            shapes += [(dim, dim), (dim, dim)]
        return [self._origin.new_zeros(shape) for shape in shapes]

    def add(self, totals: list[Tensor], x: Tensor, weight: Tensor | None) -> None:
        x = directions(x) if self._metric == "cosine" else x
        seen = (x - self._origin).mul_(self._unit)  # in fp64, of rows in fp32, too
        each = torch.ones_like(seen[:, :1])
        if weight is not None:
            each, seen = weight[:, None], torch.where(weight[:, None] > 0, seen, 0.0)
        known = None
        if self._missing == "ignore":
            is_known = ~seen.isnan()
            seen, known = torch.where(is_known, seen, 0.0), is_known.to(seen)
        weighted = seen if weight is None else seen * each
        totals[0] += each.sum() if known is None else (known * each).sum(dim=0)
        totals[1] += weighted.sum(dim=0)
        totals[2] += weighted.T @ seen if self._products else (weighted * seen).sum(dim=0)
        if self._products and known is not None:
            totals[3] += (known * each).T @ known
            totals[4] += weighted.T @ known

    def spread(self, totals: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The mean (D,) as given; and, in the unit squared, the covariance (D, D) or, without products, the variances (D,)."""
        counts, sums, products = totals[:3]
        least = torch.finfo(counts.dtype).tiny
        mean = sums / counts.clamp_min(least)
        given = mean / self._unit + self._origin
        if not self._products:
            return given, (products / counts.clamp_min(least) - mean.square()).clamp_min(0)
        if self._missing == "error":
            return given, products / counts[:, None].clamp_min(least) - mean[:, None] * mean
        pairs, firsts = totals[3], totals[4] * mean  # [D, D]: the sums of a feature times the mean of the other
        about = products - firsts - firsts.T + pairs * (mean[:, None] * mean)
        return given, about / pairs.clamp_min(least)


@dataclass(frozen=True)
class Start:
    """Where a fit begins: the frame of its data, and prototypes (K, D) fp32 as they are seen in it."""

    frame: Frame
    prototypes: Tensor


def start(rows: Rows, grid: Grid, metric: str, init: str | Tensor, random: np.random.RandomState | None, size: int) -> Start:
    """The mean and spread of all rows, then the prototypes: a tensor (K, D) as it is, or a method of ``initialization``.

    ``random`` draws what is random; None for what begins the same each time.

    Raises:
        ValueError: rows that have no spread that fp64 holds, or weights that are all 0.
    """
    origin, unit = _place(rows, metric, size)
    products = isinstance(init, str) and init == "pca" and rows.dim <= _MOST_PRODUCTS
    moments = Moments(metric, rows.missing, origin, unit, products=products)
    totals = rows.add_up(moments, size)
    if not totals[0].amax() > 0:
        if rows.weight is not None and len(rows.weight):
            raise ValueError("sample_weight must not be zero for all rows that have a number, got nothing above 0")
        raise ValueError("X must have at least one row with a number, got none")
    mean, spread = moments.spread(totals)
    deviation = (spread.diagonal() if products else spread).clamp_min(0).sqrt() / unit
    frame = Frame.around(metric, mean, deviation, rows.dtype)
    if isinstance(init, Tensor):
        return Start(frame, frame.exact(init).float())
    generator = torch.Generator().manual_seed(0 if random is None else int(random.randint(2**31 - 1)))
    if products:
        prototypes = plane_along(axes_of_covariance(spread * (frame.unit / unit) ** 2), grid) + frame.wide(mean)
    elif init == "random":
        noise = torch.randn(grid.num_prototypes, rows.dim, dtype=torch.float64, generator=generator).to(mean)
        prototypes = frame.wide(mean) + noise * (deviation * frame.unit)
    else:
        number = _STANDING if init == "pca" else grid.num_prototypes
        some = frame.rows(_some_rows(rows, number, generator, size)).to(mean)
        prototypes = initial_prototypes(torch.where(some.isnan(), frame.wide(mean), some), grid, init, generator)
    return Start(frame, ranks.same(prototypes.float()))


def _place(rows: Rows, metric: str, size: int) -> tuple[Tensor, float]:
    """A place among the data (D,), the first number of each feature, and a unit in which what is seen of them from there is
    near 1."""
    wide = widest(torch.empty(0, device=rows.device))
    origin = torch.full((rows.dim,), torch.nan, dtype=wide, device=rows.device)
    reach = origin.new_zeros(())
    for x, weight in rows.chunks(size):
        x = (x if weight is None else x[weight > 0]).to(wide)
        if len(x) == 0:
            continue
        known = ~x.isnan()
        first = x.gather(0, known.byte().argmax(dim=0, keepdim=True))[0]  # [D], of equal ones the first
        origin = torch.where(origin.isnan(), first, origin)
        reach = torch.maximum(reach, (x - origin).nan_to_num(0.0, 0.0, 0.0).abs().amax())
        if not origin.isnan().any() and reach > 0:
            break
    if metric == "cosine":
        return torch.zeros_like(origin), 1.0
    return ranks.same(origin.nan_to_num(0.0)), power_of_two(float(ranks.same(reach)))


def _some_rows(rows: Rows, number: int, generator: torch.Generator, size: int) -> Tensor:
    """(at most number, D): rows at random, each once, more likely the larger its weight (Efraimidis & Spirakis 2006)."""
    kept, keys = torch.empty(0, rows.dim, dtype=rows.dtype, device=rows.device), torch.empty(0, dtype=torch.float64)
    for x, weight in rows.chunks(size):
        # The logarithm of the exponential variate, so that no weight is too small or too large to divide by.
        own = -torch.rand(len(x), dtype=torch.float64, generator=generator).clamp_min(2.0**-60).log().neg().log()
        if weight is not None:
            own = own + weight.cpu().log()
        keys = torch.cat([keys, own])
        keys, chosen = keys.topk(min(number, int((keys > -torch.inf).sum())))
        kept = torch.cat([kept, x])[chosen.to(x.device)]
    return kept

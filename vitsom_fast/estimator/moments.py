"""What a fit asks of its data before it begins: their mean and spread, and where the prototypes are to start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitsom_fast.backends.unit_rows import widest
from vitsom_fast.estimator import ranks
from vitsom_fast.estimator.frame import Frame, directions
from vitsom_fast.estimator.rows import Rows
from vitsom_fast.grid import Grid
from vitsom_fast.initialization import axes_of_covariance, initial_prototypes, plane_along

# Features up to which all products of two are added up: 32 MB in fp64. Of more, some rows stand for all.
_MOST_PRODUCTS = 2048
_STANDING = 4096


class Moments:
    """Weights, sums and products of features, as seen from a row of the data; a ``Work``. What is missing counts as the mean,
    and under the cosine distance rows are directions."""

    def __init__(self, metric: str, missing: str, origin: Tensor, *, products: bool) -> None:
        self._metric, self._missing, self._origin, self._products = metric, missing, origin, products

    def totals(self) -> list[Tensor]:
        dim = len(self._origin)
        return [self._origin.new_zeros(shape) for shape in ((dim,), (dim,), (dim, dim) if self._products else (dim,))]

    def add(self, totals: list[Tensor], x: Tensor, weight: Tensor | None) -> None:
        x = x.to(self._origin)
        seen = (directions(x) if self._metric == "cosine" else x) - self._origin
        counts: Tensor | float
        if self._missing == "error":
            counts = float(len(seen)) if weight is None else weight.sum()
        else:
            known = ~seen.isnan()
            seen = torch.where(known, seen, 0.0)
            counts = (known if weight is None else known * weight[:, None]).sum(dim=0)
        weighted = seen if weight is None else seen * weight[:, None]
        totals[0] += counts
        totals[1] += weighted.sum(dim=0)
        totals[2] += weighted.T @ seen if self._products else (weighted * seen).sum(dim=0)

    def spread(self, totals: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The mean (D,), and the covariance (D, D) or, without products, the variances (D,)."""
        counts, sums, products = totals
        least = torch.finfo(counts.dtype).tiny
        mean = sums / counts.clamp_min(least)
        if not self._products:
            return mean + self._origin, (products / counts.clamp_min(least) - mean.square()).clamp_min(0)
        pairs = torch.minimum(counts[:, None], counts).clamp_min(least)
        return mean + self._origin, products / pairs - mean[:, None] * mean


@dataclass(frozen=True)
class Start:
    """Where a fit begins: the frame of its data, and prototypes (K, D) fp32 as they are seen in it."""

    frame: Frame
    prototypes: Tensor


def start(rows: Rows, grid: Grid, metric: str, init: str | Tensor, random: np.random.RandomState, size: int) -> Start:
    """The mean and spread of all rows, then the prototypes: a tensor (K, D) as it is, or a method of ``initialization``.

    Raises:
        ValueError: rows that have no spread that fp64 holds, or weights that are all 0.
    """
    wide = widest(torch.empty(0, device=rows.device))
    origin = ranks.same(rows.first(1)[0].to(wide).nan_to_num(0.0)) * (metric != "cosine")
    products = isinstance(init, str) and init == "pca" and rows.dim <= _MOST_PRODUCTS
    moments = Moments(metric, rows.missing, origin, products=products)
    totals = rows.add_up(moments, size)
    if not totals[0].amax() > 0:
        raise ValueError(
            "sample_weight must not be zero for all rows, got nothing above 0" if rows.weight is not None else "X has no number"
        )
    mean, spread = moments.spread(totals)
    deviation = (spread.diagonal() if products else spread).clamp_min(0).sqrt()
    frame = Frame.around(metric, mean, deviation, rows.dtype)
    if isinstance(init, Tensor):
        return Start(frame, frame.wide(init.to(wide)).float())
    generator = torch.Generator().manual_seed(int(random.randint(2**31 - 1)))
    if products:
        prototypes = plane_along(axes_of_covariance(spread * frame.unit**2), grid) + frame.wide(mean)
    elif init == "random":
        noise = torch.randn(grid.num_prototypes, rows.dim, dtype=torch.float64, generator=generator).to(mean)
        prototypes = frame.wide(mean) + noise * (deviation * frame.unit)
    else:
        number = _STANDING if init == "pca" else grid.num_prototypes
        some = frame.rows(_some_rows(rows, number, generator, size)).to(wide)
        prototypes = initial_prototypes(torch.where(some.isnan(), frame.wide(mean), some), grid, init, generator)
    return Start(frame, ranks.same(prototypes.float()))


def _some_rows(rows: Rows, number: int, generator: torch.Generator, size: int) -> Tensor:
    """(at most number, D): rows at random, each once, more likely the larger its weight (Efraimidis & Spirakis 2006)."""
    kept, keys = torch.empty(0, rows.dim, dtype=rows.dtype, device=rows.device), torch.empty(0, dtype=torch.float64)
    for x, weight in rows.chunks(size):
        own = torch.rand(len(x), dtype=torch.float64, generator=generator).log()
        if weight is not None:
            own = torch.where(weight.cpu() > 0, own / weight.cpu(), -torch.inf)
        keys = torch.cat([keys, own])
        keys, chosen = keys.topk(min(number, int((keys > -torch.inf).sum())))
        kept = torch.cat([kept, x])[chosen.to(x.device)]
    return kept

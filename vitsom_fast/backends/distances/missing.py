"""Distances over the features that a sample has: NaN stands for one that was not measured.

With m the mask of a sample, ``sum m (z - w)^2 = sum m z^2 - 2 (m z) . w + m . w^2``: as a score, one product of twice the
features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitsom_fast.backends.distances.nearest import Rows, about_centre, product_scores
from vitsom_fast.backends.unit_rows import EPS, widest


def rows(z: Tensor, prototypes: Tensor, distance: str) -> Rows:
    """Samples, whose missing features are NaN, and units as ``nearest.search`` compares them. A row that has nothing, or
    something infinite, is not finite."""
    x, v = z.to(widest(z)), prototypes.to(widest(z))
    x = torch.where((x.isnan().all(dim=1) | x.isinf().any(dim=1))[:, None], torch.inf, x)
    scores = {"cosine": _cosine_scores, "manhattan": _manhattan_scores}.get(distance, _squared_scores)(x, v)
    return Rows(x, v, scores, _EXACT[distance])


Scores = Callable[[slice], tuple[Tensor, Tensor]]


def _squared_scores(x: Tensor, v: Tensor) -> Scores:
    centre = about_centre(v)
    known, seen = (~x.isnan()).to(x.dtype), v - centre
    size = seen.abs().nan_to_num(0.0, 0.0, 0.0).amax()
    size = torch.where(size > 0, size, 1.0)  # of both halves alike
    twice_x = torch.cat([_filled(x - centre), known * size], dim=1)
    twice_v = torch.cat([seen, seen.square() * (-0.5 / size)], dim=1)
    return product_scores(twice_x, twice_v, None)


def _cosine_scores(x: Tensor, v: Tensor) -> Scores:
    """In the widest dtype: the length of a prototype is another for every mask."""

    def scores(chunk: slice) -> tuple[Tensor, Tensor]:
        part = x[chunk]
        lengths = ((~part.isnan()).to(x.dtype) @ v.square().T).sqrt().clamp_min(EPS)  # [n, K]
        products = _filled(part) @ v.T / lengths
        off = torch.finfo(x.dtype).eps * (x.shape[1] + 8) * _filled(part).norm(dim=1)
        return products, off

    return scores


def _manhattan_scores(x: Tensor, v: Tensor) -> Scores:
    """Of what a sample has not, the distance of the unit from 0 is taken off again; in the widest dtype, as that cancels."""
    lengths = v.abs()
    most = lengths.nan_to_num(0.0, 0.0, 0.0).sum(dim=1).amax()

    def scores(chunk: slice) -> tuple[Tensor, Tensor]:
        part = x[chunk]
        filled = _filled(part)
        distances = torch.cdist(filled, v, p=1) - part.isnan().to(x.dtype) @ lengths.T
        return -distances, torch.finfo(x.dtype).eps * (2 * x.shape[1] + 8) * (filled.abs().sum(dim=1) + most)

    return scores


def _filled(x: Tensor) -> Tensor:
    """0 for what is missing."""
    return torch.where(x.isnan(), 0.0, x)


def _difference(x: Tensor, v: Tensor) -> Tensor:
    return torch.where(x.isnan(), 0.0, x - v)


def _cosine(x: Tensor, v: Tensor) -> Tensor:
    known = _filled(x)
    lengths = torch.where(x.isnan(), 0.0, v).norm(dim=-1).clamp_min(EPS) * known.norm(dim=-1).clamp_min(EPS)
    return (1 - (known * v).sum(dim=-1) / lengths).clamp_(0, 2)


_EXACT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": _cosine,
    "sqeuclidean": lambda x, v: _difference(x, v).square_().sum(dim=-1),
    "euclidean": lambda x, v: torch.linalg.vector_norm(_difference(x, v), dim=-1),
    "manhattan": lambda x, v: _difference(x, v).abs_().sum(dim=-1),
}

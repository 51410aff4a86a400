"""The frame in which rows are seen: from a centre and in a unit that lose no digit of fp32, wherever the data are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitsom_fast.backends.unit_rows import unit_rows

# Steps of the centre in a standard deviation: centres of the same data in another order are then the same.
_STEPS = 8.0

# Units up to which fp32 holds all that is seen of rows in fp32 before it is in the unit: beyond, fp64 does.
_NARROW = 100

# Units that fp64 holds, and their inverses.
_WIDEST = 1000


@dataclass(frozen=True)
class Frame:
    """Under the cosine distance directions are what is seen; under all others ``(x - centre) * unit``, in fp32."""

    metric: str
    centre: Tensor  # [D], fp64
    unit: float  # a power of two

    @staticmethod
    def around(metric: str, mean: Tensor, deviation: Tensor, dtype: torch.dtype) -> Frame:
        """Of data of a mean and a standard deviation (D,) each, fp64, whose rows come in this dtype.

        Raises:
            ValueError: they are not finite.
        """
        largest = deviation.amax()
        if not largest.isfinite() or not mean.isfinite().all():
            raise ValueError("X must be finite and of squares that fp64 holds, got numbers that are not")
        if metric == "cosine":
            return Frame(metric, torch.zeros_like(mean), 1.0)
        size = float(largest * torch.linalg.vector_norm(deviation / largest)) if largest > 0 else 0.0
        step = torch.exp2(torch.log2(torch.where(deviation > 0, deviation, 1.0)).floor()) / _STEPS
        centre = torch.where(deviation > 0, (mean / step).round() * step, mean)
        if dtype != torch.float64:  # differences from it are then right to the last bit
            limit = torch.finfo(torch.float32).max
            centre = centre.clamp(-limit, limit).float().to(mean.dtype)
        return Frame(metric, centre, power_of_two(size))

    def rows(self, x: Tensor) -> Tensor:
        """(B, D) fp32, contiguous, of rows x (B, D) fp32 or fp64 as they are given."""
        if self.metric == "cosine":
            return directions(x).float()
        seen = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        if not self.is_narrow(x):
            return seen.copy_((x.to(self.centre.dtype) - self.centre.to(x.device)) * self.unit)
        centre = self.centre.to(x.device, x.dtype)
        torch.sub(x, centre, out=seen)
        return seen if self.unit == 1.0 else seen.mul_(self.unit)

    def is_narrow(self, x: Tensor) -> bool:
        """Whether fp32 holds all that is computed of rows x on their way into the frame."""
        return x.dtype == torch.float32 and abs(math.log2(self.unit)) <= _NARROW

    def wide(self, x: Tensor) -> Tensor:
        """The same in fp64 and without directions, of rows or prototypes (B, D)."""
        return (x.to(self.centre) - self.centre) * self.unit

    def exact(self, x: Tensor) -> Tensor:
        """The same as ``rows``, in fp64."""
        return directions(x.to(self.centre)) if self.metric == "cosine" else self.wide(x)

    def given(self, prototypes: Tensor) -> Tensor:
        """(K, D) fp64: prototypes as they are without a frame."""
        return prototypes.to(self.centre) / self.unit + self.centre

    def distance(self, seen: Tensor) -> Tensor:
        """Distances in the units of the data, of distances within the frame."""
        if self.metric == "cosine" or self.unit == 1.0:
            return seen
        return seen / self.unit / self.unit if self.metric == "sqeuclidean" else seen / self.unit


def power_of_two(size: float) -> float:
    """What brings a size to between 1 and 2, as far as fp64 holds it; 1 for a size of 0."""
    return 2.0 ** -min(max(math.floor(math.log2(size)), -_WIDEST), _WIDEST) if size > 0 else 1.0


def directions(x: Tensor) -> Tensor:
    """(B, D) in the widest dtype: rows of length 1, of the features that they have."""
    known = ~x.isnan()
    return torch.where(known, unit_rows(torch.where(known, x, 0.0)).unit, torch.nan)

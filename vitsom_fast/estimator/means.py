"""The mean of a number over all rows: how far they are from their units, how often the second one is no neighbour."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitsom_fast.estimator.rows import Rows


class Mean:
    """Of the numbers (B,) that a function makes of rows (B, D), but for rows that have no feature; a ``Work``."""

    def __init__(self, function: Callable[[Tensor], Tensor], missing: str) -> None:
        self._function, self._missing = function, missing

    def totals(self) -> list[Tensor]:
        return [torch.zeros(2, dtype=torch.float64, device="cpu")]

    def add(self, totals: list[Tensor], x: Tensor, weight: Tensor | None) -> None:
        numbers = self._function(x).double()
        if self._missing == "ignore":
            numbers, weight = without_empty(x, numbers, weight)
        numbers = numbers.cpu()
        weight = torch.ones_like(numbers) if weight is None else weight.cpu()
        totals[0] += torch.stack([numbers @ weight, weight.sum()])


def without_empty(x: Tensor, numbers: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Numbers (B,) and weights (B,), of those of rows x (B, D): 0 where all features of a row are missing."""
    is_empty = x.isnan().all(dim=1)
    weight = torch.ones_like(numbers) if weight is None else weight
    return torch.where(is_empty, 0.0, numbers), torch.where(is_empty, 0.0, weight)


def mean_over(rows: Rows, function: Callable[[Tensor], Tensor], size: int) -> float:
    total, weight = rows.add_up(Mean(function, rows.missing), size)[0].tolist()
    if weight <= 0:
        raise ValueError("X must have a row of a weight above 0 that has a number, got none; sample_weight must not be all 0")
    return total / weight

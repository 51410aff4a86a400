"""The mean of a number over all rows: how far they are from their units, how often the second one is no neighbour."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vitsom_fast.estimator.rows import Rows


class Mean:
    """Of the numbers (B,) that a function makes of rows (B, D); a ``Work``."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def totals(self) -> list[Tensor]:
        return [torch.zeros(2, dtype=torch.float64, device="cpu")]

    def add(self, totals: list[Tensor], x: Tensor, weight: Tensor | None) -> None:
        numbers = self._function(x).cpu().double()
        weight = torch.ones_like(numbers) if weight is None else weight.cpu()
        totals[0] += torch.stack([numbers @ weight, weight.sum()])


def mean_over(rows: Rows, function: Callable[[Tensor], Tensor], size: int) -> float:
    total, weight = rows.add_up(Mean(function), size)[0].tolist()
    if weight <= 0:
        raise ValueError("sample_weight must not be zero for all rows, got nothing above 0")
    return total / weight

"""One epoch of the batch map: every row is read once, finds its unit and is added to the sums of that unit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vitsom_fast import backends
from vitsom_fast.backends.batch_map import add_rows, means, no_sums
from vitsom_fast.estimator.frame import Frame
from vitsom_fast.estimator.means import without_empty
from vitsom_fast.functional import find_bmu
from vitsom_fast.grid import Grid
from vitsom_fast.long_axis_pairs import pulling
from vitsom_fast.neighborhoods import SIGNED

TOO_FAR = "X must have rows within 1e38 times the size of the map, which fp32 holds, got one that is farther away"


@dataclass(frozen=True)
class Map:
    """Prototypes (K, D) fp32 as they are seen in a frame, and what distance tells them apart; ``backend`` is a resolved
    name."""

    grid: Grid
    metric: str
    missing: str
    backend: str
    frame: Frame
    prototypes: Tensor

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """BMU (B,) int64 and distance (B,) in the units of the data, of rows x (B, D) as they are given."""
        return self.searched(self._seen(x))

    def units(self, x: Tensor) -> Tensor:
        """BMU (B,) int64 of rows x (B, D) as they are given."""
        return find_bmu(self._seen(x), self.prototypes, **self._how)[0]

    def nearest_two(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same, (B, 2) each, the nearest first."""
        bmu, distance = find_bmu(self._seen(x), self.prototypes, k=2, **self._how)
        return bmu, self.frame.distance(distance.double())

    def searched(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As ``nearest``, of rows (B, D) as they are seen."""
        bmu, distance = find_bmu(rows, self.prototypes, **self._how)
        return bmu, self.frame.distance(distance.double())

    def _seen(self, x: Tensor) -> Tensor:
        """Rows x (B, D) as they are seen.

        Raises:
            ValueError: one is too far from the map to be told from others that are.
        """
        rows = self.frame.rows(x)
        if not rows.sum().isfinite() and rows.isinf().any():
            raise ValueError(TOO_FAR)
        return rows

    @cached_property
    def is_added_at_once(self) -> bool:
        """Whether the backend finds the units of rows and adds them up in one pass."""
        adds_nearest = getattr(own_primitives(self.backend), "adds_nearest", None)
        return self._is_euclidean and adds_nearest is not None and adds_nearest(self.prototypes)

    @property
    def _how(self) -> dict:
        return {"distance": self.metric, "grid": self.grid, "missing": self.missing, "backend": self.backend}

    @property
    def _is_euclidean(self) -> bool:
        return self.metric in ("sqeuclidean", "euclidean") and self.missing == "error"


class Epoch:
    """The sums of the rows of each unit, and of the distances to it; a ``Work``."""

    def __init__(self, som: Map) -> None:
        self._som = som

    def totals(self) -> list[Tensor]:
        """Sums by unit as ``batch_map.no_sums``; and the sum of the weighted distances and that of the weights, (2,)."""
        sums = no_sums(self._som.prototypes, by_feature=self._som.missing == "ignore")
        return [sums, sums.new_zeros(2)]

    def add(self, totals: list[Tensor], x: Tensor, weight: Tensor | None) -> None:
        """Adds rows x (B, D) as they are given, of weights (B,) fp64."""
        som = self._som
        if weight is None and som.is_added_at_once:
            x = self._add_at_once(totals, x)
            if len(x) == 0:
                return
        rows = som.frame.rows(x)
        bmu, distance = som.searched(rows)
        known = None
        if som.missing == "ignore":
            known = ~rows.isnan()
            rows = torch.where(known, rows, 0.0)
            distance, weight = without_empty(x, distance, weight)
        add_rows(own_primitives(som.backend), totals[0], rows, bmu, weight, known)
        if weight is None:
            totals[1] += torch.stack([distance.sum(), distance.new_tensor(len(distance))])
        else:
            totals[1] += torch.stack([distance @ weight, weight.sum()])

    def _add_at_once(self, totals: list[Tensor], x: Tensor) -> Tensor:
        """Adds what one pass of the backend can decide; returns the rows that are left."""
        som = self._som
        is_narrow = som.frame.is_narrow(x)
        centre, unit = (som.frame.centre.float(), som.frame.unit) if is_narrow else (som.prototypes.new_zeros(x.shape[1]), 1.0)
        own: Any = own_primitives(som.backend)
        distance, left = own.add_nearest(
            totals[0], x if is_narrow else som.frame.rows(x), som.prototypes, centre, unit, squared=som.metric == "sqeuclidean"
        )
        seen = som.frame.distance(totals[1].new_tensor(distance))
        totals[1] += torch.stack([seen, seen.new_tensor(len(x) - len(left))])
        return x[left]

    def updated(self, totals: list[Tensor], sigma: float, neighborhood: str) -> tuple[Tensor, float]:
        """New prototypes (K, D), as they are seen, and the mean distance of the rows to the units of the old ones."""
        som, (sums, errors) = self._som, totals
        pull = pulling(own_primitives(som.backend), som.grid, sigma, neighborhood, som.prototypes)
        prototypes = means(pull, sums, som.prototypes, signed=neighborhood in SIGNED)
        error, weight = errors.tolist()
        if weight <= 0:
            raise ValueError("X must have a row of a weight above 0 that has a number, got none")
        if not prototypes.isfinite().all():
            raise ValueError(TOO_FAR)
        return prototypes, error / weight


def own_primitives(backend: str) -> backends.Backend:
    """ "reference" has none: it adds up as "torch" does."""
    return backends.get("torch" if backend == "reference" else backend)

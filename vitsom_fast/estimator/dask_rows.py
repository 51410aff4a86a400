"""Rows of a Dask array or dataframe: every block is computed with where it is, and totals are added up pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
import torch
from torch import Tensor

from vitsom_fast.estimator.rows import Rows, TensorRows, Work, as_rows

_CPU = torch.device("cpu")


class DaskRows(Rows):
    """Blocks of rows, on whatever cluster Dask computes; what they become does not depend on it.

    Raises:
        ValueError: not two dimensions, or no row.
    """

    def __init__(self, x: Any, weight: Tensor | None, missing: str) -> None:
        if x.ndim != 2 or x.shape[1] < 1:
            raise ValueError(f"X must have rows of at least one feature, (N, D), got a collection of {x.ndim} dimensions")
        is_single = hasattr(x, "chunks") and x.dtype == np.float32
        super().__init__(x.shape[1], torch.float32 if is_single else torch.float64, _CPU, weight, missing)
        blocks = x.rechunk({1: -1}) if hasattr(x, "rechunk") else x
        self._blocks_of = list(np.ravel(np.asarray(blocks.to_delayed(), dtype=object)))
        lengths = x.chunks[0] if hasattr(x, "chunks") else (math.nan,)
        if weight is not None and any(math.isnan(length) for length in lengths):
            lengths = dask.compute(*[dask.delayed(len)(block) for block in self._blocks_of])
        self._lengths = lengths if len(lengths) == len(self._blocks_of) else (math.nan,) * len(self._blocks_of)
        self.length = None if any(math.isnan(length) for length in self._lengths) else sum(self._lengths)

    def add_up(self, work: Work, size: int) -> list[Tensor]:
        shared, start, parts = dask.delayed(work, traverse=False), 0, []
        for block, length in zip(self._blocks_of, self._lengths, strict=True):
            weight = None if self.weight is None else self.weight[start : start + int(length)]
            start += 0 if math.isnan(length) else int(length)
            parts.append(dask.delayed(_totals)(shared, block, weight, self._kind(), size))
        while len(parts) > 1:  # in an order that does not change
            pairs = zip(parts[::2], [*parts[1::2], None], strict=False)
            parts = [a if b is None else dask.delayed(_sum)(a, b) for a, b in pairs]
        return parts[0].compute()

    def map(self, function: Callable[[Tensor], Tensor], size: int) -> Any:
        """A Dask array."""
        like = function(torch.zeros(1, self.dim, dtype=self.dtype)).numpy()
        parts = [
            da.from_delayed(
                dask.delayed(_mapped)(function, block, self._kind(), size), shape=(length, *like.shape[1:]), meta=like[:0]
            )
            for block, length in zip(self._blocks_of, self._lengths, strict=True)
        ]
        return da.concatenate(parts, allow_unknown_chunksizes=True)

    def _blocks(self, size: int) -> Iterator[Tensor]:
        return (as_rows(block.compute(), self) for block in self._blocks_of)

    def _kind(self) -> Rows:
        """What a block has to know, without the data."""
        return Rows(self.dim, self.dtype, _CPU, None, self.missing)


def _block(block: Any, weight: Tensor | None, kind: Rows) -> TensorRows:
    return TensorRows(as_rows(block, kind), _CPU, weight, kind.missing)


def _totals(work: Work, block: Any, weight: Tensor | None, kind: Rows, size: int) -> list[Tensor]:
    totals = work.totals()
    for x, own in _block(block, weight, kind).chunks(size):
        work.add(totals, x, own)
    return totals


def _sum(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _mapped(function: Callable[[Tensor], Tensor], block: Any, kind: Rows, size: int) -> Any:
    rows = _block(block, None, kind)
    return rows.map(function, size) if rows.length else function(torch.empty(0, kind.dim, dtype=kind.dtype)).numpy()

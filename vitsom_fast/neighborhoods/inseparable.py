"""Kinds whose weights are no product over the axes: their table, by the lengths of the two offsets, as a sum of products."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from vitsom_fast.grid import Grid
from vitsom_fast.neighborhoods.assumptions import Neighborhood, widest_on
from vitsom_fast.neighborhoods.offsets import Part, is_observed, parts

# (P, Q) of a grid, lengths along rows (P,) and columns (Q,), and T.
Weights = Callable[[Grid, Tensor, Tensor, float | Tensor], Tensor]

# (terms, P) and (terms, Q) with ``table[p, q] = sum_t left[t, p] * right[t, q]``.
Products = tuple[Tensor, Tensor]

Decompose = Callable[[Tensor, torch.dtype], Products]

# Grids, temperatures and dtypes whose products are kept: a step asks for the same up to three times.
_KEPT = 16

# Of the largest weight: what fp32 sees beside it, less two bits.
_SEEN = 2.0**-26


def terms_of_table(
    grid: Grid,
    temperature: float | Tensor,
    weights: Weights,
    decompose: Decompose,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Neighborhood:
    """The factors of the products that the tables are made of; how many depends on T, whose value is read. Where a compiler, a
    mode or a transform looks on there is no value: each offset along the shorter axis then is a term of its own."""
    own = parts(grid, device)
    value, precision = temperature, torch.float64
    if is_observed():
        return _expanded(own, [_by_offset(_table(grid, part, temperature, weights, widest_on(device))) for part in own], dtype)
    if isinstance(temperature, Tensor):
        value, precision = temperature.item(), temperature.dtype
    if not value > 0:
        return Neighborhood(
            *(torch.full((1, length, length), math.nan, dtype=dtype, device=device) for length in (grid.rows, grid.cols))
        )
    return _expanded(own, _products(grid, float(value), precision, weights, decompose, device, dtype), dtype)


def grouped(table: Tensor, dtype: torch.dtype) -> Products:
    """One product for each of the different rows that are not zero, or columns where these are fewer: exact."""
    if table.shape[1] < table.shape[0]:
        right, left = grouped(table.T, dtype)
        return left, right
    rows, place = torch.unique(table.to(dtype), dim=0, return_inverse=True)
    each = torch.arange(len(rows), device=table.device)
    kept = rows.any(dim=1)
    return (place == each[:, None]).to(dtype)[kept], rows[kept]


def low_rank(table: Tensor, dtype: torch.dtype) -> Products:
    """The singular vectors that fp32 can see beside the largest weight, each pair of the same largest entry; fp64 gets the
    table as it is."""
    if dtype == torch.float64:
        return grouped(table, dtype)
    left, values, right = torch.linalg.svd(table, full_matrices=False)
    kept = values > _SEEN * table.abs().max()
    left, right = left.T[kept], right[kept] * values[kept, None]
    balance = (right.abs().amax(dim=1, keepdim=True) / left.abs().amax(dim=1, keepdim=True)).sqrt()
    return (left * balance).to(dtype), (right / balance).to(dtype)


def _by_offset(table: Tensor) -> Products:
    """One product for each row, or column where these are fewer."""
    if table.shape[1] < table.shape[0]:
        return table.T, torch.eye(table.shape[1], dtype=table.dtype, device=table.device)
    return torch.eye(table.shape[0], dtype=table.dtype, device=table.device), table


@functools.lru_cache(maxsize=_KEPT)
def _products(
    grid: Grid,
    temperature: float,
    precision: torch.dtype,
    weights: Weights,
    decompose: Decompose,
    device: torch.device,
    dtype: torch.dtype,
) -> list[Products]:
    """Those of each part, which nobody may write to. They are found in fp64 on the CPU."""
    cpu = torch.device("cpu")
    given = torch.tensor(temperature, dtype=precision, device=cpu)
    tables = [_table(grid, part, given, weights, torch.float64) for part in parts(grid, cpu)]
    return [(left.to(device), right.to(device)) for left, right in (decompose(table, dtype) for table in tables)]


def _table(grid: Grid, part: Part, temperature: float | Tensor, weights: Weights, dtype: torch.dtype) -> Tensor:
    """(P, Q)"""
    return weights(grid, part.row_lengths.to(dtype), part.half_lengths.to(dtype) / 2, temperature)


def _expanded(own: list[Part], products: list[Products], dtype: torch.dtype) -> Neighborhood:
    """From lengths to pairs of rows and pairs of columns."""
    rows, cols = [], []
    for part, (left, right) in zip(own, products, strict=True):
        rows.append(torch.where(part.applies, left[:, part.row_index], 0.0))
        cols.append(right[:, part.col_index])
    return Neighborhood(torch.cat(rows).to(dtype), torch.cat(cols).to(dtype))

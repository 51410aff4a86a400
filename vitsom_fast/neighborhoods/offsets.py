"""Offsets between the units of a grid along each of its axes: tables that depend on no temperature and are kept.

The shift between two rows of a hexagonal grid depends on their parities only: none, or half a column either way. So an offset
is one of three parts, each the pair of a row offset and a column offset; a rectangular grid has one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vitsom_fast.grid import Grid

# Bytes of tables that are kept, of all grids together: one of 1024 x 1024 units on a hexagonal grid has 25 MB.
_MOST_BYTES = 32 << 20

_offset_tables: dict[tuple[Grid, torch.device, torch.dtype], Tensor] = {}


def is_observed() -> bool:
    """Whether a compiler, a mode or a transform looks on: it may make of a tensor what no other call can use, and neither use
    what others have made nor wait for a value."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def squared_offsets(grid: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Squared distances along each axis, flat: (terms, R, R) then (terms, C, C); +inf where a term does not apply. Of two equal
    axes only one, (1, R, R). ``by_axis`` takes them apart."""
    if is_observed():  # a compiled graph folds the table into the factors' own kernel
        return _build_squared_offsets(grid, device, dtype)
    key = (grid, device, dtype)
    table = _offset_tables.get(key)
    if table is None:
        with torch.inference_mode(False), torch.no_grad():
            table = _build_squared_offsets(grid, device, dtype)
        # Memory of a graph under capture must not outlive this call.
        if not (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
            _keep(key, table)
    return table


def by_axis(grid: Grid, flat: Tensor) -> tuple[Tensor, Tensor]:
    """What was made of ``squared_offsets`` element by element, as (terms, R, R) and (terms, C, C)."""
    if _axes_are_equal(grid):
        return flat, flat
    terms = 3 if grid.topology == "hexagonal" else 1
    split = terms * grid.rows * grid.rows
    return flat[:split].view(terms, grid.rows, grid.rows), flat[split:].view(terms, grid.cols, grid.cols)


class Part(NamedTuple):
    """One part of the offsets, by the lengths that occur in it: along rows, in rows, and along columns, in halves of one."""

    row_lengths: Tensor  # [P] int64
    half_lengths: Tensor  # [Q] int64
    row_index: Tensor  # [R, R] int64, of the length between two rows
    col_index: Tensor  # [C, C] int64
    applies: Tensor  # [R, R] bool, to these two rows


def parts(grid: Grid, device: torch.device) -> list[Part]:
    """Those that the grid has, one or three."""
    is_hexagonal = grid.topology == "hexagonal"
    row, col = torch.arange(grid.rows, device=device), torch.arange(grid.cols, device=device)
    row_length = _length(row[:, None] - row, grid.rows, grid.periodic)  # [R, R]
    parity = row % 2 if is_hexagonal else torch.zeros_like(row)
    longest_row = grid.rows // 2 if grid.periodic else grid.rows - 1
    longest_half = grid.cols if grid.periodic else 2 * grid.cols - 1
    found = []
    for apart in (0, 1, -1) if is_hexagonal else (0,):
        first, step = abs(apart), 2 if is_hexagonal else 1
        if first > longest_row:
            continue
        half = _length(2 * (col[:, None] - col) + apart, 2 * grid.cols, grid.periodic)  # [C, C]
        part = Part(
            torch.arange(first, longest_row + 1, step, device=device),
            torch.arange(first, longest_half + 1, 2, device=device),
            (row_length - first).clamp_min(0).div(step, rounding_mode="floor"),
            (half - first).div(2, rounding_mode="floor"),
            parity[:, None] - parity == apart,
        )
        found.append(part)
    return found


def _axes_are_equal(grid: Grid) -> bool:
    return grid.rows == grid.cols and grid.topology == "rectangular"


def _keep(key: tuple[Grid, torch.device, torch.dtype], table: Tensor) -> None:
    """The oldest make room."""
    if table.nbytes > _MOST_BYTES:
        return
    for oldest in list(_offset_tables):
        if table.nbytes + sum(kept.nbytes for kept in list(_offset_tables.values())) <= _MOST_BYTES:
            break
        _offset_tables.pop(oldest, None)  # another thread may have been faster
    _offset_tables[key] = table


def _build_squared_offsets(grid: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Squares of integers and halves, wrapped as integers: exact but for one rounding to the dtype."""
    row = torch.arange(grid.rows, device=device)
    col = torch.arange(grid.cols, device=device)
    row_offset = row[:, None] - row[None, :]  # [R, R]
    row_squares = _length(row_offset, grid.rows, grid.periodic).square()
    if _axes_are_equal(grid):
        return row_squares.to(dtype)[None]
    col_offset = col[:, None] - col[None, :]  # [C, C]
    if grid.topology == "rectangular":
        rows, cols = row_squares[None], _length(col_offset, grid.cols, grid.periodic).square()[None]
        return torch.cat([rows.flatten(), cols.flatten()]).to(dtype)
    # Quarters are integers: three of them are the square of the row pitch, and half a column is one of them squared.
    wide = torch.promote_types(dtype, torch.float32)
    across = (3 * row_squares).to(wide).div_(4)
    parity = row % 2
    difference = parity[:, None] - parity[None, :]
    rows = torch.stack([across.masked_fill(difference != apart, math.inf) for apart in (0, 1, -1)])
    halves = torch.stack([2 * col_offset + shift for shift in (0, 1, -1)])
    cols = _length(halves, 2 * grid.cols, grid.periodic).square().to(wide).div_(4)
    return torch.cat([rows.flatten(), cols.flatten()]).to(dtype)


def _length(offset: Tensor, extent: int, periodic: bool) -> Tensor:
    """Lengths of integer offsets, all of them shorter than the circle of this length."""
    length = offset.abs()
    return torch.minimum(length, extent - length) if periodic else length

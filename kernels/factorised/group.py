"""Samples in the order of their BMU's column, and within a column in their own: a counting sort, a program a column.

The row smoothing then reads a column of the map once for all its samples, and sums over samples have a fixed order. Programs
beyond the columns survey the map.
"""

from __future__ import annotations

import triton
import triton.language as tl
from vitsom_fast.kernels.common import keys
from vitsom_fast.kernels.common import survey as surveys
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.plan import Buffer, Recording


@triton.jit(do_not_specialize=["batch", "terms"])
def group_kernel(
    row_keys,  # [B] int64
    bmu,  # [B] int64
    order,  # [B] int32: samples sorted by column
    starts,  # [C + 1] int32: where each column's samples begin in it
    prototypes,  # [K, D], any strides
    inverse_prototypes,  # [K] fp32
    row_factors,  # [terms, R, R] fp32
    col_factors,  # [terms, C, C] fp32
    factor_sums,  # [terms * R + terms * C] fp64
    centre,  # [D] fp32
    batch,
    rows,
    cols,
    dim,
    stride,
    step,
    terms,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    if program < cols:
        group_column(program, row_keys, bmu, order, starts, batch, cols, True, BLOCK)
    else:
        surveys.survey(
            program - cols,
            prototypes,
            inverse_prototypes,
            row_factors,
            col_factors,
            factor_sums,
            centre,
            rows,
            cols,
            dim,
            stride,
            step,
            terms,
        )


@triton.jit
def group_column(column, row_keys, bmu, order, starts, batch, cols, KEYS: tl.constexpr, BLOCK: tl.constexpr):
    """``row_keys`` are keys, from which the BMUs are stored, or else the BMUs themselves."""
    before = tl.zeros([BLOCK], tl.int32)
    for first in range(0, batch, BLOCK):
        samples = first + tl.arange(0, BLOCK)
        index = _units(tl.load(row_keys + samples, mask=samples < batch, other=0), KEYS)
        before += ((index % cols < column) & (samples < batch)).to(tl.int32)
    place = tl.sum(before)
    tl.store(starts + column, place)
    for first in range(0, batch, BLOCK):
        samples = first + tl.arange(0, BLOCK)
        index = _units(tl.load(row_keys + samples, mask=samples < batch, other=0), KEYS)
        mine = (index % cols == column) & (samples < batch)
        if KEYS:
            tl.store(bmu + samples, index.to(tl.int64), mask=mine)
        tl.store(order + place + tl.cumsum(mine.to(tl.int32)) - 1, samples, mask=mine)
        place += tl.sum(mine.to(tl.int32))
    if column == cols - 1:
        tl.store(starts + cols, place)


@triton.jit
def _units(loaded, KEYS: tl.constexpr):
    return keys.decode_index(loaded) if KEYS else loaded.to(tl.int32)


def group(
    recording: Recording,
    row_keys: Buffer,
    prototypes: Buffer,
    inverse_prototypes: Buffer,
    row_factors: Buffer,
    col_factors: Buffer,
    bmu: Buffer,
    order: Buffer,
    starts: Buffer,
    factor_sums: Buffer,
    centre: Buffer,
) -> None:
    """Fills in the BMUs (B,) int64 of the keys (B,), their order (B,) int32, the starts (C + 1,) int32 of the columns, the sums
    (terms * R + terms * C,) fp64 of the factors (terms, R, R) and (terms, C, C), and the centre (D,) fp32."""
    (terms, rows, _), cols, dim = row_factors.shape, col_factors.shape[1], prototypes.shape[1]
    recording.launch(
        group_kernel,
        cols + surveys.programs(terms, rows, cols, dim),
        row_keys,
        bmu,
        order,
        starts,
        prototypes,
        inverse_prototypes,
        row_factors,
        col_factors,
        factor_sums,
        centre,
        bmu.shape[0],
        rows,
        cols,
        dim,
        *prototypes.stride(),
        terms,
        **configs.group().options(),
    )

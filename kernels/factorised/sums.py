"""Sums of rows by their BMU: the rows in the order of their unit, then a program a unit, which adds its own up.

Two counting sorts make the order. Units are taken as those of a grid about as wide as it is high, whatever map they are of: the
first sort is that by column of the fused passes (group.py), in which a program a column looks at every row; the second sorts
each column by itself. So a row is looked at 4 sqrt(K) times, where one sort by all K units would look 2 K times.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.factorised.group import group_column
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks
from vitsom_fast.kernels.launch.plan import Buffer, Recording


@triton.jit(do_not_specialize=["batch"])
def sort_columns_kernel(
    bmu,  # [B] int64
    order,  # [B] int32: samples sorted by column
    starts,  # [C + 1] int32: where each column's samples begin in it
    batch,
    cols,
    BLOCK: tl.constexpr,
):
    """A program a column."""
    group_column(tl.program_id(0), bmu, bmu, order, starts, batch, cols, False, BLOCK)


@triton.jit(do_not_specialize=["batch"])
def sort_units_kernel(
    bmu,  # [B] int64
    by_column,  # [B] int32: samples sorted by column
    column_starts,  # [C + 1] int32
    order,  # [B] int32: sorted by column, then by row
    starts,  # [C * R + 1] int32: where the samples of each unit begin in it, column after column
    batch,
    rows,
    cols,
    BLOCK: tl.constexpr,
):
    """A program a unit, which looks at the samples of its column."""
    place = tl.program_id(0)
    column, row = place // rows, place % rows
    begin, end = tl.load(column_starts + column), tl.load(column_starts + column + 1)
    before, within = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    for first in range(begin, end, BLOCK):
        at = first + tl.arange(0, BLOCK)
        samples = tl.load(by_column + at, mask=at < end, other=0)
        row_of_sample = tl.load(bmu + samples, mask=at < end, other=0).to(tl.int32) // cols
        before += ((row_of_sample < row) & (at < end)).to(tl.int32)
        within += ((row_of_sample == row) & (at < end)).to(tl.int32)
    target = begin + tl.sum(before)
    tl.store(starts + place, target)
    if place == tl.num_programs(0) - 1:
        tl.store(starts + place + 1, batch)
    if tl.sum(within) > 0:  # of most units there is none
        for first in range(begin, end, BLOCK):
            at = first + tl.arange(0, BLOCK)
            samples = tl.load(by_column + at, mask=at < end, other=0)
            row_of_sample = tl.load(bmu + samples, mask=at < end, other=0).to(tl.int32) // cols
            mine = (row_of_sample == row) & (at < end)
            tl.store(order + target + tl.cumsum(mine.to(tl.int32)) - 1, samples, mask=mine)
            target += tl.sum(mine.to(tl.int32))


@triton.jit
def sum_units_kernel(
    x,  # [B, D] in fp32, bf16 or fp16, any strides
    order,  # [B] int32
    starts,  # [C * R + 1] int32
    sums,  # [K, sums_pitch] fp32 or fp64, the first D of each row
    counts,  # [K] of the same, counts_step apart
    rows,
    cols,
    dim,
    stride,
    step,
    sums_pitch,
    counts_step,
    ADD: tl.constexpr,  # whether to what is in sums and counts, or in its place
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A program a unit and some features. In fp64: of 20000 samples of one unit summed up in fp32, 6e-6 would be wrong."""
    dim_blocks = tl.cdiv(dim, BLOCK_D)
    unit, dim_block = tl.program_id(0) // dim_blocks, tl.program_id(0) % dim_blocks
    place = unit % cols * rows + unit // cols
    begin, end = tl.load(starts + place), tl.load(starts + place + 1)
    features = (dim_block * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    is_feature = features < dim
    total = tl.zeros([BLOCK_B, BLOCK_D], tl.float64)
    for first in range(begin, end, BLOCK_B):
        at = first + tl.arange(0, BLOCK_B)
        samples = tl.load(order + at, mask=at < end, other=0).to(tl.int64)
        part = x + samples[:, None] * stride + features[None, :] * step
        total += tl.load(part, mask=(at < end)[:, None] & is_feature[None, :], other=0.0).to(tl.float64)
    sum_of_unit = tl.sum(total, axis=0)
    sums += tl.cast(unit, tl.int64) * sums_pitch + features
    counts += tl.cast(unit, tl.int64) * counts_step
    if ADD:
        if begin == end:
            return
        sum_of_unit += tl.load(sums, mask=is_feature, other=0.0)
    tl.store(sums, sum_of_unit.to(sums.dtype.element_ty), mask=is_feature)
    if dim_block == 0:
        count = (end - begin).to(counts.dtype.element_ty)
        if ADD:
            count += tl.load(counts)
        tl.store(counts, count)


def _sum_units(
    recording: Recording,
    x: Buffer,
    bmu: Buffer,
    num_prototypes: int,
    sums: Buffer,
    counts: Buffer,
    sums_pitch: int,
    counts_step: int,
    add: bool,
) -> None:
    batch, dim = x.shape
    cols = math.isqrt(num_prototypes - 1) + 1
    rows = blocks(num_prototypes, cols)
    by_column, order = recording.temporary((batch,), torch.int32), recording.temporary((batch,), torch.int32)
    column_starts = recording.temporary((cols + 1,), torch.int32)
    starts = recording.temporary((cols * rows + 1,), torch.int32)
    recording.launch(sort_columns_kernel, cols, bmu, by_column, column_starts, batch, cols, **configs.group().options())
    recording.launch(
        sort_units_kernel,
        cols * rows,
        bmu,
        by_column,
        column_starts,
        order,
        starts,
        batch,
        rows,
        cols,
        **configs.sort_units().options(),
    )
    config = configs.sum_units(dim)
    recording.launch(
        sum_units_kernel,
        num_prototypes * blocks(dim, config["BLOCK_D"]),
        x,
        order,
        starts,
        sums,
        counts,
        rows,
        cols,
        dim,
        *x.stride(),
        sums_pitch,
        counts_step,
        ADD=add,
        **config.options(),
    )


def sum_by_bmu(recording: Recording, x: Buffer, bmu: Buffer, num_prototypes: int) -> None:
    """Results: sums (K, D) and counts (K,) fp32 of the rows x (B, D) of every BMU (B,) int64."""
    dim = x.shape[1]
    sums = recording.result((num_prototypes, dim), torch.float32)
    counts = recording.result((num_prototypes,), torch.float32)
    _sum_units(recording, x, bmu, num_prototypes, sums, counts, dim, 1, add=False)


def add_by_bmu(recording: Recording, sums: Buffer, x: Buffer, bmu: Buffer) -> None:
    """Adds both to sums (K, D + 1) fp64, the counts in its last column."""
    num_prototypes, width = sums.shape
    _sum_units(recording, x, bmu, num_prototypes, sums, sums.part(width - 1, (1,), torch.float64), width, width, add=True)

"""Samples in the order of their BMU's column, and within a column in their own: a counting sort, a program a column.

The row smoothing then reads a column of the map once for all its samples, and sums over samples have a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from vitsom_fast.kernels import configs, keys


@triton.jit(do_not_specialize=["batch"])
def group_kernel(
    row_keys,  # [B] int64
    bmu,  # [B] int64
    order,  # [B] int32: samples sorted by column
    starts,  # [C + 1] int32: where each column's samples begin in it
    batch,
    cols,
    BLOCK: tl.constexpr,
):
    column = tl.program_id(0)
    before = tl.zeros([BLOCK], tl.int32)
    for first in range(0, batch, BLOCK):
        samples = first + tl.arange(0, BLOCK)
        key = tl.load(row_keys + samples, mask=samples < batch, other=0)
        before += ((keys.decode_index(key) % cols < column) & (samples < batch)).to(tl.int32)
    place = tl.sum(before)
    tl.store(starts + column, place)
    for first in range(0, batch, BLOCK):
        samples = first + tl.arange(0, BLOCK)
        index = keys.decode_index(tl.load(row_keys + samples, mask=samples < batch, other=0))
        mine = (index % cols == column) & (samples < batch)
        tl.store(bmu + samples, index.to(tl.int64), mask=mine)
        tl.store(order + place + tl.cumsum(mine.to(tl.int32)) - 1, samples, mask=mine)
        place += tl.sum(mine.to(tl.int32))
    if column == cols - 1:
        tl.store(starts + cols, place)


def group(row_keys: Tensor, bmu: Tensor, order: Tensor, starts: Tensor) -> None:
    """Fills in the BMUs (B,) int64 of the keys (B,), their order (B,) int32 and the starts (C + 1,) int32 of the columns."""
    cols = starts.shape[0] - 1
    group_kernel[cols,](row_keys, bmu, order, starts, bmu.shape[0], cols, **configs.group().options())

"""The attraction S_b of every sample and the loss: smoothing along the rows of the grid, only where a sample's BMU is.

Samples come in the order of their column. A program takes some of them and a block of features, and multiplies their rows of
the row factor with each column of the map that they are in.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from vitsom_fast.kernels import configs
from vitsom_fast.kernels.device import blocks, family
from vitsom_fast.kernels.smooth import EPS, NEGLIGIBLE


@triton.jit(do_not_specialize=["batch", "terms"])
def attraction_kernel(
    z,  # [B, D], any strides
    norm_z,  # [B] fp32
    norm_prototypes,  # [K] fp32
    row_factors,  # [terms, R, R] fp32
    col_factors,  # [terms, C, C] fp32
    smoothed,  # [terms, R, C, D] fp32: along the columns
    bmu,  # [B] int64
    order,  # [B] int32
    attraction,  # [B, D] fp32
    partial,  # [programs] fp64
    ticket,  # int32, zero
    loss,  # fp32
    scale,  # of the reduction
    batch,
    rows,
    cols,
    dim,
    z_stride,
    z_step,
    terms,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``S_i = sum_r row_factors[row_i, r] * smoothed[r, col_i]``; loss ``scale * sum_i (n_i - z^_i . S_i)``."""
    program = tl.program_id(0)
    dim_blocks = tl.cdiv(dim, BLOCK_D)
    dim_block = program % dim_blocks
    features = (dim_block * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    is_feature = features < dim
    places = program // dim_blocks * BLOCK_B + tl.arange(0, BLOCK_B)
    is_sample = places < batch
    samples = tl.load(order + tl.minimum(places, batch - 1)).to(tl.int64)  # rows beyond the last are the last again
    unit = tl.load(bmu + samples)
    row = unit // cols
    col = (unit % cols).to(tl.int32)

    total = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    column = tl.min(col)
    while column < cols:
        here = col == column
        for term in range(terms):
            factor = row_factors + tl.cast(term, tl.int64) * rows * rows + row[:, None] * rows
            low = rows
            high = 0
            for first in range(0, rows, BLOCK_R):
                inputs = first + tl.arange(0, BLOCK_R)
                weight = tl.load(factor + inputs[None, :], mask=here[:, None] & (inputs < rows)[None, :], other=0.0)
                if tl.max(tl.where(tl.abs(weight) <= NEGLIGIBLE, 0, 1)) > 0:
                    low = tl.minimum(low, first)
                    high = first + BLOCK_R
            column_of_map = smoothed + (tl.cast(term, tl.int64) * rows * cols + column) * dim + features[None, :]
            for first in range(low, tl.minimum(high, rows), BLOCK_R):
                inputs = first + tl.arange(0, BLOCK_R)
                is_input = inputs < rows
                weight = tl.load(factor + inputs[None, :], mask=here[:, None] & is_input[None, :], other=0.0)
                x = tl.load(
                    column_of_map + inputs.to(tl.int64)[:, None] * cols * dim,
                    mask=is_input[:, None] & is_feature[None, :],
                    other=0.0,
                )
                total = tl.dot(weight, x, total, input_precision=PRECISION)
        column = tl.min(tl.where(col > column, col, cols))  # the next one that a sample is in

    kept = is_sample[:, None] & is_feature[None, :]
    tl.store(attraction + samples[:, None] * dim + features[None, :], total, mask=kept)
    latents = tl.load(z + samples[:, None] * z_stride + features[None, :] * z_step, mask=kept, other=0.0).to(tl.float32)
    length = tl.maximum(tl.load(norm_z + samples), EPS, propagate_nan=tl.PropagateNan.ALL)
    # fp64: the loss is the small difference of two large sums.
    lost = -tl.sum((latents / length[:, None]).to(tl.float64) * total.to(tl.float64))
    if dim_block == 0:
        weight = _total_weight(row_factors, col_factors, row, col, rows, cols, terms, BLOCK_B, BLOCK_R)
        lost += tl.sum(tl.where(is_sample, weight, 0.0))
    lost += _zero_unless_infinite(norm_prototypes, rows * cols)
    tl.store(partial + program, lost)

    tl.debug_barrier()
    programs = tl.num_programs(0)
    if tl.atomic_add(ticket, 1) == programs - 1:  # the last one adds up what all have stored
        tl.debug_barrier()
        parts = tl.zeros([1024], tl.float64)
        for first in range(0, programs, 1024):
            at = first + tl.arange(0, 1024)
            parts += tl.load(partial + at, mask=at < programs, other=0.0, cache_modifier=".cg")
        tl.store(loss, (tl.sum(parts) * scale).to(tl.float32))


@triton.jit
def _total_weight(row_factors, col_factors, row, col, rows, cols, terms, BLOCK_B: tl.constexpr, BLOCK: tl.constexpr):
    """``n_i``, the sum of the weights of all units as seen from a sample's BMU: [BLOCK_B] fp64."""
    weight = tl.zeros([BLOCK_B], tl.float64)
    for term in range(terms):
        along_rows = _sum_of_rows(row_factors + tl.cast(term, tl.int64) * rows * rows, row, rows, BLOCK_B, BLOCK)
        along_cols = _sum_of_rows(col_factors + tl.cast(term, tl.int64) * cols * cols, col.to(tl.int64), cols, BLOCK_B, BLOCK)
        weight += along_rows * along_cols
    return weight


@triton.jit
def _sum_of_rows(factor, index, count, BLOCK_B: tl.constexpr, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK_B, BLOCK], tl.float64)
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)[None, :]
        total += tl.load(factor + index[:, None] * count + at, mask=at < count, other=0.0).to(tl.float64)
    return tl.sum(total, axis=1)


@triton.jit
def _zero_unless_infinite(norm_prototypes, count):
    """NaN where a prototype is not finite, though its weight may be nothing. Every program looks at its share of them."""
    share = tl.cdiv(count, tl.num_programs(0))
    begin = tl.program_id(0) * share
    products = tl.zeros([256], tl.float32)
    for first in range(begin, tl.minimum(begin + share, count), 256):
        at = first + tl.arange(0, 256)
        products += 0.0 * tl.load(norm_prototypes + at, mask=at < tl.minimum(begin + share, count), other=0.0)
    return tl.sum(products).to(tl.float64)


def attraction_and_loss(
    z: Tensor,
    norm_z: Tensor,
    norm_prototypes: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    smoothed: Tensor,
    bmu: Tensor,
    order: Tensor,
    ticket: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attraction (B, D) fp32 and loss () fp32; the ticket is an int32 that is zero."""
    (batch, dim), (terms, rows, _), cols = z.shape, row_factors.shape, col_factors.shape[1]
    attraction = torch.empty((batch, dim), dtype=torch.float32, device=z.device)
    loss = torch.empty((), dtype=torch.float32, device=z.device)
    config = configs.attraction(family(z.device), dim)
    programs = blocks(batch, config["BLOCK_B"]) * blocks(dim, config["BLOCK_D"])
    attraction_kernel[programs,](
        z,
        norm_z,
        norm_prototypes,
        row_factors,
        col_factors,
        smoothed,
        bmu,
        order,
        attraction,
        torch.empty(programs, dtype=torch.float64, device=z.device),
        ticket,
        loss,
        scale,
        batch,
        rows,
        cols,
        dim,
        *z.stride(),
        terms,
        PRECISION=configs.precision(family(z.device)),
        **config.options(),
    )
    return attraction, loss

"""The attraction S_b of every sample and the loss: smoothing along the rows of the grid, only where a sample's BMU is.

Samples come in the order of their column. A program takes some of them and a block of features, and multiplies their rows of
the row factor with each column of the map that they are in: in fp32 itself, for what tensor cores cut off here (1e-7 with three
TF32 products) would add to what the smoothing along the columns has lost already, and the loss is held to 1e-7.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.common import loss as losses
from vitsom_fast.kernels.common.survey import total_weight
from vitsom_fast.kernels.factorised.smooth import BESIDE_ONE, band
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks, family
from vitsom_fast.kernels.launch.plan import Buffer, Recording


@triton.jit(do_not_specialize=["batch", "terms"])
def attraction_kernel(
    z,  # [B, D], any strides
    inverse_z,  # [B] fp32
    rest_z,  # [B] fp32
    inverse_prototypes,  # [K] fp32
    row_factors,  # [terms, R, R] fp32
    factor_sums,  # [terms * R + terms * C] fp64
    centre,  # [D] fp32
    smoothed,  # [terms, R, C, D] fp32: along the columns, as seen from the centre
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
    BLOCK_B: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``S_i = n_i c + sum_r row_factors[row_i, r] * smoothed[r, col_i]``; loss ``scale * sum_i (n_i - z^_i . S_i)``."""
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
            factor = row_factors + tl.cast(term, tl.int64) * rows * rows
            low, high = band(factor, rows, row, here, 1, rows, BESIDE_ONE, BLOCK_R)
            column_of_map = smoothed + (tl.cast(term, tl.int64) * rows * cols + column) * dim + features[None, :]
            for first in range(low, high, BLOCK_R):
                inputs = first + tl.arange(0, BLOCK_R)
                is_input = inputs < rows
                at = factor + row[:, None] * rows + inputs[None, :]
                weight = tl.load(at, mask=here[:, None] & is_input[None, :], other=0.0)
                x = tl.load(
                    column_of_map + inputs.to(tl.int64)[:, None] * cols * dim,
                    mask=is_input[:, None] & is_feature[None, :],
                    other=0.0,
                )
                total += tl.dot(weight, x, input_precision="ieee")
        column = tl.min(tl.where(col > column, col, cols))  # the next one that a sample is in

    kept = is_sample[:, None] & is_feature[None, :]
    weight = total_weight(factor_sums, row, col, rows, cols, terms)
    seen_from = tl.load(centre + features, mask=is_feature, other=0.0)
    attracted = weight.to(tl.float32)[:, None] * seen_from[None, :] + total
    tl.store(attraction + samples[:, None] * dim + features[None, :], attracted, mask=kept)
    lost = losses.lost(
        z,
        inverse_z,
        rest_z,
        inverse_prototypes,
        samples,
        is_sample,
        weight,
        seen_from,
        features,
        dim_block,
        total,
        rows * cols,
        dim,
        z_stride,
        z_step,
    )
    losses.add_up(lost, partial, ticket, loss, scale)


def attraction_and_loss(
    recording: Recording,
    z: Buffer,
    inverse_z: Buffer,
    rest_z: Buffer,
    inverse_prototypes: Buffer,
    row_factors: Buffer,
    factor_sums: Buffer,
    centre: Buffer,
    smoothed: Buffer,
    bmu: Buffer,
    order: Buffer,
    ticket: Buffer,
    attraction: Buffer,
    loss: Buffer,
    scale: float,
) -> None:
    """Fills in the attraction (B, D) fp32 and the loss () fp32; the ticket is an int32 that is zero."""
    (batch, dim), (terms, rows, _) = z.shape, row_factors.shape
    cols = inverse_prototypes.shape[0] // rows
    config = configs.attraction(family(z.device), dim)
    programs = blocks(batch, config["BLOCK_B"]) * blocks(dim, config["BLOCK_D"])
    recording.launch(
        attraction_kernel,
        programs,
        z,
        inverse_z,
        rest_z,
        inverse_prototypes,
        row_factors,
        factor_sums,
        centre,
        smoothed,
        bmu,
        order,
        attraction,
        recording.temporary((programs,), torch.float64),
        ticket,
        loss,
        scale,
        batch,
        rows,
        cols,
        dim,
        *z.stride(),
        terms,
        **config.options(),
    )

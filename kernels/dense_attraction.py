"""The attraction S_b of every sample and the loss where the weights are at hand: one matrix product, weights by prototypes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from vitsom_fast.kernels import configs
from vitsom_fast.kernels import loss as losses
from vitsom_fast.kernels.device import blocks, family
from vitsom_fast.kernels.prepare import Operands
from vitsom_fast.kernels.product import ROWS_A_SUM, UNITS_BACK, add_short, is_short, weigh


@triton.jit(do_not_specialize=["batch", "terms"])
def dense_attraction_kernel(
    z,  # [B, D], any strides
    inverse_z,  # [B] fp64
    prototypes,  # [K, D], any strides
    norm_prototypes,  # [K] fp32
    row_factors,  # [terms, R, R] fp32
    col_factors,  # [terms, C, C] fp32
    bmu,  # [B] int64
    weights,  # [B, weights_pitch] fp32
    prototypes_high,  # [K, padded D] fp16
    prototypes_low,
    prototype_scale,  # [K] fp32
    attraction,  # [B, D] fp32
    partial,  # [programs] fp64
    ticket,  # int32, zero
    loss,  # fp32
    scale,  # of the reduction
    batch,
    rows,
    cols,
    dim,
    padded_dim,
    weights_pitch,
    z_stride,
    z_step,
    prototypes_stride,
    prototypes_step,
    terms,
    SPLIT: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """``S_i = sum_k weights[i, k] * w^_k``; loss ``scale * sum_i (n_i - z^_i . S_i)``."""
    count = rows * cols
    batch_blocks = tl.cdiv(batch, BLOCK_B)
    dim_block = tl.program_id(0) // batch_blocks
    features = (dim_block * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    samples = (tl.program_id(0) % batch_blocks * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)
    is_sample = samples < batch
    samples = tl.minimum(samples, batch - 1)

    total = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    for start in range(0, count, 4 * ROWS_A_SUM):
        for quarter in tl.static_range(4):  # products that do not wait for one another
            first = start + quarter * ROWS_A_SUM
            units = first + tl.arange(0, ROWS_A_SUM)
            weight = tl.load(
                weights + samples[:, None] * weights_pitch + units[None, :], mask=(units < count)[None, :], other=0.0
            )
            units = tl.minimum(units, count - 1)
            weight = tl.where(is_short(tl.load(norm_prototypes + units))[None, :], 0.0, weight)
            if not SPLIT:
                weight *= tl.load(prototype_scale + units)[None, :]
            at = units.to(tl.int64)[:, None] * padded_dim + features[None, :]
            high = tl.load(prototypes_high + at)
            total += weigh(weight, high, tl.load(prototypes_low + at) if SPLIT else high, SPLIT)
    total = add_short(
        total,
        weights + samples * weights_pitch,
        1,
        prototypes,
        prototypes_stride,
        prototypes_step,
        norm_prototypes,
        count,
        is_sample,
        features,
        features < dim,
    )
    total *= UNITS_BACK

    kept = is_sample[:, None] & (features < dim)[None, :]
    tl.store(attraction + samples[:, None] * dim + features[None, :], total, mask=kept)
    unit = tl.load(bmu + samples)
    lost = losses.lost(
        z,
        inverse_z,
        norm_prototypes,
        row_factors,
        col_factors,
        samples,
        is_sample,
        unit // cols,
        unit % cols,
        features,
        dim_block,
        total,
        rows,
        cols,
        dim,
        z_stride,
        z_step,
        terms,
        BLOCK_B,
        BLOCK_R,
    )
    losses.add_up(lost, partial, ticket, loss, scale)


def attraction_and_loss(
    z: Tensor,
    prototypes: Tensor,
    norm_prototypes: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    bmu: Tensor,
    weights: Tensor,
    operands: Operands,
    ticket: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attraction (B, D) fp32 and loss () fp32; the ticket is an int32 that is zero."""
    (batch, dim), (terms, rows, _), cols = z.shape, row_factors.shape, col_factors.shape[1]
    attraction = torch.empty((batch, dim), dtype=torch.float32, device=z.device)
    loss = torch.empty((), dtype=torch.float32, device=z.device)
    config = configs.dense_attraction(family(z.device), dim)
    programs = blocks(batch, config["BLOCK_B"]) * blocks(dim, config["BLOCK_D"])
    dense_attraction_kernel[programs,](
        z,
        operands.inverse_z,
        prototypes,
        norm_prototypes,
        row_factors,
        col_factors,
        bmu,
        weights,
        operands.prototypes_high,
        operands.prototypes_low,
        operands.prototype_scale,
        attraction,
        torch.empty(programs, dtype=torch.float64, device=z.device),
        ticket,
        loss,
        scale,
        batch,
        rows,
        cols,
        dim,
        operands.prototypes_high.shape[1],
        weights.shape[1],
        *z.stride(),
        *prototypes.stride(),
        terms,
        SPLIT=operands.is_split,
        **config.options(),
    )
    return attraction, loss

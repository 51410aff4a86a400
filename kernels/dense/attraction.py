"""The attraction S_b of every sample and the loss where the weights are at hand: one matrix product, weights by prototypes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.common import loss as losses
from vitsom_fast.kernels.common.product import ROWS_A_SUM, UNITS_BACK, add_short, from_centre, weigh
from vitsom_fast.kernels.common.survey import total_weight
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks, family
from vitsom_fast.kernels.launch.plan import Buffer, Recording


@triton.jit(do_not_specialize=["batch", "terms"])
def dense_attraction_kernel(
    z,  # [B, D], any strides
    inverse_z,  # [B] fp32
    rest_z,  # [B] fp32
    prototypes,  # [K, D], any strides
    inverse_prototypes,  # [K] fp32
    rest_prototypes,  # [K] fp32
    factor_sums,  # [terms * R + terms * C] fp64
    centre,  # [D] fp32
    bmu,  # [B] int64
    weights,  # [B, weights_pitch] fp32
    attraction,  # [B, D] fp32
    partial,  # [programs] fp64
    ticket,  # int32, zero
    loss,  # fp32
    scale,  # of the reduction
    batch,
    rows,
    cols,
    dim,
    weights_pitch,
    z_stride,
    z_step,
    prototypes_stride,
    prototypes_step,
    terms,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``S_i = n_i c + sum_k weights[i, k] * (w^_k - c)``; loss ``scale * sum_i (n_i - z^_i . S_i)``."""
    count = rows * cols
    batch_blocks = tl.cdiv(batch, BLOCK_B)
    dim_block = tl.program_id(0) // batch_blocks
    features = (dim_block * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    is_feature = features < dim
    seen_from = tl.load(centre + features, mask=is_feature, other=0.0)
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
            at = units.to(tl.int64)[:, None] * prototypes_stride + features[None, :] * prototypes_step
            x = tl.load(prototypes + at, mask=is_feature[None, :], other=0.0).to(tl.float32)
            inverse = tl.load(inverse_prototypes + units)
            total += weigh(weight, from_centre(x, inverse, tl.load(rest_prototypes + units), seen_from))
    total = add_short(
        total * UNITS_BACK,
        weights + samples * weights_pitch,
        1,
        prototypes,
        prototypes_stride,
        prototypes_step,
        inverse_prototypes,
        count,
        is_sample,
        features,
        is_feature,
    )

    unit = tl.load(bmu + samples)
    total_of_weights = total_weight(factor_sums, unit // cols, unit % cols, rows, cols, terms)
    attracted = total_of_weights.to(tl.float32)[:, None] * seen_from[None, :] + total
    kept = is_sample[:, None] & is_feature[None, :]
    tl.store(attraction + samples[:, None] * dim + features[None, :], attracted, mask=kept)
    lost = losses.lost(
        z,
        inverse_z,
        rest_z,
        inverse_prototypes,
        samples,
        is_sample,
        total_of_weights,
        seen_from,
        features,
        dim_block,
        total,
        count,
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
    prototypes: Buffer,
    inverse_prototypes: Buffer,
    rest_prototypes: Buffer,
    factor_sums: Buffer,
    centre: Buffer,
    bmu: Buffer,
    weights: Buffer,
    ticket: Buffer,
    attraction: Buffer,
    loss: Buffer,
    scale: float,
    shape: tuple[int, int, int],
) -> None:
    """Fills in the attraction (B, D) and the loss (), both fp32; the ticket is an int32 that is zero, the shape terms, rows and
    columns."""
    (batch, dim), (terms, rows, cols) = z.shape, shape
    config = configs.dense_attraction(family(z.device), dim)
    programs = blocks(batch, config["BLOCK_B"]) * blocks(dim, config["BLOCK_D"])
    recording.launch(
        dense_attraction_kernel,
        programs,
        z,
        inverse_z,
        rest_z,
        prototypes,
        inverse_prototypes,
        rest_prototypes,
        factor_sums,
        centre,
        bmu,
        weights,
        attraction,
        recording.temporary((programs,), torch.float64),
        ticket,
        loss,
        scale,
        batch,
        rows,
        cols,
        dim,
        weights.shape[1],
        *z.stride(),
        *prototypes.stride(),
        terms,
        **config.options(),
    )

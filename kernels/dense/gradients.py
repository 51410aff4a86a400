"""The backward pass where the weights are at hand: the pull on the prototypes is one matrix product, weights by latents."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.common.latent_gradient import latent_gradient
from vitsom_fast.kernels.common.product import ROWS_A_SUM, UNITS_BACK, add_short, weigh
from vitsom_fast.kernels.common.unit import DROP, is_short, power_of_two, two_factors
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks, family
from vitsom_fast.kernels.launch.plan import Buffer, Recording
from vitsom_fast.kernels.search.prepare import UNIT


@triton.jit(do_not_specialize=["batch", "latent_programs"])
def dense_pull_kernel(
    grad_loss,  # fp32
    z,  # [B, D], any strides
    inverse_z,  # [B] fp32
    prototypes,  # [K, D], any strides
    inverse_prototypes,  # [K] fp32
    weights,  # [B, weights_pitch] fp32
    attraction,  # [B, D] fp32
    grad_z,  # [B, D] in z's dtype
    pulled,  # [K, D] fp32: the pull on the prototypes, their gradient before its projection but for its factors
    along,  # [blocks of features, K] fp32: its product with them
    scale,  # minus that of the reduction
    latent_programs,  # the first so many programs take the latents, the others the prototypes
    batch,
    count,
    dim,
    weights_pitch,
    z_stride,
    z_step,
    prototypes_stride,
    prototypes_step,
    LATENTS: tl.constexpr,
    FEATURES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradients of the latents; ``pulled[k] = sum_i weights[i, k] * z^_i``."""
    program = tl.program_id(0)
    if program < latent_programs:
        samples = program * LATENTS + tl.arange(0, LATENTS)
        latent_gradient(
            tl.load(grad_loss),
            scale,
            z,
            inverse_z,
            attraction,
            grad_z,
            samples,
            batch,
            dim,
            z_stride,
            z_step,
            LATENTS,
            FEATURES,
        )
    else:
        program -= latent_programs
        unit_blocks = tl.cdiv(count, BLOCK_K)
        units = program % unit_blocks * BLOCK_K + tl.arange(0, BLOCK_K)
        is_unit = units < count
        dim_block = program // unit_blocks
        features = (dim_block * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
        is_feature = features < dim
        exponent = _exponent_of_largest(weights, units, is_unit, batch, weights_pitch, BLOCK_K)
        enlarged = power_of_two(-exponent)[:, None]
        total = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
        for start in range(0, batch, 2 * ROWS_A_SUM):
            for half in tl.static_range(2):  # products that do not wait for each other
                first = start + half * ROWS_A_SUM
                samples = first + tl.arange(0, ROWS_A_SUM)
                is_sample = samples < batch
                samples = tl.minimum(samples, batch - 1).to(tl.int64)
                weight = tl.load(
                    weights + samples[None, :] * weights_pitch + units[:, None],
                    mask=is_unit[:, None] & is_sample[None, :],
                    other=0.0,
                )
                latents = tl.load(
                    z + samples[:, None] * z_stride + features[None, :] * z_step, mask=is_feature[None, :], other=0.0
                ).to(tl.float32)
                inverse = tl.load(inverse_z + samples)
                inverse = tl.where(is_short(inverse), 0.0, inverse)[:, None]
                total += weigh(weight * enlarged, latents * inverse * (UNIT * DROP))
        total = add_short(
            total * UNITS_BACK * power_of_two(exponent)[:, None],
            weights + units,
            weights_pitch,
            z,
            z_stride,
            z_step,
            inverse_z,
            batch,
            is_unit,
            features,
            is_feature,
        )

        inside = is_unit[:, None] & is_feature[None, :]
        rows = units.to(tl.int64)[:, None]
        tl.store(pulled + rows * dim + features[None, :], total, mask=inside)
        inverse = tl.load(inverse_prototypes + units, mask=is_unit, other=1.0)[:, None]
        x = tl.load(prototypes + rows * prototypes_stride + features[None, :] * prototypes_step, mask=inside, other=0.0)
        product = tl.sum(x.to(tl.float32) * inverse * DROP * total, axis=1)
        tl.store(along + tl.cast(dim_block, tl.int64) * count + units, product, mask=is_unit)


@triton.jit
def _exponent_of_largest(weights, units, is_unit, batch, weights_pitch, BLOCK_K: tl.constexpr):
    """The exponent of each unit's largest weight. Halves of weights far below 1 have few bits or none, but a gradient is
    divided by a length: the shortest prototype may have the largest gradient of all, however far it is from every BMU."""
    largest = tl.zeros([BLOCK_K, 16], tl.float32)
    for first in range(0, batch, 16):
        samples = (first + tl.arange(0, 16)).to(tl.int64)
        at = weights + samples[None, :] * weights_pitch + units[:, None]
        largest = tl.maximum(largest, tl.abs(tl.load(at, mask=is_unit[:, None] & (samples < batch)[None, :], other=0.0)))
    return (tl.max(largest, axis=1).to(tl.int32, bitcast=True) >> 23) - 127


@triton.jit(do_not_specialize=["dim_blocks"])
def dense_project_kernel(
    grad_loss,  # fp32
    prototypes,  # [K, D], any strides
    inverse_prototypes,  # [K] fp32
    pulled,  # [K, D] fp32; grad_prototypes itself where that is fp32
    along,  # [dim_blocks, K] fp32
    grad_prototypes,  # [K, D] in the prototypes' dtype
    scale,  # minus that of the reduction
    count,
    dim,
    dim_blocks,
    prototypes_stride,
    prototypes_step,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``(pulled - w^ (w^ . pulled)) / |w|``, times the gradient of the loss"""
    row_blocks = tl.cdiv(count, ROWS)
    units = tl.program_id(0) % row_blocks * ROWS + tl.arange(0, ROWS)
    features = (tl.program_id(0) // row_blocks * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)[None, :]
    is_unit = units < count
    inverse = tl.load(inverse_prototypes + units, mask=is_unit, other=1.0)
    parts = tl.zeros([ROWS, 64], tl.float32)
    for first in range(0, dim_blocks, 64):
        at = first + tl.arange(0, 64)
        keep = is_unit[:, None] & (at < dim_blocks)[None, :]
        parts += tl.load(along + at.to(tl.int64)[None, :] * count + units[:, None], mask=keep, other=0.0)
    product = tl.where(is_short(inverse), 0.0, tl.sum(parts, axis=1))[:, None]
    factor, more = two_factors(tl.load(grad_loss), scale, inverse)
    inside = is_unit[:, None] & (features < dim)
    rows = units.to(tl.int64)[:, None]
    x = tl.load(prototypes + rows * prototypes_stride + features * prototypes_step, mask=inside, other=0.0).to(tl.float32)
    pull = tl.load(pulled + rows * dim + features, mask=inside, other=0.0)
    gradient = (pull - x * inverse[:, None] * DROP * product) * factor[:, None] * more[:, None]
    tl.store(grad_prototypes + rows * dim + features, gradient.to(grad_prototypes.dtype.element_ty), mask=inside)


def gradients(
    recording: Recording,
    grad_loss: Buffer,
    z: Buffer,
    prototypes: Buffer,
    inverse_z: Buffer,
    inverse_prototypes: Buffer,
    weights: Buffer,
    attraction: Buffer,
    scale: float,
    for_z: bool,
    for_prototypes: bool,
) -> None:
    """Results: gradients (B, D) and (K, D) in the dtype of their input; an empty tensor for one that is not asked for."""
    (batch, dim), count, device = z.shape, prototypes.shape[0], z.device
    grad_z = recording.result(z.shape if for_z else (0,), z.dtype)
    grad_prototypes = recording.result(prototypes.shape if for_prototypes else (0,), prototypes.dtype)
    in_place = prototypes.dtype == torch.float32 or not for_prototypes
    pulled = grad_prototypes if in_place else recording.temporary(prototypes.shape, torch.float32)
    config = configs.dense_pull(family(device), dim)
    dim_blocks = blocks(dim, config["BLOCK_D"]) if for_prototypes else 0
    along = recording.temporary((dim_blocks, count), torch.float32)
    latent_programs = blocks(batch, config["LATENTS"]) if for_z else 0
    recording.launch(
        dense_pull_kernel,
        latent_programs + dim_blocks * blocks(count, config["BLOCK_K"]),
        grad_loss,
        z,
        inverse_z,
        prototypes,
        inverse_prototypes,
        weights,
        attraction,
        grad_z,
        pulled,
        along,
        -scale,
        latent_programs,
        batch,
        count,
        dim,
        weights.shape[1],
        *z.stride(),
        *prototypes.stride(),
        **config.options(),
    )
    if for_prototypes:
        config = configs.dense_project(dim)
        recording.launch(
            dense_project_kernel,
            blocks(count, config["ROWS"]) * blocks(dim, config["BLOCK_D"]),
            grad_loss,
            prototypes,
            inverse_prototypes,
            pulled,
            along,
            grad_prototypes,
            -scale,
            count,
            dim,
            dim_blocks,
            *prototypes.stride(),
            **config.options(),
        )

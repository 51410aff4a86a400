"""Smoothing along the columns of the grid: one banded matrix product for each of its rows and each term.

Weights below 2^-24 are beyond what fp32 sees beside the centre's 1: blocks of a factor without a larger one are not read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from vitsom_fast.kernels import configs
from vitsom_fast.kernels.device import blocks, family

NEGLIGIBLE = tl.constexpr(2.0**-24)
EPS = tl.constexpr(1e-12)


@triton.jit
def band(factor, stride, outputs, is_output, step, count, BLOCK: tl.constexpr):
    """From where to where, in blocks, a factor's rows ``outputs`` differ from 0. A NaN does."""
    low = count
    high = 0
    for first in range(0, count, BLOCK):
        inputs = first + tl.arange(0, BLOCK)
        inside = is_output[:, None] & (inputs < count)[None, :]
        weight = tl.load(factor + outputs[:, None] * stride + inputs[None, :] * step, mask=inside, other=0.0)
        if tl.max(tl.where(tl.abs(weight) <= NEGLIGIBLE, 0, 1)) > 0:
            low = tl.minimum(low, first)
            high = first + BLOCK
    return low, tl.minimum(high, count)


@triton.jit
def smooth_columns_kernel(
    prototypes,  # [R * C, D], any strides
    norm,  # [R * C] fp32
    col_factors,  # [terms, C, C] fp32
    smoothed,  # [terms, R, C, D] fp32
    rows,
    cols,
    dim,
    stride,
    step,
    PRECISION: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``smoothed[t, r, c'] = sum_c col_factors[t, c', c] * w^[r, c]`` with w^ the normalised prototypes."""
    program = tl.program_id(0)
    dim_blocks = tl.cdiv(dim, BLOCK_D)
    out_blocks = tl.cdiv(cols, BLOCK_OUT)
    features = program % dim_blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    program //= dim_blocks
    outputs = program % out_blocks * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    program //= out_blocks
    row = program % rows
    term = program // rows
    factor = col_factors + tl.cast(term, tl.int64) * cols * cols
    is_output = outputs < cols
    is_feature = features < dim
    outputs = outputs.to(tl.int64)

    low, high = band(factor, cols, outputs, is_output, 1, cols, BLOCK_IN)
    total = tl.zeros([BLOCK_OUT, BLOCK_D], tl.float32)
    for first in range(low, high, BLOCK_IN):
        inputs = first + tl.arange(0, BLOCK_IN)
        is_input = inputs < cols
        units = row.to(tl.int64) * cols + inputs
        weight = tl.load(
            factor + outputs[:, None] * cols + inputs[None, :], mask=is_output[:, None] & is_input[None, :], other=0.0
        )
        length = tl.load(norm + units, mask=is_input, other=1.0)
        x = tl.load(
            prototypes + units[:, None] * stride + features.to(tl.int64)[None, :] * step,
            mask=is_input[:, None] & is_feature[None, :],
            other=0.0,
        ).to(tl.float32)
        total = tl.dot(weight, x / tl.maximum(length, EPS)[:, None], total, input_precision=PRECISION)
    target = ((term * rows + row).to(tl.int64) * cols + outputs)[:, None] * dim + features[None, :]
    tl.store(smoothed + target, total, mask=is_output[:, None] & is_feature[None, :])


def smooth_columns(prototypes: Tensor, norm: Tensor, col_factors: Tensor) -> Tensor:
    """The normalised prototypes (R C, D), smoothed by each term of the column factors (terms, C, C): (terms, R C, D) fp32."""
    (count, dim), (terms, cols, _) = prototypes.shape, col_factors.shape
    rows = count // cols
    smoothed = torch.empty((terms, count, dim), dtype=torch.float32, device=prototypes.device)
    config = configs.smooth(cols, dim)
    programs = terms * rows * blocks(cols, config["BLOCK_OUT"]) * blocks(dim, config["BLOCK_D"])
    smooth_columns_kernel[programs,](
        prototypes,
        norm,
        col_factors,
        smoothed,
        rows,
        cols,
        dim,
        *prototypes.stride(),
        PRECISION=configs.precision(family(prototypes.device)),
        **config.options(),
    )
    return smoothed

"""Smoothing along the columns of the grid: one banded matrix product for each of its rows and each term.

Weights below 2^-24 are beyond what fp32 sees beside the 1 of the BMU itself: blocks of a factor without a larger one are not
read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.common.product import ROWS_A_SUM, UNITS_BACK, add_short, from_centre, weigh
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks, family
from vitsom_fast.kernels.launch.plan import Buffer, Recording

BESIDE_ONE = tl.constexpr(2.0**-24)


@triton.jit
def band(factor, stride, outputs, is_output, step, count, negligible, BLOCK: tl.constexpr):
    """From where to where, in blocks, a factor's rows ``outputs`` are more than ``negligible``. A NaN is."""
    first_block = 0
    last = count
    if count > 8 * BLOCK:  # to look for it takes as long as to multiply half as many zeros
        low = tl.zeros_like(outputs)[:, None] + tl.zeros([1, BLOCK], tl.int32) + count
        high = tl.zeros_like(low)
        for first in range(0, count, BLOCK):  # nothing is reduced across threads in here: no load waits for another
            inputs = first + tl.arange(0, BLOCK)
            inside = is_output[:, None] & (inputs < count)[None, :]
            weight = tl.load(factor + outputs[:, None] * stride + inputs[None, :] * step, mask=inside, other=0.0)
            matters = tl.where(tl.abs(weight) <= negligible, 0, 1)
            low = tl.minimum(low, tl.where(matters > 0, first, count))
            high = tl.maximum(high, matters * (first + BLOCK))
        first_block = tl.min(low).to(tl.int32)
        last = tl.minimum(tl.max(high).to(tl.int32), count)
    return first_block, last


@triton.jit
def smooth_columns_kernel(
    prototypes,  # [R * C, D], any strides
    inverse_prototypes,  # [R * C] fp32
    rest_prototypes,  # [R * C] fp32
    centre,  # [D] fp32
    col_factors,  # [terms, C, C] fp32
    smoothed,  # [terms, R, C, D] fp32
    rows,
    cols,
    dim,
    prototypes_stride,
    prototypes_step,
    BLOCK_OUT: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``smoothed[t, r, c'] = sum_c col_factors[t, c', c] * (w^[r, c] - centre)`` with w^ the normalised prototypes."""
    program = tl.program_id(0)
    dim_blocks = tl.cdiv(dim, BLOCK_D)
    out_blocks = tl.cdiv(cols, BLOCK_OUT)
    features = (program % dim_blocks * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    is_feature = features < dim
    program //= dim_blocks
    outputs = program % out_blocks * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    program //= out_blocks
    row = program % rows
    term = program // rows
    factor = col_factors + tl.cast(term, tl.int64) * cols * cols
    is_output = outputs < cols
    outputs = outputs.to(tl.int64)

    first_unit = row.to(tl.int64) * cols
    seen_from = tl.load(centre + features, mask=is_feature, other=0.0)
    low, high = band(factor, cols, outputs, is_output, 1, cols, BESIDE_ONE, 2 * ROWS_A_SUM)
    total = tl.zeros([BLOCK_OUT, BLOCK_D], tl.float32)
    for start in range(low, high, 2 * ROWS_A_SUM):
        for half in tl.static_range(2):  # two products that do not wait for each other
            first = start + half * ROWS_A_SUM
            inputs = first + tl.arange(0, ROWS_A_SUM)
            inside = is_output[:, None] & (inputs < cols)[None, :]
            weight = tl.load(factor + outputs[:, None] * cols + inputs[None, :], mask=inside, other=0.0)
            units = first_unit + tl.minimum(inputs, cols - 1)
            at = units[:, None] * prototypes_stride + features[None, :] * prototypes_step
            x = tl.load(prototypes + at, mask=is_feature[None, :], other=0.0).to(tl.float32)
            inverse = tl.load(inverse_prototypes + units)
            total += weigh(weight, from_centre(x, inverse, tl.load(rest_prototypes + units), seen_from))
    total = add_short(
        total * UNITS_BACK,
        factor + outputs * cols,
        1,
        prototypes + first_unit * prototypes_stride,
        prototypes_stride,
        prototypes_step,
        inverse_prototypes + first_unit,
        cols,
        is_output,
        features,
        is_feature,
    )
    target = ((term * rows + row).to(tl.int64) * cols + outputs)[:, None] * dim + features[None, :]
    tl.store(smoothed + target, total, mask=is_output[:, None] & is_feature[None, :])


def smooth_columns(
    recording: Recording,
    prototypes: Buffer,
    inverse_prototypes: Buffer,
    rest_prototypes: Buffer,
    centre: Buffer,
    col_factors: Buffer,
) -> Buffer:
    """The normalised prototypes (R C, D) as seen from the centre (D,), smoothed by each term of the column factors (terms, C,
    C): (terms, R C, D) fp32."""
    (count, dim), (terms, cols, _) = prototypes.shape, col_factors.shape
    rows = count // cols
    smoothed = recording.temporary((terms, count, dim), torch.float32)
    config = configs.smooth(family(prototypes.device), cols, dim)
    programs = terms * rows * blocks(cols, config["BLOCK_OUT"]) * blocks(dim, config["BLOCK_D"])
    recording.launch(
        smooth_columns_kernel,
        programs,
        prototypes,
        inverse_prototypes,
        rest_prototypes,
        centre,
        col_factors,
        smoothed,
        rows,
        cols,
        dim,
        *prototypes.stride(),
        **config.options(),
    )
    return smoothed

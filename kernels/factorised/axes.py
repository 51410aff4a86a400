"""The primitive ``smooth``: rows of any kind weighted along one axis of the grid after the other, as the backward pass does it
(gradients.py), but stored as they are. No weight but zero is negligible."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.factorised.smooth import band
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks, family, precision
from vitsom_fast.kernels.launch.plan import Buffer, Recording


@triton.jit(do_not_specialize=["lines", "terms"])
def smooth_axis_kernel(
    source,  # [terms, lines, count, D] fp32, any strides
    factors,  # [terms, count, count] fp32, any strides
    smoothed,  # [repeats, lines, count, D] fp32, the last of stride 1
    lines,
    count,
    dim,
    terms,  # which are added up; the others are repeats
    source_term,
    source_line,
    source_unit,
    source_step,
    factors_term,
    factors_out,
    factors_in,
    smoothed_term,
    smoothed_line,
    smoothed_unit,
    PRECISION: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``smoothed[t, l, u'] = sum of factors[t, u', u] * source[t, l, u] over u``, and over the terms t that are added up."""
    program = tl.program_id(0)
    dim_blocks = tl.cdiv(dim, BLOCK_D)
    out_blocks = tl.cdiv(count, BLOCK_OUT)
    features = (program % dim_blocks * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    is_feature = features < dim
    program //= dim_blocks
    outputs = (program % out_blocks * BLOCK_OUT + tl.arange(0, BLOCK_OUT)).to(tl.int64)
    is_output = outputs < count
    program //= out_blocks
    line = (program % lines).to(tl.int64)
    repeat = (program // lines).to(tl.int64)

    total = tl.zeros([BLOCK_OUT, BLOCK_D], tl.float32)
    for term in range(terms):
        factor = factors + (repeat + term) * factors_term
        rows = source + (repeat + term) * source_term + line * source_line + features[None, :] * source_step
        low, high = band(factor, factors_out, outputs, is_output, factors_in, count, 0.0, BLOCK_IN)
        for first in range(low, high, BLOCK_IN):
            inputs = (first + tl.arange(0, BLOCK_IN)).to(tl.int64)
            is_input = inputs < count
            weight = tl.load(
                factor + outputs[:, None] * factors_out + inputs[None, :] * factors_in,
                mask=is_output[:, None] & is_input[None, :],
                other=0.0,
            )
            x = tl.load(rows + inputs[:, None] * source_unit, mask=is_input[:, None] & is_feature[None, :], other=0.0)
            total += tl.dot(weight, x, input_precision=PRECISION)
    target = smoothed + repeat * smoothed_term + line * smoothed_line + outputs[:, None] * smoothed_unit + features[None, :]
    tl.store(target, total, mask=is_output[:, None] & is_feature[None, :])


def smooth(recording: Recording, x: Buffer, row_factors: Buffer, col_factors: Buffer) -> None:
    """Result: G x (K, D) fp32, of x (K, D) fp32 and factors (terms, R, R) and (terms, C, C) fp32, all in any strides."""
    (count, dim), (terms, rows, _), cols = x.shape, row_factors.shape, col_factors.shape[1]
    stride, step = x.stride()
    smoothed = recording.result((count, dim), torch.float32)
    # Columns first, each term by itself, then the rows of all terms.
    along_cols = recording.temporary((terms, count, dim), torch.float32)
    of_cols, of_rows = (configs.smooth_axis(family(x.device), length, dim) for length in (cols, rows))
    exact = {"PRECISION": precision(x.device)}
    recording.launch(
        smooth_axis_kernel,
        terms * rows * blocks(cols, of_cols["BLOCK_OUT"]) * blocks(dim, of_cols["BLOCK_D"]),
        x,
        col_factors,
        along_cols,
        rows,
        cols,
        dim,
        1,
        *(0, cols * stride, stride, step),
        *col_factors.stride(),
        *(count * dim, cols * dim, dim),
        **exact,
        **of_cols.options(),
    )
    recording.launch(
        smooth_axis_kernel,
        cols * blocks(rows, of_rows["BLOCK_OUT"]) * blocks(dim, of_rows["BLOCK_D"]),
        along_cols,
        row_factors,
        smoothed,
        cols,
        rows,
        dim,
        terms,
        *(count * dim, dim, cols * dim, 1),
        *row_factors.stride(),
        *(0, dim, cols * dim),
        **exact,
        **of_rows.options(),
    )

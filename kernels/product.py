"""Weighted sums of rows on tensor cores, as exact as fp32: the inner step of everything that the neighborhood weighs.

A tensor core truncates what it adds to, always towards zero: on a map that fits its data all features lose alike. Products over
32 rows were 9e-8 too short on an H200, as much as the whole tolerance of the loss. So one product here is over the 16 rows that
a single instruction takes, and its caller adds such products up in fp32.
"""

import triton
import triton.language as tl
from vitsom_fast.kernels.prepare import EPS

ROWS_A_SUM = tl.constexpr(16)
# Weights are at most 1; fp16 keeps 11 bits of what is at least 2^-14, and two halves all of a weight that fp32 would see
# beside a 1.
WEIGHT_UNIT = tl.constexpr(16384.0)
# What takes the units of a product back.
UNITS_BACK = tl.constexpr(1 / (16384.0 * 4096.0))


@triton.jit
def halves(x):
    """An fp32 number as two of fp16, high + low: 22 bits of it at least."""
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def weigh(weight, high, low, SPLIT: tl.constexpr):
    """``weight`` [M, ROWS_A_SUM] fp32 times the rows ``high`` (+ ``low``, if SPLIT) [ROWS_A_SUM, N] fp16 of UNIT in length:
    [M, N] fp32, to be multiplied with UNITS_BACK. Small products come first, of which nothing is lost."""
    weight_high, weight_low = halves(weight * WEIGHT_UNIT)
    part = tl.dot(weight_low, high)
    if SPLIT:
        part = tl.dot(weight_high, low, part)
    return tl.dot(weight_high, high, part)


@triton.jit
def is_short(norm):
    """Whether a row of this norm is so short that x / max(|x|, eps) may be below the range of fp16. Its weight in products of
    halves has to be 0."""
    return norm < EPS


@triton.jit
def add_short(total, weights, weights_step, x, x_stride, x_step, norms, count, is_output, features, is_feature):
    """Adds to sums ``total`` [M, N] what short rows add to them, in fp32 and one at a time: there are hardly ever any.
    ``weights`` [M] points to each output's weight of row 0."""
    for first in range(0, count, 256):
        rows = first + tl.arange(0, 256)
        norm = tl.load(norms + rows, mask=rows < count, other=1.0)
        if tl.max((is_short(norm) & (norm > 0)).to(tl.int32)) > 0:
            for row in range(first, tl.minimum(first + 256, count)):
                if is_short(tl.load(norms + row)):
                    weight = tl.load(weights + tl.cast(row, tl.int64) * weights_step, mask=is_output, other=0.0)
                    at = x + tl.cast(row, tl.int64) * x_stride + features * x_step
                    unit = tl.load(at, mask=is_feature, other=0.0).to(tl.float32) / EPS
                    total += (weight / UNITS_BACK)[:, None] * unit[None, :]
    return total

"""Weighted sums of rows on tensor cores, as exact as fp32: the inner step of everything that the neighborhood weighs.

A tensor core truncates what it adds to, always towards zero: on a map that fits its data all features lose alike. Products over
32 rows were 9e-8 too short on an H200, as much as the whole tolerance of the loss. So one product here is over the 16 rows that
a single instruction takes, and its caller adds such products up in fp32.
"""

import triton
import triton.language as tl
from vitsom_fast.kernels.common.unit import DROP, LIFT, is_short
from vitsom_fast.kernels.search.prepare import UNIT

ROWS_A_SUM = tl.constexpr(16)
# Weights are at most 1, or 2 where they are scaled; fp16 keeps 11 bits of what is at least 2^-14, and two halves all of a
# weight that fp32 would see beside a 1.
WEIGHT_UNIT = tl.constexpr(16384.0)
# What takes the units of a product back.
UNITS_BACK = tl.constexpr(1 / (16384.0 * 4096.0))


@triton.jit
def halves(x):
    """An fp32 number as two of fp16, high + low: 22 bits of it at least."""
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def weigh(weight, rows):
    """``weight`` [M, ROWS_A_SUM] fp32 times ``rows`` [ROWS_A_SUM, N] fp32 of UNIT in length: [M, N] fp32, to be multiplied with
    UNITS_BACK. Small products come first, of which nothing is lost."""
    high, low = halves(rows)
    weight_high, weight_low = halves(weight * WEIGHT_UNIT)
    part = tl.dot(weight_low, high)
    part = tl.dot(weight_high, low, part)
    return tl.dot(weight_high, high, part)


@triton.jit
def from_centre(x, inverse, rest, centre):
    """``x / |x| - c`` of rows [M, N], in units of UNIT; ``-c`` of short rows, which are added up apart. Two numbers that are
    all but
    equal: their difference is rounded once."""
    inverse = inverse[:, None]
    rest = tl.where(is_short(inverse), 0.0, rest[:, None])
    inverse = tl.where(is_short(inverse), 0.0, inverse)
    return (tl.fma(x, inverse, centre[None, :] * -LIFT + tl.zeros_like(x)) + x * rest) * (UNIT * DROP)


@triton.jit
def add_short(total, weights, weights_step, x, x_stride, x_step, inverses, count, is_output, features, is_feature):
    """Adds to sums ``total`` [M, N] what short rows add to them, which may be below the range of fp16: in fp32 and one at a
    time, for there are hardly ever any. ``weights`` [M] points to each output's weight of row 0."""
    for first in range(0, count, 256):
        rows = first + tl.arange(0, 256)
        if tl.max(is_short(tl.load(inverses + rows, mask=rows < count, other=0.0)).to(tl.int32)) > 0:
            for row in range(first, tl.minimum(first + 256, count)):
                inverse = tl.load(inverses + row)
                if is_short(inverse):
                    weight = tl.load(weights + tl.cast(row, tl.int64) * weights_step, mask=is_output, other=0.0)
                    at = x + tl.cast(row, tl.int64) * x_stride + features * x_step
                    unit = tl.load(at, mask=is_feature, other=0.0).to(tl.float32) * inverse * DROP
                    total += weight[:, None] * unit[None, :]
    return total

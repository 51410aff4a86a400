"""Rows as unit vectors, and gradients taken through them, in fp32 however long or short the rows are.

A row may be longer than any fp32 number, and ``1 / |x|`` then less than what fp32 has all bits for: it is kept LIFT times as
large. A feature times that is at most LIFT, and never loses bits either.
"""

import triton
import triton.language as tl

EPS = tl.constexpr(1e-12)  # of torch.nn.functional.normalize
LIFT = tl.constexpr(2.0**50)
DROP = tl.constexpr(2.0**-50)
# The lifted inverse of rows shorter than EPS, for which x / max(|x|, eps) is linear: no gradient is projected away.
OF_SHORT = tl.constexpr(0.9999999e12 * 2.0**50)


@triton.jit
def lifted_inverse(norm):
    """``LIFT / max(norm, EPS)`` of norms in fp64 as two fp32 numbers, the second what the first rounds away; NaN of inf."""
    inverse = tl.where(norm < float("inf"), LIFT / tl.maximum(norm, EPS), float("nan"))
    high = inverse.to(tl.float32)
    return high, (inverse - high.to(tl.float64)).to(tl.float32)


@triton.jit
def is_short(inverse):
    """Whether a row of this lifted inverse is shorter than EPS."""
    return inverse >= OF_SHORT


@triton.jit
def power_of_two(exponent):
    """2^exponent in fp32 for int32 exponents, from -126 on to 126."""
    return ((tl.minimum(tl.maximum(exponent, -126), 126) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def two_factors(grad_loss, scale, inverse):
    """The gradient of the loss times ``scale / max(|x|, eps)``, as two numbers of half its exponent each: what they multiply,
    one after the other, overflows or underflows only where the result does."""
    factor = grad_loss.to(tl.float64) * scale * inverse.to(tl.float64) * DROP
    exponent = ((factor.to(tl.int64, bitcast=True) >> 52) & 0x7FF).to(tl.int32) - 1023
    half = tl.minimum(tl.maximum(exponent >> 1, -126), 126)
    return (factor * power_of_two(-half).to(tl.float64)).to(tl.float32), power_of_two(half)

"""The Gaussian of the neighborhood, evaluated on the device that holds the temperature."""

import triton
import triton.language as tl


@triton.jit
def gaussian_kernel(
    squared_offsets,  # [count] fp32, +inf where a term does not apply
    temperature,  # pointer to one number of any floating dtype, or that number itself
    factors,  # [count] fp32
    count,
    ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``exp(-offset^2 / (2 T^2))``; NaN where T is not positive."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    squared = tl.load(squared_offsets + at, mask=at < count)
    radius = tl.cast(tl.load(temperature) if ON_DEVICE else temperature, tl.float32)
    # 1 / T^2 stays finite in fp32; so narrow or wide a Gaussian is a delta or a constant already.
    clamped = tl.minimum(tl.maximum(radius, 1e-18), 1e18)
    weight = tl.exp(squared * (-0.5 / (clamped * clamped)))
    tl.store(factors + at, tl.where(radius > 0, weight, float("nan")), mask=at < count)

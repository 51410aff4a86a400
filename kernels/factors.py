"""The Gaussian of the neighborhood, evaluated on the device that holds the temperature."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from vitsom_fast.kernels import configs
from vitsom_fast.kernels.device import blocks

# 1 / T^2 stays finite in fp32; so narrow or wide a Gaussian is a delta or a constant already.
SMALLEST_TEMPERATURE = tl.constexpr(1e-18)
LARGEST_TEMPERATURE = tl.constexpr(1e18)


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
    clamped = tl.minimum(tl.maximum(radius, SMALLEST_TEMPERATURE), LARGEST_TEMPERATURE)
    weight = tl.exp(squared * (-0.5 / (clamped * clamped)))
    tl.store(factors + at, tl.where(radius > 0, weight, float("nan")), mask=at < count)


def gaussian_weights(squared_offsets: Tensor, temperature: float | Tensor) -> Tensor:
    """``exp(-offset^2 / (2 T^2))``, flat fp32, for T a number or a 0-dim tensor on the device."""
    if not isinstance(temperature, Tensor):  # which as an argument of a kernel becomes an fp32 number
        temperature = min(max(temperature, SMALLEST_TEMPERATURE.value), LARGEST_TEMPERATURE.value)
    factors = torch.empty_like(squared_offsets)
    config, count = configs.gaussian(), squared_offsets.numel()
    gaussian_kernel[blocks(count, config["BLOCK"]),](
        squared_offsets, temperature, factors, count, ON_DEVICE=isinstance(temperature, Tensor), **config.options()
    )
    return factors

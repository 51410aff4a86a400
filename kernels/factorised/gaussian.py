"""The Gaussian of the neighborhood, evaluated on the device that holds the temperature."""

from __future__ import annotations

import struct

import triton
import triton.language as tl
from vitsom_fast.kernels.common.unit import power_of_two
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks
from vitsom_fast.kernels.launch.plan import Buffer, Number, Recording

# 1 / T^2 stays finite in fp32; so narrow or wide a Gaussian is a delta or a constant already.
SMALLEST_TEMPERATURE = tl.constexpr(1e-18)
LARGEST_TEMPERATURE = tl.constexpr(1e18)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def gaussian_kernel(
    squared_offsets,  # [count] fp32, +inf where a term does not apply
    temperature,  # pointer to one number of any floating dtype, or that number itself
    temperature_rest,  # what fp32 rounds away of the number
    factors,  # [count] fp32
    count,
    ON_DEVICE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``exp(-offset^2 / (2 T^2))``; NaN where T is not positive. The exponent is in fp64: a weight of 2^-60 would be off by 60
    times its rounding, and that of a short prototype far away may count for more than all others."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    squared = tl.load(squared_offsets + at, mask=at < count, other=0.0).to(tl.float64)
    if ON_DEVICE:
        radius = tl.load(temperature).to(tl.float64)
    else:
        radius = tl.cast(temperature, tl.float64) + tl.cast(temperature_rest, tl.float64)
    clamped = tl.minimum(tl.maximum(radius, SMALLEST_TEMPERATURE), LARGEST_TEMPERATURE)
    exponent = tl.maximum(squared * (-0.5 * LOG2_E / (clamped * clamped)), -1000.0)
    whole = tl.floor(exponent)
    power = whole.to(tl.int32)
    weight = tl.exp2((exponent - whole).to(tl.float32)) * power_of_two(power) * power_of_two(tl.minimum(power + 126, 0))
    tl.store(factors + at, tl.where(radius > 0, weight, float("nan")), mask=at < count)


def as_two_numbers(temperature: float) -> tuple[float, float]:
    """A temperature within bounds, and what is left of it where it becomes an fp32 number, as an argument of a kernel does."""
    temperature = min(max(temperature, SMALLEST_TEMPERATURE.value), LARGEST_TEMPERATURE.value)
    return temperature, temperature - struct.unpack("f", struct.pack("f", temperature))[0]


def gaussian_weights(recording: Recording, squared_offsets: Buffer, temperature: Buffer | Number, *rest: Number) -> None:
    """``exp(-offset^2 / (2 T^2))``, flat fp32, for T in a 0-dim tensor on the device or as two numbers."""
    factors = recording.result(squared_offsets.shape, squared_offsets.dtype)
    config, count = configs.gaussian(), squared_offsets.numel()
    recording.launch(
        gaussian_kernel,
        blocks(count, config["BLOCK"]),
        squared_offsets,
        temperature,
        *(rest or (0.0,)),
        factors,
        count,
        ON_DEVICE=not rest,
        **config.options(),
    )

// fp16: conversions only, which is all that the kernels do with it.
#pragma once

#include "cuda_runtime.h"

struct __half {
    std::uint16_t bits;
};

inline float __half2float(__half x) {
    // The exponent of fp16 moved to where fp32 has it, then to its bias: exact, subnormal numbers included.
    const unsigned sign = (x.bits & 0x8000u) << 16, rest = (x.bits & 0x7fffu) << 13;
    if (rest >= 0x0f800000u) return __uint_as_float(sign | 0x70000000u | rest);  // infinity, NaN
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest) * 0x1p112f));
}

inline __half __float2half_rn(float x) {
    const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u;
    float magnitude = __uint_as_float(bits & 0x7fffffffu);
    if (magnitude != magnitude) return {static_cast<std::uint16_t>(sign | 0x7fffu)};
    if (magnitude >= 65520.0f) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
    // Added to a number whose last bit weighs what the result's does, x is rounded to it, to nearest even.
    const float unit = magnitude < 0x1p-14f ? 0x1p-24f : std::ldexp(1.0f, std::ilogb(magnitude) - 10);
    const auto count = static_cast<unsigned>(std::nearbyint(magnitude / unit));
    const unsigned exponent = magnitude < 0x1p-14f ? 0 : static_cast<unsigned>(std::ilogb(magnitude) + 14);
    return {static_cast<std::uint16_t>(sign | ((exponent << 10) + count))};
}

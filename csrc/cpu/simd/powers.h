// Powers of two and exponents of doubles, by their bits.
#pragma once

#include <cstdint>
#include <cstring>

namespace vitsom {
namespace VITSOM_ISA {

inline double power_of_two(int exponent) {
    const std::uint64_t bits = static_cast<std::uint64_t>(exponent + 1023) << 52;
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return power;
}

// Of a number that is finite; -1023 of 0.
inline int exponent_of(double x) {
    std::uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<int>(bits >> 52 & 0x7ff) - 1023;
}

// 2^floor(log2(x)) of a normal x > 0.
inline double power_of_two_below(double x) { return power_of_two(exponent_of(x)); }

}  // namespace VITSOM_ISA
}  // namespace vitsom

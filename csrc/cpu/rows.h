// What is done to one row at a time: its norm, a dot product.
//
// Sums run in fp64, of single products or of a few at a time: a row of values near 1e30 has a squared norm beyond fp32.
#pragma once

#include "vector.h"

namespace vitsom {
namespace VITSOM_ISA {

constexpr double EPS = 1e-12;  // of torch.nn.functional.normalize

template <class T>
const T* row(const Matrix& matrix, std::int64_t index) {
    return static_cast<const T*>(matrix.data) + index * matrix.stride;
}

template <class T, class U>
double dot(const T* x, const U* y, std::int64_t n) {
    Doubles low{}, high{};
    for_each_vector(n, [&](std::int64_t i, auto load, auto) {
        const DoublePair a = widen(load(x + i)), b = widen(load(y + i));
        low += a.low * b.low;
        high += a.high * b.high;
    });
    return sum(low + high);
}

// The same, four products at a time in fp32: off by 2^-22 of the vectors' lengths at most, and three times as fast.
template <class T, class U>
double quick_dot(const T* x, const U* y, std::int64_t n) {
    constexpr std::int64_t BLOCK = 4 * WIDTH;
    Doubles low{}, high{};
    std::int64_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        Vec products{};
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) products += load(x + i + j * WIDTH) * load(y + i + j * WIDTH);
        const DoublePair wide = widen(products);
        low += wide.low;
        high += wide.high;
    }
    return sum(low + high) + dot(x + i, y + i, n - i);
}

// A row whose squares are near the ends of fp32 takes the long way.
template <class T>
double squared_norm(const T* x, std::int64_t n) {
    const double squared = quick_dot(x, x, n);
    return squared > 0x1p-80 && squared < 0x1p120 ? squared : dot(x, x, n);
}

// 1 / max(|x|, eps), NaN for a row that is not finite.
inline double inverse_norm(double squared) {
    if (!(squared <= __DBL_MAX__)) return __builtin_nan("");
    const double norm = __builtin_sqrt(squared);
    return 1.0 / (norm < EPS ? EPS : norm);
}

template <class T>
double inverse_norm(const T* x, std::int64_t n) {
    return inverse_norm(squared_norm(x, n));
}

template <class T>
void fill(T* out, std::int64_t n, float value) {
    for_each_vector(n, [&](std::int64_t i, auto, auto store) { store(out + i, splat(value)); });
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

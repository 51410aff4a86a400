// What is done to one row at a time: its norm, a dot product.
//
// Sums run in fp64: a row of values near 1e30 has a squared norm beyond fp32, and the conversion hides behind the memory.
#pragma once

#include "vector.h"

namespace vitsom {
namespace VITSOM_ISA {

constexpr double EPS = 1e-12;  // of torch.nn.functional.normalize

template <class T>
const T* row(const Matrix& matrix, std::int64_t index) {
    return static_cast<const T*>(matrix.data) + index * matrix.stride;
}

template <class T>
double squared_norm(const T* x, std::int64_t n) {
    Doubles low{}, high{};
    for_each_vector(n, [&](std::int64_t i, auto load, auto) {
        const DoublePair v = widen(load(x + i));
        low += v.low * v.low;
        high += v.high * v.high;
    });
    return sum(low + high);
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

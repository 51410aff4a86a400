// What is done to one row at a time: its norm, a dot product.
//
// Sums run in fp64: a row of values near 1e30 has a squared norm beyond fp32, the scores of the nearest prototypes may agree to
// twelve digits, and rows that are the same but for a power of two get the same score to the last bit.
#pragma once

#include "vector.h"

namespace vitsom {
namespace VITSOM_ISA {

constexpr double EPS = 1e-12;  // of torch.nn.functional.normalize

template <class T>
const T* row(const Matrix& matrix, std::int64_t index) {
    return static_cast<const T*>(matrix.data) + index * matrix.stride;
}

// Two vectors at a time, in chains of their own: an addition takes four cycles.
template <class T, class U>
double dot(const T* x, const U* y, std::int64_t n) {
    Doubles sums[4] = {};
    const auto add = [&](DoublePair a, DoublePair b, int first) {
        sums[first] += a.low * b.low;
        sums[first + 1] += a.high * b.high;
    };
    std::int64_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        add(load_wide(x + i), load_wide(y + i), 0);
        add(load_wide(x + i + WIDTH), load_wide(y + i + WIDTH), 2);
    }
    for_each_vector(n - i, [&](std::int64_t d, auto load, auto) { add(widen(load(x + i + d)), widen(load(y + i + d)), 0); });
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// The same, two products at a time in fp32: off by 2^-23 of the vectors' lengths at most, in half the time.
template <class T, class U>
double quick_dot(const T* x, const U* y, std::int64_t n) {
    DoublePair sums{};
    std::int64_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        const DoublePair products = widen(load(x + i) * load(y + i) + load(x + i + WIDTH) * load(y + i + WIDTH));
        sums.low += products.low;
        sums.high += products.high;
    }
    return sum(sums.low + sums.high) + dot(x + i, y + i, n - i);
}

// x . (y + factor * z), where y and z are in fp32 and their sum is not.
template <class T>
double dot_with_sum(const T* x, const float* y, double factor, const float* z, std::int64_t n) {
    DoublePair sums{};
    for_each_vector(n, [&](std::int64_t i, auto load, auto) {
        const DoublePair a = widen(load(x + i)), b = widen(load(y + i)), c = widen(load(z + i));
        sums.low += a.low * (b.low + factor * c.low);
        sums.high += a.high * (b.high + factor * c.high);
    });
    return sum(sums.low + sums.high);
}

template <class T>
double squared_norm(const T* x, std::int64_t n) {
    Doubles sums[4] = {};
    const auto add = [&](DoublePair a, int first) {
        sums[first] += a.low * a.low;
        sums[first + 1] += a.high * a.high;
    };
    std::int64_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        add(load_wide(x + i), 0);
        add(load_wide(x + i + WIDTH), 2);
    }
    for_each_vector(n - i, [&](std::int64_t d, auto load, auto) { add(widen(load(x + i + d)), 0); });
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
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

// A factor in two steps: where it is near the ends of fp32, a row times one number would be beyond them, or lose its bits.
struct Scaling {
    float first, second;

    Vec operator()(Vec x) const { return x * first * second; }
};

inline Scaling scaling(double factor) {
    if (factor < 0x1p-64) return {0x1p-64f, static_cast<float>(factor * 0x1p64)};
    if (factor > 0x1p64) return {0x1p64f, static_cast<float>(factor * 0x1p-64)};
    return {1.0f, static_cast<float>(factor)};
}

template <class T>
void fill(T* out, std::int64_t n, float value) {
    for_each_vector(n, [&](std::int64_t i, auto, auto store) { store(out + i, splat(value)); });
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

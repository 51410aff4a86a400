// What is done to one row at a time: its norm, a dot product.
//
// Sums run in fp64: a row of values near 1e30 has a squared norm beyond fp32, the scores of the nearest prototypes may agree to
// twelve digits, and rows that are the same but for a power of two get the same score to the last bit.
#pragma once

#include "cpu/problem.h"
#include "cpu/simd/vector.h"

namespace vitsom {
namespace VITSOM_ISA {

constexpr double EPS = 1e-12;  // of torch.nn.functional.normalize

// A row of z or of the prototypes, in the dtype in which it is given. What reads one asks for the dtype once, around its loop: no
// other code is compiled three times.
struct Row {
    const char* data;
    DType dtype;

    std::int64_t element_bytes() const { return dtype == DType::float32 ? 4 : 2; }
    Row operator+(std::int64_t elements) const { return {data + elements * element_bytes(), dtype}; }
};

inline Row row(const Matrix& matrix, std::int64_t index) {
    return Row{static_cast<const char*>(matrix.data), matrix.dtype} + index * matrix.stride;
}

template <class T>
const T* typed_row(const Matrix& matrix, std::int64_t index) {
    return static_cast<const T*>(matrix.data) + index * matrix.stride;
}

// Calls `body` with a number of the dtype.
template <class Body>
inline __attribute__((always_inline)) auto with_dtype(DType dtype, const Body& body) {
    switch (dtype) {
        case DType::bfloat16: return body(bfloat16{});
        case DType::float16: return body(float16{});
        default: return body(float{});
    }
}

// Calls `body` with the address of the row's elements, as what they are.
template <class Body>
inline __attribute__((always_inline)) auto with_elements(Row x, const Body& body) {
    return with_dtype(x.dtype, [&](auto t) { return body(reinterpret_cast<const decltype(t)*>(x.data)); });
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
inline double dot_with_sum(Row x, const float* y, double factor, const float* z, std::int64_t n) {
    DoublePair sums{};
    with_elements(x, [&](const auto* x) {
        for_each_vector(n, [&](std::int64_t i, auto load, auto) {
            const DoublePair a = widen(load(x + i)), b = widen(load(y + i)), c = widen(load(z + i));
            sums.low += a.low * (b.low + factor * c.low);
            sums.high += a.high * (b.high + factor * c.high);
        });
    });
    return sum(sums.low + sums.high);
}

// |x - y|^2: in fp64 nothing is lost of the difference of two fp32 numbers.
template <class T, class U>
double exact_squared_distance(const T* x, const U* y, std::int64_t n) {
    Doubles sums[4] = {};
    const auto add = [&](DoublePair a, DoublePair b, int first) {
        sums[first] += (a.low - b.low) * (a.low - b.low);
        sums[first + 1] += (a.high - b.high) * (a.high - b.high);
    };
    std::int64_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        add(load_wide(x + i), load_wide(y + i), 0);
        add(load_wide(x + i + WIDTH), load_wide(y + i + WIDTH), 2);
    }
    for_each_vector(n - i, [&](std::int64_t d, auto load, auto) { add(widen(load(x + i + d)), widen(load(y + i + d)), 0); });
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
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

__attribute__((noinline)) inline double squared_norm(Row x, std::int64_t n) {
    return with_elements(x, [=](const auto* elements) { return squared_norm(elements, n); });
}

inline double inverse_norm(Row x, std::int64_t n) { return inverse_norm(squared_norm(x, n)); }

// The product of two rows of one dtype.
__attribute__((noinline)) inline double dot(Row x, Row y, std::int64_t n) {
    return with_elements(x, [=](const auto* elements) { return dot(elements, reinterpret_cast<decltype(elements)>(y.data), n); });
}

// The squared distance of two rows of one dtype.
__attribute__((noinline)) inline double exact_squared_distance(Row x, Row y, std::int64_t n) {
    return with_elements(
        x, [=](const auto* elements) { return exact_squared_distance(elements, reinterpret_cast<decltype(elements)>(y.data), n); });
}

// A factor in two steps: where it is near the ends of fp32, a row times one number would be beyond them, or lose its bits. And
// what fp32 cuts off of the second: of a map whose rows are all alike, each would be too long or too short by as much.
struct Scaling {
    float first, second, rest;

    Vec operator()(Vec x) const { return x * first * second; }
    Vec less(Vec x, Vec y) const {  // x times the factor, less y
        const Vec near = x * first;
        return near * second - y + near * rest;
    }
    Vec from(Vec y, Vec x) const {  // y less x times the factor
        const Vec near = x * first;
        return y - near * second - near * rest;
    }
};

inline Scaling scaling(double factor) {
    const float first = factor < 0x1p-64 ? 0x1p-64f : factor > 0x1p64 ? 0x1p64f : 1.0f;
    const double second = factor / static_cast<double>(first);
    const float rounded = static_cast<float>(second);
    return {first, rounded, static_cast<float>(second - static_cast<double>(rounded))};
}

// Of a factor that is neither very large nor very small, but may be zero or below: one step, and what fp32 cuts off.
inline Scaling in_one_step(double factor) {
    const float rounded = static_cast<float>(factor);
    return {1.0f, rounded, static_cast<float>(factor - static_cast<double>(rounded))};
}

// Fetches so many bytes into the second-level cache.
inline void fetch_bytes(const void* x, std::int64_t bytes) {
    constexpr std::int64_t LINE = 64;
    for (std::int64_t at = 0; at < bytes; at += LINE) fetch_line<2>(static_cast<const char*>(x) + at);
}

inline void fetch(Row x, std::int64_t n) { fetch_bytes(x.data, n * x.element_bytes()); }

template <class T>
void fetch(const T* x, std::int64_t n) {
    fetch_bytes(x, n * static_cast<std::int64_t>(sizeof(T)));
}

template <class T>
void fill(T* out, std::int64_t n, float value) {
    for_each_vector(n, [&](std::int64_t i, auto, auto store) { store(out + i, splat(value)); });
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

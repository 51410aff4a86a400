// Vectors of the instruction set that this translation unit is compiled for, and the dtypes they are loaded from.
//
// GCC and Clang vector extensions: one source for AVX-512, AVX2, SSE2 and NEON. Only what is declared here depends on the width.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace vitsom {
namespace VITSOM_ISA {

// TILE_ROWS x TILE_COLS accumulators, TILE_COLS two vectors wide, fill the register file but for the operands.
#if defined(__AVX512F__)
constexpr int WIDTH = 16, TILE_ROWS = 12;
#elif defined(__AVX2__)
constexpr int WIDTH = 8, TILE_ROWS = 6;
#elif defined(__aarch64__)
constexpr int WIDTH = 4, TILE_ROWS = 12;
#else
constexpr int WIDTH = 4, TILE_ROWS = 6;
#endif
constexpr int TILE_COLS = 2 * WIDTH;

typedef float Vec __attribute__((vector_size(4 * WIDTH)));
typedef std::int32_t Ints __attribute__((vector_size(4 * WIDTH)));
typedef std::uint32_t Bits __attribute__((vector_size(4 * WIDTH)));
typedef std::uint16_t Shorts __attribute__((vector_size(2 * WIDTH)));
typedef float HalfVec __attribute__((vector_size(2 * WIDTH)));
typedef double Doubles __attribute__((vector_size(4 * WIDTH)));  // WIDTH / 2 of them

struct bfloat16 {
    std::uint16_t bits;
};
struct float16 {
    std::uint16_t bits;
};

template <class V, class T>
inline V load_as(const T* source) {
    V v;
    std::memcpy(&v, source, sizeof v);
    return v;
}

// Fetches a cache line, into the first level of the cache (3) or the second (2). GCC takes a function that does nothing else for
// one without effect and drops the calls of it; the statement is there to stop that, 0.96 of the forward pass of 40 x 40 x 3136.
template <int LOCALITY = 3>
inline void fetch_line(const void* x) {
    __builtin_prefetch(x, 0, LOCALITY);
    asm volatile("");
}

// Of an element in memory one instruction; with Vec{} + x, which is not x where that is -0, GCC adds first: two more, on the ports of
// the products.
#if defined(__AVX512F__)
inline Vec splat(float x) { return Vec{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
#elif defined(__AVX2__)
inline Vec splat(float x) { return Vec{x, x, x, x, x, x, x, x}; }
#else
inline Vec splat(float x) { return Vec{x, x, x, x}; }
#endif
inline Vec as_floats(Bits bits) { return reinterpret_cast<Vec>(bits); }
inline Bits as_bits(Vec v) { return reinterpret_cast<Bits>(v); }

// WIDTH elements, converted to fp32 exactly.
inline Vec load(const float* x) { return load_as<Vec>(x); }

inline Vec load(const bfloat16* x) {
    return as_floats(__builtin_convertvector(load_as<Shorts>(x), Bits) << 16);
}

inline Vec load(const float16* x) {
    const Bits half = __builtin_convertvector(load_as<Shorts>(x), Bits);
    const Bits magnitude = (half & 0x7fff) << 13;
    const Bits rebias = Bits{} + (112u << 23);
    const Vec normal = as_floats(magnitude + rebias);
    const Vec special = as_floats(magnitude + rebias + rebias);  // infinity and NaN
    const Vec subnormal = __builtin_convertvector(reinterpret_cast<Ints>(half & 0x3ff), Vec) * 0x1p-24f;
    const Vec unsigned_value = (half & 0x7c00) == 0x7c00 ? special : (half & 0x7c00) == 0 ? subnormal : normal;
    return as_floats(as_bits(unsigned_value) | (half & 0x8000) << 16);
}

// Rounded to nearest, ties to even.
inline void store(float* out, Vec v) { std::memcpy(out, &v, sizeof v); }

inline void store(bfloat16* out, Vec v) {
    const Bits bits = as_bits(v);
    const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Bits result = v == v ? rounded : (bits >> 16 | 0x40);
    const Shorts shorts = __builtin_convertvector(result, Shorts);
    std::memcpy(out, &shorts, sizeof shorts);
}

inline void store(float16* out, Vec v) {
    const Bits sign = as_bits(v) & 0x80000000u;
    const Bits bits = as_bits(v) ^ sign;
    const Vec magnitude = as_floats(bits);
    const Bits normal = (bits - (112u << 23) + 0xfff + ((bits >> 13) & 1)) >> 13;
    const Bits subnormal = as_bits(magnitude + 0.5f) - 0x3f000000u;  // the addition rounds at 2^-24
    const Bits finite = magnitude < 0x1p-14f ? subnormal : normal;
    const Bits in_range = magnitude < 65520.0f ? finite : Bits{} + 0x7c00u;
    const Bits result = (v == v ? in_range : Bits{} + 0x7e00u) | sign >> 16;
    const Shorts shorts = __builtin_convertvector(result, Shorts);
    std::memcpy(out, &shorts, sizeof shorts);
}

// The first `count` < WIDTH elements, the rest zero.
template <class T>
inline Vec load_partial(const T* x, std::int64_t count) {
    T padded[WIDTH] = {};
    std::memcpy(padded, x, static_cast<std::size_t>(count) * sizeof(T));
    return load(padded);
}

#if defined(__AVX512F__)  // a call of memcpy takes as long as ten of these
inline Vec load_partial(const float* x, std::int64_t count) {
    return reinterpret_cast<Vec>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), x));
}
#endif

template <class T>
inline void store_partial(T* out, Vec v, std::int64_t count) {
    T padded[WIDTH];
    store(padded, v);
    std::memcpy(out, padded, static_cast<std::size_t>(count) * sizeof(T));
}

// Calls `body(offset, loader, storer)` for every vector of a row of n elements, the last one partial.
template <class Body>
inline __attribute__((always_inline)) void for_each_vector(std::int64_t n, const Body& body) {
    const auto whole_load = [](const auto* x) { return load(x); };
    const auto whole_store = [](auto* out, Vec v) { store(out, v); };
    std::int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) body(i, whole_load, whole_store);
    if (i < n) {
        const std::int64_t rest = n - i;
        body(
            i, [rest](const auto* x) { return load_partial(x, rest); },
            [rest](auto* out, Vec v) { store_partial(out, v, rest); });
    }
}

struct DoublePair {
    Doubles low, high;
};

inline DoublePair widen(Vec v) {
    HalfVec halves[2];
    std::memcpy(halves, &v, sizeof v);
#if defined(__AVX512F__)  // GCC 12 converts a quarter at a time, which takes three times as long
    return {reinterpret_cast<Doubles>(_mm512_maskz_cvtps_pd(0xff, reinterpret_cast<__m256>(halves[0]))),
            reinterpret_cast<Doubles>(_mm512_maskz_cvtps_pd(0xff, reinterpret_cast<__m256>(halves[1])))};
#endif
    return {__builtin_convertvector(halves[0], Doubles), __builtin_convertvector(halves[1], Doubles)};
}

// WIDTH elements in fp64. Halves come from memory one by one: to take a vector apart costs as much as to convert it.
template <class T>
inline DoublePair load_wide(const T* x) {
    return widen(load(x));
}

#if !defined(__AVX512F__)
inline DoublePair load_wide(const float* x) {
    return {__builtin_convertvector(load_as<HalfVec>(x), Doubles), __builtin_convertvector(load_as<HalfVec>(x + WIDTH / 2), Doubles)};
}
#endif

inline Vec narrow(DoublePair v) {
    const HalfVec halves[2] = {__builtin_convertvector(v.low, HalfVec), __builtin_convertvector(v.high, HalfVec)};
    return load_as<Vec>(halves);
}

inline double sum(Doubles v) {
    double parts[WIDTH / 2];
    std::memcpy(parts, &v, sizeof parts);
#pragma GCC unroll 3
    for (int half = WIDTH / 4; half > 0; half /= 2) {
#pragma GCC unroll 4
        for (int lane = 0; lane < half; ++lane) parts[lane] += parts[lane + half];
    }
    return parts[0];
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

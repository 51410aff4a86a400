// What goes across the lanes of a vector: its largest element, the sum of all, which of them reach a number.
#pragma once

#include "cpu/simd/vector.h"

#if defined(__SSE2__) && !defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace vitsom {
namespace VITSOM_ISA {

#if defined(__clang__) || __GNUC__ >= 12
#define VITSOM_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define VITSOM_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#endif

#if defined(__AVX512F__)
inline Vec square_root(Vec v) { return reinterpret_cast<Vec>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(v))); }
inline Vec larger_of(Vec a, Vec b) {  // a > b ? a : b, for which GCC takes two instructions and three times as long
    return reinterpret_cast<Vec>(_mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}
inline Vec halves_swapped(Vec v) { return VITSOM_SHUFFLE(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7); }
inline Vec quarters_swapped(Vec v) { return VITSOM_SHUFFLE(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11); }
inline Vec pairs_swapped(Vec v) { return VITSOM_SHUFFLE(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13); }
#elif defined(__AVX2__)
inline Vec square_root(Vec v) { return reinterpret_cast<Vec>(_mm256_sqrt_ps(reinterpret_cast<__m256>(v))); }
inline Vec larger_of(Vec a, Vec b) { return a > b ? a : b; }
inline Vec halves_swapped(Vec v) { return v; }
inline Vec quarters_swapped(Vec v) { return VITSOM_SHUFFLE(v, v, 4, 5, 6, 7, 0, 1, 2, 3); }
inline Vec pairs_swapped(Vec v) { return VITSOM_SHUFFLE(v, v, 2, 3, 0, 1, 6, 7, 4, 5); }
#else
#if defined(__SSE2__)
inline Vec square_root(Vec v) { return reinterpret_cast<Vec>(_mm_sqrt_ps(reinterpret_cast<__m128>(v))); }
#else
inline Vec square_root(Vec v) {
    for (int lane = 0; lane < WIDTH; ++lane) v[lane] = __builtin_sqrtf(v[lane]);
    return v;
}
#endif
inline Vec larger_of(Vec a, Vec b) { return a > b ? a : b; }
inline Vec halves_swapped(Vec v) { return v; }
inline Vec quarters_swapped(Vec v) { return v; }
inline Vec pairs_swapped(Vec v) { return VITSOM_SHUFFLE(v, v, 2, 3, 0, 1); }
#endif

// Four numbers, one of each of four rows.
typedef float Quad __attribute__((vector_size(16)));

#if defined(__SSE2__)
inline Quad square_root_of_four(Quad v) { return reinterpret_cast<Quad>(_mm_sqrt_ps(reinterpret_cast<__m128>(v))); }
#else
inline Quad square_root_of_four(Quad v) {
    for (int row = 0; row < 4; ++row) v[row] = __builtin_sqrtf(v[row]);
    return v;
}
#endif

// Of numbers: an element that is NaN may hide others.
inline float largest(Vec v) {
    if (WIDTH >= 16) v = larger_of(v, halves_swapped(v));
    if (WIDTH >= 8) v = larger_of(v, quarters_swapped(v));
    v = larger_of(v, pairs_swapped(v));
    return v[0] > v[1] ? v[0] : v[1];
}

inline float sum(Vec v) {
    if (WIDTH >= 16) v += halves_swapped(v);
    if (WIDTH >= 8) v += quarters_swapped(v);
    v += pairs_swapped(v);
    return v[0] + v[1];
}

// The two largest of many numbers, of which equal ones count each; what is NaN counts as none.
struct LargestTwo {
    float first = -__builtin_inff(), second = -__builtin_inff();

    void note(float x) {
        if (x > second) second = x > first ? first : x;
        if (x > first) first = x;
    }
};

// The same, lane by lane.
struct LanesLargestTwo {
    Vec first = splat(-__builtin_inff()), second = first;

    void note(Vec x) {
        second = larger_of(first < x ? first : x, second);
        first = larger_of(x, first);
    }

    void give_to(LargestTwo& all) const {
        float firsts[WIDTH], seconds[WIDTH];
        store(firsts, first);
        store(seconds, second);
        for (int lane = 0; lane < WIDTH; ++lane) {
            all.note(firsts[lane]);
            all.note(seconds[lane]);
        }
    }
};

// The lanes of a comparison that hold, a bit each.
#if !defined(__AVX512F__)
inline unsigned bits_of(Ints holds) {
#if defined(__AVX2__)
    return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(holds)));
#elif defined(__SSE2__)
    return static_cast<unsigned>(_mm_movemask_ps(reinterpret_cast<__m128>(holds)));
#else
    unsigned lanes = 0;
    for (int i = 0; i < WIDTH; ++i) lanes |= (holds[i] & 1u) << i;
    return lanes;
#endif
}
#endif

// Which lanes are at least so large, a bit each; what is NaN is not.
inline unsigned lanes_reaching(Vec v, Vec floor) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(v, floor, _CMP_GE_OQ);
#else
    return bits_of(v >= floor);
#endif
}

inline unsigned lanes_reaching(Vec low, Vec high, Vec floor) {
    return lanes_reaching(low, floor) | lanes_reaching(high, floor) << WIDTH;
}

// Whether any of many vectors has such a lane: one test for all of them.
struct AnyReaching {
#if defined(__AVX512F__)
    unsigned seen = 0;
    void note(Vec v, Vec floor) { seen |= lanes_reaching(v, floor); }
    explicit operator bool() const { return seen != 0; }
#else
    Ints seen{};
    void note(Vec v, Vec floor) { seen |= v >= floor; }
    explicit operator bool() const { return bits_of(seen) != 0; }
#endif
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

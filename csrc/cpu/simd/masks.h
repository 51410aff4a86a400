// Lanes picked by a mask, a bit each: what only AVX-512 has instructions for.
#pragma once

#include "cpu/simd/lanes.h"

namespace vitsom {
namespace VITSOM_ISA {

// 0, 1, 2, ...
inline Ints lane_numbers() {
    Ints lanes;
    for (int lane = 0; lane < WIDTH; ++lane) lanes[lane] = lane;
    return lanes;
}

inline unsigned lanes_equal(Vec v, float value) {
    return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(v), reinterpret_cast<__m512>(splat(value)), _CMP_EQ_OQ);
}

// The first lane of that score, which is -inf from then on.
inline int take_lane(Vec& score, float value) {
    const unsigned lanes = lanes_equal(score, value);
    score = _mm512_mask_mov_ps(score, static_cast<__mmask16>(lanes & -lanes), splat(-__builtin_inff()));
    return __builtin_ctz(lanes);
}

// The first `count` numbers, the rest zero; nothing beyond them is read.
inline Ints load_first(const std::int32_t* x, int count) {
    return reinterpret_cast<Ints>(_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1 << count) - 1), x));
}

// Writes the picked lanes one after the other, with room for all; returns how many they are.
inline int append_lanes(std::int32_t* out, unsigned lanes, Ints values) {
    const auto mask = static_cast<__mmask16>(lanes);
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(mask, reinterpret_cast<__m512i>(values)));
    return __builtin_popcount(lanes);
}

// Sets these bits in the picked lanes.
inline Bits set_in_lanes(Bits v, unsigned lanes, unsigned bits) {
    const auto from = reinterpret_cast<__m512i>(v);
    return reinterpret_cast<Bits>(
        _mm512_mask_or_epi32(from, static_cast<__mmask16>(lanes), from, _mm512_set1_epi32(static_cast<int>(bits))));
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

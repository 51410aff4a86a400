// Lanes picked by a mask, a bit each.
#pragma once

#include "cpu/simd/sixteen.h"

namespace vitsom {
namespace VITSOM_ISA {

// 0, 1, 2, ...
inline LaneInts lane_numbers() {
    LaneInts lanes;
    for (std::int32_t lane = 0; lane < LANES; ++lane) set_lane(lanes, lane, lane);
    return lanes;
}

#if defined(__AVX512F__)

inline unsigned lanes_equal(Lanes v, float value) {
    return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(v), reinterpret_cast<__m512>(splat(value)), _CMP_EQ_OQ);
}

// The first lane of that score, which is -inf from then on.
inline int take_lane(Lanes& score, float value) {
    const unsigned lanes = lanes_equal(score, value);
    score = _mm512_mask_mov_ps(score, static_cast<__mmask16>(lanes & -lanes), splat(-__builtin_inff()));
    return __builtin_ctz(lanes);
}

// A few numbers, to be picked from.
typedef Ints Places;

// The first `count`; nothing beyond them is read.
inline Places places_of(const std::int32_t* x, int count) {
    return reinterpret_cast<Ints>(_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1 << count) - 1), x));
}

// Writes the picked ones one after the other, with room for all; returns how many they are.
inline int append(std::int32_t* out, unsigned picked, Places places) {
    const auto mask = static_cast<__mmask16>(picked);
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(mask, reinterpret_cast<__m512i>(places)));
    return __builtin_popcount(picked);
}

// Sets these bits in the lanes that reach a number.
inline void mark_lanes_reaching(LaneBits& marks, Lanes v, Lanes floor, unsigned bits) {
    const auto from = reinterpret_cast<__m512i>(marks);
    const auto lanes = static_cast<__mmask16>(lanes_reaching(v, floor));
    marks = reinterpret_cast<Bits>(_mm512_mask_or_epi32(from, lanes, from, _mm512_set1_epi32(static_cast<int>(bits))));
}

#else

inline unsigned lanes_equal(const Lanes& v, float value) {
    unsigned lanes = 0;
    for (int i = 0; i < PARTS; ++i) lanes |= bits_of(v.part[i] == splat(value)) << i * WIDTH;
    return lanes;
}

inline int take_lane(Lanes& score, float value) {
    const int lane = __builtin_ctz(lanes_equal(score, value));
    set_lane(score, lane, -__builtin_inff());
    return lane;
}

typedef const std::int32_t* Places;

inline Places places_of(const std::int32_t* x, int) { return x; }

inline int append(std::int32_t* out, unsigned picked, Places places) {
    int count = 0;
    for (; picked != 0; picked &= picked - 1) out[count++] = places[__builtin_ctz(picked)];
    return count;
}

inline void mark_lanes_reaching(LaneBits& marks, const Lanes& v, const Lanes& floor, unsigned bits) {
#pragma GCC unroll 4
    for (int i = 0; i < PARTS; ++i) marks.part[i] |= reinterpret_cast<Bits>(v.part[i] >= floor.part[i]) & bits;
}

#endif

}  // namespace VITSOM_ISA
}  // namespace vitsom

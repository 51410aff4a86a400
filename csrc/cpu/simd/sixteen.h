// Sixteen numbers side by side, one of each member of a tile: a vector of AVX-512, two of AVX2, four of 128 bits.
#pragma once

#include "cpu/simd/lanes.h"

namespace vitsom {
namespace VITSOM_ISA {

constexpr int LANES = 16;

#if defined(__AVX512F__)

typedef Vec Lanes;
typedef Ints LaneInts;
typedef Bits LaneBits;

inline Lanes splat_lanes(float x) { return splat(x); }
inline Lanes load_lanes(const float* x) { return load(x); }
inline void store_lanes(float* out, const Lanes& v) { store(out, v); }
inline Lanes as_lane_numbers(const LaneInts& v) { return __builtin_convertvector(v, Lanes); }

// Those numbers of two that are larger, and what belongs to them.
inline void keep_larger(const Lanes& score, const LaneInts& place, Lanes& best, LaneInts& best_place) {
    best_place = score > best ? place : best_place;
    best = score > best ? score : best;
}

#else

constexpr int PARTS = LANES / WIDTH;

template <class V>
struct Sixteen {
    V part[PARTS];

    auto operator[](int lane) const { return part[lane / WIDTH][lane % WIDTH]; }
};
typedef Sixteen<Vec> Lanes;
typedef Sixteen<Ints> LaneInts;
typedef Sixteen<Bits> LaneBits;

// Of each part.
template <class Of>
inline __attribute__((always_inline)) auto sixteen(const Of& of) {
    Sixteen<decltype(of(0))> v;
#pragma GCC unroll 4
    for (int i = 0; i < PARTS; ++i) v.part[i] = of(i);
    return v;
}

inline Lanes splat_lanes(float x) {
    return sixteen([=](int) { return splat(x); });
}
inline Lanes load_lanes(const float* x) {
    return sixteen([=](int i) { return load(x + i * WIDTH); });
}
inline void store_lanes(float* out, const Lanes& v) { std::memcpy(out, &v, sizeof v); }
inline Lanes as_lane_numbers(const LaneInts& v) {
    return sixteen([&](int i) { return __builtin_convertvector(v.part[i], Vec); });
}

inline Lanes operator+(const Lanes& a, const Lanes& b) {
    return sixteen([&](int i) { return a.part[i] + b.part[i]; });
}
inline Lanes operator-(const Lanes& a, const Lanes& b) {
    return sixteen([&](int i) { return a.part[i] - b.part[i]; });
}
inline Lanes operator*(const Lanes& a, const Lanes& b) {
    return sixteen([&](int i) { return a.part[i] * b.part[i]; });
}
inline Lanes operator/(const Lanes& a, float b) {
    return sixteen([&](int i) { return a.part[i] / b; });
}
inline Lanes operator+(const Lanes& a, float b) { return a + splat_lanes(b); }
inline Lanes operator+(float a, const Lanes& b) { return splat_lanes(a) + b; }
inline Lanes operator-(float a, const Lanes& b) { return splat_lanes(a) - b; }
inline Lanes operator*(const Lanes& a, float b) { return a * splat_lanes(b); }
inline Lanes operator*(float a, const Lanes& b) { return splat_lanes(a) * b; }
inline LaneInts& operator+=(LaneInts& v, std::int32_t x) {
    for (Ints& part : v.part) part += x;
    return v;
}

inline Lanes square_root(const Lanes& v) {
    return sixteen([&](int i) { return square_root(v.part[i]); });
}
inline Lanes larger_of(const Lanes& a, const Lanes& b) {
    return sixteen([&](int i) { return larger_of(a.part[i], b.part[i]); });
}
inline float largest(const Lanes& v) {
    Vec most = v.part[0];
    for (int i = 1; i < PARTS; ++i) most = larger_of(v.part[i], most);
    return largest(most);
}

inline float sum(const Lanes& v) {
    Vec total = v.part[0];
    for (int i = 1; i < PARTS; ++i) total += v.part[i];
    return sum(total);
}

inline void keep_larger(const Lanes& score, const LaneInts& place, Lanes& best, LaneInts& best_place) {
#pragma GCC unroll 4
    for (int i = 0; i < PARTS; ++i) {
        const Ints larger = score.part[i] > best.part[i];
        best_place.part[i] = larger ? place.part[i] : best_place.part[i];
        best.part[i] = larger ? score.part[i] : best.part[i];
    }
}

inline unsigned lanes_reaching(const Lanes& v, const Lanes& floor) {
    unsigned lanes = 0;
#pragma GCC unroll 4
    for (int i = 0; i < PARTS; ++i) lanes |= lanes_reaching(v.part[i], floor.part[i]) << i * WIDTH;
    return lanes;
}

#endif

template <class V, class T>
inline void set_lane(V& v, int lane, T x) {
    std::memcpy(reinterpret_cast<char*>(&v) + lane * static_cast<int>(sizeof x), &x, sizeof x);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// The members of a tile, sixteen vectors side by side: [vector of WIDTH elements][LANES][WIDTH], zeros for one that is not there.
//
// Their addresses are fixed distances apart, and what is computed of each becomes a lane of a vector.
#pragma once

#include "cpu/search/pruned/panel_code.h"
#include "cpu/simd/packing.h"

namespace vitsom {
namespace VITSOM_ISA {

constexpr std::int64_t SIDE_BY_SIDE = LANES * WIDTH;

// Rows are padded with zeros to a whole number of four vectors.
inline std::int64_t padded(std::int64_t dim) { return ceil_div(dim, 4 * WIDTH) * 4 * WIDTH; }

// A row of length 1, padded, its vectors `stride` apart.
__attribute__((noinline)) inline void write_unit(
    Row row, double inverse, std::int64_t count, std::int64_t dim, float* out, std::int64_t stride = WIDTH) {
    const Scaling scaled = scaling(inverse);
    with_elements(row, [&](const auto* x) {
        if (scaled.first == 1) {
            for_each_vector(count, [&](std::int64_t d, auto load, auto) {
                store(out + d / WIDTH * stride, load(x + d) * scaled.second);
            });
        } else {
            for_each_vector(count, [&](std::int64_t d, auto load, auto) { store(out + d / WIDTH * stride, scaled(load(x + d))); });
        }
    });
    for (std::int64_t v = ceil_div(count, WIDTH); v < dim / WIDTH; ++v) store(out + v * stride, Vec{});
}

// A row less `origin`, times a power of two, padded.
__attribute__((noinline)) inline void write_centred(
    Row row, const float* origin, float factor, std::int64_t count, std::int64_t dim, float* out, std::int64_t stride = WIDTH) {
    with_elements(row, [&](const auto* x) {
        for_each_vector(count, [&](std::int64_t d, auto load, auto) {
            store(out + d / WIDTH * stride, (load(x + d) - load(origin + d)) * factor);
        });
    });
    for (std::int64_t v = ceil_div(count, WIDTH); v < dim / WIDTH; ++v) store(out + v * stride, Vec{});
}

// Row x, or nothing if it is nullptr, as a member.
inline void write_member(const float* x, std::int64_t n, float* out) {
    for (std::int64_t d = 0; d < n; d += WIDTH, out += SIDE_BY_SIDE) store(out, x ? load(x + d) : Vec{});
}

inline float dot_padded(const float* a, const float* b, std::int64_t n) {
    Vec sums[4] = {};
    for (std::int64_t d = 0; d < n; d += 4 * WIDTH) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) sums[i] += load(a + d + i * WIDTH) * load(b + d + i * WIDTH);
    }
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// The sums of four vectors, with fewer shuffles than one at a time takes.
inline void sum_four(const Vec (&v)[4], float (&out)[4]) {
#if defined(__AVX512F__)
    const Vec ab = VITSOM_SHUFFLE(v[0], v[1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
                   VITSOM_SHUFFLE(v[0], v[1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    const Vec cd = VITSOM_SHUFFLE(v[2], v[3], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
                   VITSOM_SHUFFLE(v[2], v[3], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    Vec abcd = VITSOM_SHUFFLE(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
               VITSOM_SHUFFLE(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    abcd += halves_swapped(abcd);
    abcd += quarters_swapped(abcd);
#elif defined(__AVX2__)
    const Vec ab = VITSOM_SHUFFLE(v[0], v[1], 0, 8, 1, 9, 4, 12, 5, 13) + VITSOM_SHUFFLE(v[0], v[1], 2, 10, 3, 11, 6, 14, 7, 15);
    const Vec cd = VITSOM_SHUFFLE(v[2], v[3], 0, 8, 1, 9, 4, 12, 5, 13) + VITSOM_SHUFFLE(v[2], v[3], 2, 10, 3, 11, 6, 14, 7, 15);
    Vec abcd = VITSOM_SHUFFLE(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) + VITSOM_SHUFFLE(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    abcd += quarters_swapped(abcd);
#else
    const Vec ab = VITSOM_SHUFFLE(v[0], v[1], 0, 4, 1, 5) + VITSOM_SHUFFLE(v[0], v[1], 2, 6, 3, 7);
    const Vec cd = VITSOM_SHUFFLE(v[2], v[3], 0, 4, 1, 5) + VITSOM_SHUFFLE(v[2], v[3], 2, 6, 3, 7);
    const Vec abcd = VITSOM_SHUFFLE(ab, cd, 0, 1, 4, 5) + VITSOM_SHUFFLE(ab, cd, 2, 3, 6, 7);
#endif
    std::memcpy(out, &abcd, sizeof out);
}

struct Four {
    const float* row[4];

    const float* operator[](int r) const { return row[r]; }
};

// The dot products of four rows with N vectors, out[vector][row]. One row at a time takes twice as long: summing up a register
// costs as much as eight products.
template <int N>
inline void dot_four(const Four& z, const float* const (&x)[N], std::int64_t n, float (&out)[N][4]) {
    Vec sums[N][4] = {};
    for (std::int64_t d = 0; d < n; d += WIDTH) {
#pragma GCC unroll 3
        for (int i = 0; i < N; ++i) {
            const Vec column = load(x[i] + d);
#pragma GCC unroll 4
            for (int r = 0; r < 4; ++r) sums[i][r] += load(z[r] + d) * column;
        }
    }
    for (int i = 0; i < N; ++i) sum_four(sums[i], out[i]);
}

// The dot products of four rows, each with one of its own.
inline void dot_each(const Four& x, const Four& y, std::int64_t n, float (&out)[4]) {
    Vec sums[4] = {};
    for (std::int64_t d = 0; d < n; d += WIDTH) {
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) sums[r] += load(x[r] + d) * load(y[r] + d);
    }
    sum_four(sums, out);
}

// What the roundings of one such dot product of vectors of length 1 come to at most: those of a chain, and of the sum over its lanes.
inline float chain_error(std::int64_t n) { return static_cast<float>(n / WIDTH + 4) * 0x1p-24f; }

// And those of the vectors themselves: of the factor that makes their length 1, and of its product with each element.
constexpr float UNIT_ERROR = 0x1p-23f;

inline float dot_error(std::int64_t n) { return chain_error(n) + 3 * UNIT_ERROR; }

inline Lanes lanes_of(const Vec (&sums)[LANES]) {
    float lanes[LANES];
    for (int first = 0; first < LANES; first += 4) {
        const Vec four[4] = {sums[first], sums[first + 1], sums[first + 2], sums[first + 3]};
        float out[4];
        sum_four(four, out);
        std::memcpy(lanes + first, out, sizeof out);
    }
    return load_lanes(lanes);
}

// What `add(sum, member, x)` makes of each member and x.
template <class Add>
inline __attribute__((always_inline)) Lanes over_members(const float* members, const float* x, std::int64_t n, const Add& add) {
    constexpr int AT_ONCE = WIDTH == 16 ? LANES : 8;  // half of the registers
    Vec sums[LANES];
    for (int first = 0; first < LANES; first += AT_ONCE) {
        Vec of[AT_ONCE] = {};
        const float* member = members + first * WIDTH;
        for (std::int64_t d = 0; d < n; d += WIDTH, member += SIDE_BY_SIDE) {
            const Vec column = load(x + d);
#pragma GCC unroll 16
            for (int lane = 0; lane < AT_ONCE; ++lane) add(of[lane], load(member + lane * WIDTH), column);
        }
        for (int lane = 0; lane < AT_ONCE; ++lane) sums[first + lane] = of[lane];
    }
    return lanes_of(sums);
}

// The product of each member with x.
inline Lanes dot_members(const float* members, const float* x, std::int64_t n) {
    return over_members(members, x, n, [](Vec& sum, Vec member, Vec column) { sum += member * column; });
}

// The squared length of each.
inline Lanes squares_of_members(const float* members, std::int64_t n) {
    return over_members(members, members, n, [](Vec& sum, Vec member, Vec) { sum += member * member; });
}

// How far each member is from x, squared.
inline Lanes square_distances(const float* members, const float* x, std::int64_t n) {
    return over_members(members, x, n, [](Vec& sum, Vec member, Vec column) {
        const Vec difference = member - column;
        sum += difference * difference;
    });
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

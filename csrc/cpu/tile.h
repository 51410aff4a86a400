// The register tile behind every product here: sum over j of a[j][row] * x[j][col], both operands packed.
#pragma once

#include "vector.h"

namespace vitsom {
namespace VITSOM_ISA {

template <int N>
struct Constant {
    static constexpr int value = N;
};

template <int ROWS>
struct Tile {
    Vec low[ROWS], high[ROWS];  // TILE_COLS columns
};

// a is [count][ROWS], x is [count][TILE_COLS].
template <int ROWS>
inline __attribute__((always_inline)) Tile<ROWS> multiply(std::int64_t count, const float* a, const float* x) {
    Tile<ROWS> tile;
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) tile.low[r] = tile.high[r] = Vec{};
    for (std::int64_t j = 0; j < count; ++j) {
        const Vec low = load(x), high = load(x + WIDTH);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
            tile.low[r] += a[r] * low;
            tile.high[r] += a[r] * high;
        }
        a += ROWS;
        x += TILE_COLS;
    }
    return tile;
}

// Calls `body` with the number of rows, at most MOST, as a constant.
template <int MOST, class Body>
inline __attribute__((always_inline)) void with_constant(std::int64_t rows, const Body& body) {
    switch (rows) {
#define VITSOM_CASE(N) \
    case N: \
        if constexpr (N <= MOST) body(Constant<N>{}); \
        break;
        VITSOM_CASE(1)
        VITSOM_CASE(2)
        VITSOM_CASE(3)
        VITSOM_CASE(4)
        VITSOM_CASE(5)
        VITSOM_CASE(6)
        VITSOM_CASE(7)
        VITSOM_CASE(8)
        VITSOM_CASE(9)
        VITSOM_CASE(10)
        VITSOM_CASE(11)
        VITSOM_CASE(12)
#undef VITSOM_CASE
    }
}

template <class Body>
inline __attribute__((always_inline)) void with_tile_rows(std::int64_t rows, const Body& body) {
    with_constant<TILE_ROWS>(rows, body);
}

// Of two tiles at a time.
template <class Body>
inline __attribute__((always_inline)) void with_half_tile_rows(std::int64_t rows, const Body& body) {
    with_constant<TILE_ROWS / 2>(rows, body);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

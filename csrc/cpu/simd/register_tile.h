// The register tile behind every product here: sum over j of a[j][row] * x[j][col], both operands packed.
#pragma once

#include "cpu/simd/vector.h"

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

// Adds a, [count][ROWS], times x, [count][TILE_COLS]. Where NARROW, the upper half of the columns is left as it is.
template <int ROWS, bool NARROW = false>
inline __attribute__((always_inline)) void multiply(std::int64_t count, const float* a, const float* x, Tile<ROWS>& tile) {
    for (std::int64_t j = 0; j < count; ++j) {
        const Vec low = load(x + j * TILE_COLS), high = load(x + j * TILE_COLS + WIDTH);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
            tile.low[r] += a[j * ROWS + r] * low;
            if (!NARROW) tile.high[r] += a[j * ROWS + r] * high;
        }
    }
}

// The same from zero, in chains of so many products, whose sums are added up: all roundings of a chain may go one way. The first is
// all there is where products are few.
template <int ROWS, std::int64_t CHAIN, bool NARROW = false>
inline __attribute__((always_inline)) Tile<ROWS> multiply_in_chains(std::int64_t count, const float* a, const float* x) {
    Tile<ROWS> total{};
    multiply<ROWS, NARROW>(count < CHAIN ? count : CHAIN, a, x, total);
    for (std::int64_t start = CHAIN; start < count; start += CHAIN) {
        Tile<ROWS> tile{};
        multiply<ROWS, NARROW>(count - start < CHAIN ? count - start : CHAIN, a + start * ROWS, x + start * TILE_COLS, tile);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
            total.low[r] += tile.low[r];
            if (!NARROW) total.high[r] += tile.high[r];
        }
    }
    return total;
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

// Some samples by some units: the sums over features that their distances are, in register tiles of TILE_ROWS samples, a group, by
// TILE_COLS units, a block.
#pragma once

#include "cpu/pairs/distances.h"
#include "cpu/runtime/arena.h"
#include "cpu/simd/packing.h"

namespace vitsom {
namespace VITSOM_ISA {

// Of a tile at most; whole groups and blocks of every instruction set. And the features whose differences are added up at a time:
// so long a chain of additions of one sign is wrong by 2^-17 of its sum at most, by 2^-22 as a rule.
constexpr std::int64_t SAMPLES = 192, UNITS = 128, FEATURES = 128;
constexpr std::int64_t GROUPS = SAMPLES / TILE_ROWS, BLOCKS = UNITS / TILE_COLS;
constexpr unsigned ALL_LANES = (1u << WIDTH) - 1;

struct PairTile {
    const std::int64_t* sample;  // [samples] their rows of z
    std::int64_t samples, first_unit, units;

    std::int64_t groups() const { return ceil_div(samples, TILE_ROWS); }
    std::int64_t blocks() const { return ceil_div(units, TILE_COLS); }
};

// Samples of a tile, in whole groups: every thread gets as many tiles.
inline std::int64_t samples_a_tile(std::int64_t batch, int threads) {
    const std::int64_t tiles = larger(ceil_div(batch, SAMPLES * threads), 1) * threads;
    return larger(ceil_div(ceil_div(batch, tiles), TILE_ROWS), 1) * TILE_ROWS;
}

// Of one thread. Rows of samples and units that a tile lacks have weight 0.
struct PairScratch {
    float* weights;  // [SAMPLES][UNITS]
    float* sums;     // [SAMPLES][UNITS]
    float* x;        // [SAMPLES][FEATURES] of the samples
    float* v;        // [FEATURES][TILE_COLS] of a block of units
    bool* matters;   // [GROUPS][BLOCKS] whether any weight of a register tile does

    static constexpr std::int64_t BYTES = 4 * (2 * SAMPLES * UNITS + SAMPLES * FEATURES + FEATURES * TILE_COLS);

    void take(Arena& arena) {
        weights = arena.take<float>(SAMPLES * UNITS);
        sums = arena.take<float>(SAMPLES * UNITS);
        x = arena.take<float>(SAMPLES * FEATURES);
        v = arena.take<float>(FEATURES * TILE_COLS);
        matters = arena.take<bool>(GROUPS * BLOCKS);
    }
};

// x[r][d] of some features of the samples, 0 for what the last group lacks.
inline void pack_samples(const Matrix& z, const PairTile& tile, std::int64_t start, std::int64_t count, float scale, float* x) {
    for (std::int64_t r = 0; r < tile.groups() * TILE_ROWS; ++r, x += FEATURES) {
        if (r >= tile.samples) {
            fill(x, count, 0.0f);
            continue;
        }
        with_elements(row(z, tile.sample[r]) + start, [&](const auto* elements) {
            for_each_vector(count, [&](std::int64_t d, auto load, auto store) { store(x + d, scale * load(elements + d)); });
        });
    }
}

// sums [TILE_ROWS][UNITS] = or += what the features of a group and a block add to.
template <class Distance>
__attribute__((noinline)) void add_register_tile(std::int64_t count, const float* x, const float* v, bool add, float* sums) {
    Tile<TILE_ROWS> tile{};
    for (std::int64_t d = 0; d < count; ++d) {
        const Vec low = load(v + d * TILE_COLS), high = load(v + d * TILE_COLS + WIDTH);
#pragma GCC unroll 16
        for (int r = 0; r < TILE_ROWS; ++r) {
            const float of_sample = x[r * FEATURES + d];
            tile.low[r] = Distance::add(tile.low[r], of_sample - low);
            tile.high[r] = Distance::add(tile.high[r], of_sample - high);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < TILE_ROWS; ++r) store_row(sums + r * UNITS, tile.low[r], tile.high[r], add);
}

// Fills scratch.sums where weights matter.
template <class Distance>
void sum_over_features(const Problem& p, const PairTile& tile, float scale, const PairScratch& scratch) {
    for (std::int64_t start = 0; start < p.dim; start += FEATURES) {
        const std::int64_t count = smaller(FEATURES, p.dim - start);
        pack_samples(p.z, tile, start, count, scale, scratch.x);
        for (std::int64_t block = 0; block < tile.blocks(); ++block) {
            bool is_packed = false;
            for (std::int64_t group = 0; group < tile.groups(); ++group) {
                if (!scratch.matters[group * BLOCKS + block]) continue;
                if (!is_packed) {
                    const std::int64_t first = tile.first_unit + block * TILE_COLS;
                    pack_columns(p.prototypes, first, tile.first_unit + tile.units, start, count, scratch.v);
                    for (std::int64_t i = 0; i < count * TILE_COLS; i += WIDTH) store(scratch.v + i, scale * load(scratch.v + i));
                    is_packed = true;
                }
                const std::int64_t first_row = group * TILE_ROWS;
                add_register_tile<Distance>(
                    count, scratch.x + first_row * FEATURES, scratch.v, start > 0,
                    scratch.sums + first_row * UNITS + block * TILE_COLS);
            }
        }
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

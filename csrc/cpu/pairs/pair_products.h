// The squares of Euclidean distances of a tile as products, where these lose no digit that matters: half of the instructions that
// differences take.
//
// |x - v|^2 = |x|^2 + |v|^2 - 2 x . v, of rows as seen from a centre of the units of the tile. It is off by a few places of the lengths,
// so it stands where it is no less than SHARE of |x|^2 + |v|^2. Register tiles that have a pair nearer than that are left to differences,
// and those of samples whose BMUs are among the units are not even tried.
#pragma once

#include "cpu/pairs/pair_tile.h"

namespace vitsom {
namespace VITSOM_ISA {

constexpr float SHARE = 0.25f;

// Some features of the centre: the mean of a few units of the tile.
inline void write_centre_of_units(
    const Matrix& prototypes, const PairTile& tile, std::int64_t start, std::int64_t count, float scale, float* centre) {
    constexpr std::int64_t MOST = 8;
    const std::int64_t step = ceil_div(tile.units, MOST), members = ceil_div(tile.units, step);
    fill(centre, count, 0.0f);
    const float share = scale / static_cast<float>(members);
    for (std::int64_t k = 0; k < tile.units; k += step) {
        with_elements(row(prototypes, tile.first_unit + k) + start, [&](const auto* x) {
            for_each_vector(count, [&](std::int64_t d, auto load, auto store) {
                store(centre + d, load(centre + d) + share * load(x + d));
            });
        });
    }
}

// products [TILE_ROWS][UNITS] = or += those of some features of a group and a block.
inline __attribute__((noinline)) void add_products(std::int64_t count, const float* x, const float* v, bool add, float* products) {
    Tile<TILE_ROWS> tile{};
    for (std::int64_t d = 0; d < count; ++d) {
        const Vec low = load(v + d * TILE_COLS), high = load(v + d * TILE_COLS + WIDTH);
#pragma GCC unroll 16
        for (int r = 0; r < TILE_ROWS; ++r) {
            tile.low[r] += x[r * FEATURES + d] * low;
            tile.high[r] += x[r * FEATURES + d] * high;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < TILE_ROWS; ++r) store_row(products + r * UNITS, tile.low[r], tile.high[r], add);
}

// Which groups hold a sample whose BMU is a unit of the tile.
inline void mark_near(const std::int64_t* bmu, const PairTile& tile, const PairScratch& scratch) {
    for (std::int64_t group = 0; group < tile.groups(); ++group) {
        bool is_near = false;
        for (std::int64_t r = group * TILE_ROWS; r < smaller(tile.samples, (group + 1) * TILE_ROWS); ++r) {
            const std::int64_t unit = bmu[tile.sample[r]] - tile.first_unit;
            is_near |= unit >= 0 && unit < tile.units;
        }
        for (std::int64_t block = 0; block < tile.blocks(); ++block) {
            scratch.by_differences[group * BLOCKS + block] = is_near && scratch.matters[group * BLOCKS + block];
        }
    }
}

// Products in the place of sums, and the squares of the rows.
inline void multiply_over_features(const Problem& p, const PairTile& tile, float scale, const PairScratch& scratch) {
    const auto is_tried = [&](std::int64_t place) { return scratch.matters[place] && !scratch.by_differences[place]; };
    fill(scratch.squares_of_x, SAMPLES, 0.0f);
    fill(scratch.squares_of_v, UNITS, 0.0f);
    for (std::int64_t start = 0; start < p.dim; start += FEATURES) {
        const std::int64_t count = smaller(FEATURES, p.dim - start);
        write_centre_of_units(p.prototypes, tile, start, count, scale, scratch.centre);
        pack_samples(p.z, tile, start, count, scale, scratch.centre, scratch.x);
        for (std::int64_t r = 0; r < tile.samples; ++r) {
            Vec squares{};
            for_each_vector(count, [&](std::int64_t d, auto load, auto) {
                const Vec x = load(scratch.x + r * FEATURES + d);
                squares += x * x;
            });
            scratch.squares_of_x[r] += sum(squares);
        }
        for (std::int64_t block = 0; block < tile.blocks(); ++block) {
            bool is_packed = false;
            for (std::int64_t group = 0; group < tile.groups(); ++group) {
                if (!is_tried(group * BLOCKS + block)) continue;
                if (!is_packed) {
                    pack_units(p.prototypes, tile, block, start, count, scale, scratch.centre, scratch.v);
                    Vec low{}, high{};
                    for (std::int64_t d = 0; d < count; ++d) {
                        const Features v = load_row(scratch.v + d * TILE_COLS);
                        low += v.low * v.low;
                        high += v.high * v.high;
                    }
                    store_row(scratch.squares_of_v + block * TILE_COLS, low, high, true);
                    is_packed = true;
                }
                const std::int64_t first_row = group * TILE_ROWS;
                float* products = scratch.sums + first_row * UNITS + block * TILE_COLS;
                add_products(count, scratch.x + first_row * FEATURES, scratch.v, start > 0, products);
            }
        }
    }
}

// Makes squared distances of the products of a register tile; returns whether they stand.
inline bool square_distances(std::int64_t group, std::int64_t block, const PairScratch& scratch) {
    const Features of_v = load_row(scratch.squares_of_v + block * TILE_COLS);
    unsigned standing = ALL_LANES;
    for (std::int64_t r = group * TILE_ROWS; r < (group + 1) * TILE_ROWS; ++r) {
        float* at = scratch.sums + r * UNITS + block * TILE_COLS;
        const Features product = load_row(at);
        const Vec low = scratch.squares_of_x[r] + of_v.low, high = scratch.squares_of_x[r] + of_v.high;
        const Vec near = low - 2 * product.low, far = high - 2 * product.high;
        standing &= lanes_reaching(near, SHARE * low) & lanes_reaching(far, SHARE * high);
        store_row(at, near, far);
    }
    return standing == ALL_LANES;
}

// Fills scratch.sums where weights matter, and tells where that took differences.
inline void sum_squares(
    const Problem& p, const std::int64_t* bmu, const PairTile& tile, float scale, const PairScratch& scratch) {
    mark_near(bmu, tile, scratch);
    multiply_over_features(p, tile, scale, scratch);
    for (std::int64_t group = 0; group < tile.groups(); ++group) {
        for (std::int64_t block = 0; block < tile.blocks(); ++block) {
            const std::int64_t place = group * BLOCKS + block;
            if (!scratch.matters[place] || scratch.by_differences[place]) continue;
            scratch.by_differences[place] = !square_distances(group, block, scratch);
        }
    }
    sum_over_features<Euclidean>(p, tile, scale, scratch.by_differences, scratch);
}

// Fills scratch.sums where weights matter.
template <class Distance>
void sum_pairs(const Problem& p, const std::int64_t* bmu, const PairTile& tile, float scale, const PairScratch& scratch) {
    if (Distance::MULTIPLIES) sum_squares(p, bmu, tile, scale, scratch);
    else sum_over_features<Distance>(p, tile, scale, scratch.matters, scratch);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

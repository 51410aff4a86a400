// The weights of some units for some samples, and which of them are something.
#pragma once

#include "cpu/pairs/pair_tile.h"
#include "cpu/neighborhood/packed_factor.h"

namespace vitsom {
namespace VITSOM_ISA {

// out[i] of the units [first, first + count), for one BMU.
inline void weigh_units(const Neighborhood& h, std::int64_t bmu, std::int64_t first, std::int64_t count, float* out) {
    const std::int64_t row = bmu / h.cols, col = bmu % h.cols;
    for (std::int64_t done = 0; done < count;) {
        const std::int64_t to_row = (first + done) / h.cols, to_col = (first + done) % h.cols;
        const std::int64_t units = smaller(h.cols - to_col, count - done);
        for (std::int64_t t = 0; t < h.terms; ++t) {
            const float of_row = h.row_factors[(t * h.rows + row) * h.rows + to_row];
            const float* of_cols = h.col_factors + (t * h.cols + col) * h.cols + to_col;
            for_each_vector(units, [&](std::int64_t i, auto load, auto store) {
                const Vec product = of_row * load(of_cols + i);
                store(out + done + i, t == 0 ? product : load(out + done + i) + product);
            });
        }
        done += units;
    }
}

// Fills scratch.weights and scratch.matters; whether any weight matters, being larger than `negligible`.
inline bool weigh_tile(
    const Neighborhood& h, const std::int64_t* bmu, const PairTile& tile, float negligible, const PairScratch& scratch) {
    for (std::int64_t r = 0; r < tile.groups() * TILE_ROWS; ++r) {
        float* weights = scratch.weights + r * UNITS;
        const std::int64_t known = r < tile.samples ? tile.units : 0;
        if (r > 0 && r < tile.samples && bmu[tile.sample[r]] == bmu[tile.sample[r - 1]]) {
            std::memcpy(weights, weights - UNITS, static_cast<std::size_t>(known) * sizeof *weights);
        } else if (known > 0) {
            weigh_units(h, bmu[tile.sample[r]], tile.first_unit, known, weights);
        }
        for (std::int64_t k = known; k < tile.blocks() * TILE_COLS; ++k) weights[k] = 0;
    }
    bool any = false;
    const Vec most = splat(negligible);
    for (std::int64_t group = 0; group < tile.groups(); ++group) {
        for (std::int64_t block = 0; block < tile.blocks(); ++block) {
            bool matters = false;
            const float* weights = scratch.weights + group * TILE_ROWS * UNITS + block * TILE_COLS;
            for (int r = 0; r < TILE_ROWS && !matters; ++r, weights += UNITS) {  // NaN matters
                matters = lanes_reaching(most, magnitude(load(weights))) != ALL_LANES ||
                          lanes_reaching(most, magnitude(load(weights + WIDTH))) != ALL_LANES;
            }
            scratch.matters[group * BLOCKS + block] = matters;
            any |= matters;
        }
    }
    return any;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

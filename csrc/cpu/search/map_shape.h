// The shape of the map, as the prototypes themselves show it, and how tiles cover it.
//
// Where a search is given a list of prototypes without a grid, it guesses: of all widths that divide their number, that of the map is
// the one at which tiles hold the most similar prototypes. A wrong guess costs time, never the answer.
#pragma once

#include "cpu/runtime/golden_order.h"
#include "cpu/simd/packing.h"

namespace vitsom {
namespace VITSOM_ISA {

constexpr int MEMBERS = 16;  // of a tile

// The units of a grid, row by row, or the tiles that cover one.
struct Cells {
    std::int64_t rows, cols;

    std::int64_t count() const { return rows * cols; }
};

// The cells of one tile, by lane; -1 beyond the edge of the grid.
struct Members {
    std::int64_t first, stride;
    int rows, cols, shift;  // within the grid; log2 of the columns of a tile

    std::int64_t operator[](int lane) const {
        const int r = lane >> shift, c = lane & ((1 << shift) - 1);
        return r < rows && c < cols ? first + r * stride + c : -1;
    }
};

// Tiles of 4 x 4 cells; longer ones where the grid is narrower than that.
struct Tiling {
    Cells cells, tiles;
    std::int64_t tile_rows, tile_cols;

    Tiling() = default;
    explicit Tiling(Cells cells) : cells(cells), tile_rows(4), tile_cols(4) {
        for (; tile_rows >= 2 * cells.rows; tile_rows /= 2) tile_cols *= 2;
        if (tile_rows == 4) {
            for (; tile_cols >= 2 * cells.cols; tile_cols /= 2) tile_rows *= 2;
        }
        tiles = {ceil_div(cells.rows, tile_rows), ceil_div(cells.cols, tile_cols)};
    }

    Members members(std::int64_t tile) const {
        const std::int64_t r = tile / tiles.cols, first_row = r * tile_rows, first_col = (tile - r * tiles.cols) * tile_cols;
        return {first_row * cells.cols + first_col, cells.cols, static_cast<int>(smaller(MEMBERS, cells.rows - first_row)),
                static_cast<int>(smaller(MEMBERS, cells.cols - first_col)), __builtin_ctz(static_cast<unsigned>(tile_cols))};
    }
};

// The squared length of the sum of a few tiles' prototypes, each of length 1: the more alike they are, the longer.
inline double similarity(const Problem& p, const Tiling& tiling, float* scratch) {
    constexpr std::int64_t SAMPLES = 4;
    const Order order(tiling.tiles.count());
    double total = 0;
    for (std::int64_t i = 1; i <= SAMPLES; ++i) {
        const Members members = tiling.members(order(i % tiling.tiles.count()));
        fill(scratch, p.dim, 0.0f);
        for (int lane = 0; lane < MEMBERS; ++lane) {
            const std::int64_t k = members[lane];
            const double inverse = k < 0 ? 0 : inverse_norm(row(p.prototypes, k), p.dim);
            if (!(inverse > 0)) continue;
            const Scaling scaled = scaling(inverse);
            with_elements(row(p.prototypes, k), [&](const auto* x) {
                for_each_vector(p.dim, [&](std::int64_t d, auto load, auto store) {
                    store(scratch + d, load(scratch + d) + scaled(load(x + d)));
                });
            });
        }
        total += squared_norm(scratch, p.dim);
    }
    return total;
}

inline Cells map_shape(const Problem& p, float* scratch) {
    constexpr std::int64_t MOST_ASPECT = 64;
    const std::int64_t count = p.num_prototypes;
    if (p.map_rows > 0) return {p.map_rows, p.map_cols};
    Cells best{1, count};
    double most = similarity(p, Tiling(best), scratch);
    for (std::int64_t rows = 2; rows * rows <= count * MOST_ASPECT && rows <= count; ++rows) {
        const Cells cells{rows, count / rows};
        if (cells.count() != count || cells.cols > rows * MOST_ASPECT) continue;
        const double found = similarity(p, Tiling(cells), scratch);
        if (found > most) {
            most = found;
            best = cells;
        }
    }
    return best;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// A map as groups of samples search it: its prototypes tile by tile, and balls that hold tiles, and tiles of tiles.
//
// A cosine is found as a distance, too: of rows of length 1 the nearest has the largest. Prototypes are of length 1, lifted ones
// before what was added to them is left off, and samples in the same unit, so that either way |z - w|^2 = |z|^2 + h - 2 score, where
// the score is z . w plus what is added to a prototype, and h is 1 or, of lifted rows, 0.
#pragma once

#include "cpu/module/kernel_table.h"
#include "cpu/runtime/arena.h"
#include "cpu/search/lanes/box.h"
#include "cpu/search/lanes/sample_block.h"
#include "cpu/search/map_shape.h"
#include "cpu/simd/sixteen.h"

namespace vitsom {
namespace VITSOM_ISA {

// What distances and radii in fp32 are too short by, at most, in relation: the roundings of a chain of MOST_FEATURES squares.
constexpr float BALL_ERROR = 0x1p-16f;

// LANES balls a panel.
struct Balls {
    float* centre;       // [panels][dim][LANES]
    float* half_square;  // [panels][LANES] of the centre; inf where there is no ball
    float* radius;       // [panels][LANES]; -inf where there is none

    static Balls take(Arena& arena, std::int64_t panels, std::int64_t dim) {
        Balls balls{};
        balls.centre = arena.take<float>(panels * dim * LANES);
        balls.half_square = arena.take<float>(panels * LANES);
        balls.radius = arena.take<float>(panels * LANES);
        return balls;
    }

    void write_none(std::int64_t i, std::int64_t dim) const {
        for (std::int64_t d = 0; d < dim; ++d) centre_of(i, dim)[d * LANES] = 0;
        half_square[i] = __builtin_inff();
        radius[i] = -__builtin_inff();
    }

    // The first feature of a ball's centre; the next are LANES apart.
    float* centre_of(std::int64_t i, std::int64_t dim) const { return centre + i / LANES * dim * LANES + i % LANES; }
};

struct GroupedMap {
    std::int64_t dim;     // features, without those that were added
    Tiling tiles, blocks; // of prototypes, of tiles
    bool is_lifted;
    double inverse_length;  // of lifted prototypes; NaN where none is finite
    float added;            // of lifted rows: what was added to every sample, in lengths of a prototype
    float contrast[2][LANES];  // how far a lane is to the right of the middle of a tile, and how far below it
    float* prototypes;    // [blocks][LANES tiles][dim + 1][LANES], of length 1; the last row is what is added to a score
    Balls tile, block;    // [blocks] and [ceil(blocks / LANES)] panels
    Box* box;             // [blocks][LANES tiles]
    float* axes;          // [blocks][LANES tiles][dim][2] of the boxes

    GroupedMap(const Problem& p, Cells map)
        : dim(p.dim - p.lifted), tiles(map), blocks(tiles.tiles), is_lifted(p.lifted > 0), inverse_length(1), added(0) {
        for (int lane = 0; lane < LANES; ++lane) {
            contrast[0][lane] = static_cast<float>(lane % tiles.tile_cols) - static_cast<float>(tiles.tile_cols - 1) / 2;
            contrast[1][lane] = static_cast<float>(lane / tiles.tile_cols) - static_cast<float>(tiles.tile_rows - 1) / 2;
        }
    }

    std::int64_t num_places() const { return blocks.tiles.count() * LANES; }
    std::int64_t num_block_panels() const { return ceil_div(blocks.tiles.count(), LANES); }
    std::int64_t tile_elements() const { return (dim + 1) * LANES; }

    void take(Arena& arena) {
        prototypes = arena.take<float>(num_places() * tile_elements());
        tile = Balls::take(arena, blocks.tiles.count(), dim);
        block = Balls::take(arena, num_block_panels(), dim);
        box = arena.take<Box>(num_places());
        axes = arena.take<float>(num_places() * dim * 2);
    }

    // The prototype of a lane of a tile.
    std::int64_t unit_of(std::int64_t place, int lane) const {
        return tiles.members(blocks.members(place / LANES)[static_cast<int>(place % LANES)])[lane];
    }

    // Of lifted rows, the unit in which samples are seen.
    void find_unit(const Problem& p) {
        if (!is_lifted) return;
        inverse_length = __builtin_nan("");
        for (std::int64_t k = 0; k < p.num_prototypes && !(inverse_length == inverse_length); ++k) {
            inverse_length = inverse_norm(row(p.prototypes, k), p.dim);
        }
        const Row first = row(p.z, 0) + dim;
        with_elements(first, [&](const auto* x) { added = static_cast<float>(load_partial(x, 1)[0] * inverse_length); });
    }
};

// The mean of some balls' centres, or of points, and a radius that holds all: number i of `balls`. `centres` [dim][LANES], zeros for
// one that is not there, and `radii` [LANES], -inf for it.
inline void write_ball(const float* centres, const float* radii, std::int64_t dim, const Balls& balls, std::int64_t i) {
    const unsigned there = lanes_reaching(load_lanes(radii), splat_lanes(0));
    balls.write_none(i, dim);
    if (there == 0) return;
    float* centre = balls.centre_of(i, dim);
    const float share = 1 / static_cast<float>(__builtin_popcount(there));
    float half_square = 0;
    Lanes squares{};
    for (std::int64_t d = 0; d < dim; ++d) {
        const Lanes feature = load_lanes(centres + d * LANES);
        const float mean = sum(feature) * share;
        centre[d * LANES] = mean;
        half_square += mean * mean / 2;
        const Lanes apart = feature - splat_lanes(mean);
        squares = squares + apart * apart;
    }
    const float most = largest(square_root(squares) * (1 + BALL_ERROR) + load_lanes(radii));  // -inf of one that is not there
    balls.half_square[i] = half_square;
    balls.radius[i] = (most > 0 ? most : 0) * (1 + BALL_ERROR);
}

// The prototypes of a tile. One that is not there, or not finite, is at the origin, and -inf is added to its score.
inline void pack_tile(
    const Problem& p, const GroupedMap& map, std::int64_t place, const Members& members, const SearchOutput& result) {
    float* out = map.prototypes + place * map.tile_elements();
    float radii[LANES], there[LANES];
    for (int lane = 0; lane < LANES; ++lane) {
        const std::int64_t k = members[lane];
        double inverse = __builtin_nan("");
        float unit[MOST_FEATURES + LIFTED];
        if (k >= 0) inverse = result.inverse_prototype[k] = inverse_norm(row(p.prototypes, k), p.dim);
        const bool exists = inverse == inverse;
        if (exists) write_exact_unit(row(p.prototypes, k), inverse, p.dim, unit);
        else fill(unit, p.dim, 0.0f);
        for (std::int64_t d = 0; d < map.dim; ++d) out[d * LANES + lane] = unit[d];
        double in_all = 0;
        for (std::int64_t d = map.dim; d < p.dim && d < map.dim + 3; ++d) in_all += static_cast<double>(unit[d]);
        out[map.dim * LANES + lane] = exists ? static_cast<float>(in_all * static_cast<double>(map.added)) : -__builtin_inff();
        radii[lane] = exists ? 0 : -__builtin_inff();
        there[lane] = exists ? 1 : 0;
    }
    write_ball(out, radii, map.dim, map.tile, place);
    float* axes = map.axes + place * map.dim * 2;
    map.box[place] = box_of(out, load_lanes(there), map.tile.centre_of(place, map.dim), map.contrast, map.dim, axes);
}

// A block of tiles, with its prototypes.
inline void build_block(const Problem& p, const GroupedMap& map, std::int64_t block, const SearchOutput& result) {
    const Members tiles = map.blocks.members(block);
    for (int lane = 0; lane < LANES; ++lane) {
        const Members members = tiles[lane] < 0 ? Members{0, 0, 0, 0, 2} : map.tiles.members(tiles[lane]);
        pack_tile(p, map, block * LANES + lane, members, result);
    }
    write_ball(map.tile.centre + block * map.dim * LANES, map.tile.radius + block * LANES, map.dim, map.block, block);
}

// Tiles that are tried, and the share of what prototypes differ in that those of one tile may: all but a sixteenth where they are in
// no order.
constexpr std::int64_t TRIED_TILES = 16;
constexpr double MOST_WITHIN = 0.5;

// Whether prototypes of a tile are more alike than others, as far as a few tiles show. `scratch` is [3][dim].
inline bool is_in_order(const Problem& p, const GroupedMap& map, double* scratch) {
    const std::int64_t dim = map.dim, count = map.tiles.tiles.count();
    const Order order(count);
    double *of_tile = scratch, *of_all = scratch + dim, *x = scratch + 2 * dim;
    double squares = 0, between = 0, members_in_all = 0;
    for (std::int64_t d = 0; d < dim; ++d) of_all[d] = 0;
    for (std::int64_t t = 0; t < smaller(TRIED_TILES, count); ++t) {
        const Members members = map.tiles.members(order(t));
        double there = 0, square = 0;
        for (std::int64_t d = 0; d < dim; ++d) of_tile[d] = 0;
        for (int lane = 0; lane < LANES; ++lane) {
            const Row w = row(p.prototypes, members[lane] < 0 ? 0 : members[lane]);
            const double inverse = members[lane] < 0 ? __builtin_nan("") : inverse_norm(w, p.dim);
            if (!(inverse == inverse)) continue;
            float unit[MOST_FEATURES + LIFTED];
            write_exact_unit(w, inverse, p.dim, unit);
            there += 1;
            for (std::int64_t d = 0; d < dim; ++d) {
                x[d] = static_cast<double>(unit[d]);
                of_tile[d] += x[d];
                squares += x[d] * x[d];
            }
        }
        for (std::int64_t d = 0; d < dim; ++d) {
            square += of_tile[d] * of_tile[d];
            of_all[d] += of_tile[d];
        }
        members_in_all += there;
        between += there > 0 ? square / there : 0;
    }
    double common = 0;
    for (std::int64_t d = 0; d < dim; ++d) common += of_all[d] * of_all[d];
    common /= members_in_all > 0 ? members_in_all : 1;
    return squares - between <= MOST_WITHIN * (squares - common);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

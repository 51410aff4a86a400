// The map as a tree of tiles: tiles of prototypes, tiles of those tiles, each with a centre and the angle that it spans, or as balls
// and shells under the squared Euclidean distance (ball.h, shell.h).
//
// Of cones: a prototype w of a tile with centre c and radius a is at an angle of at least angle(z, c) - a from a sample z. Where one
// is known to be at an angle t, none of the tile can be the BMU unless angle(z, c) <= a + t, that is z . c >= cos a cos t - sin a
// sin t. This holds for vectors shorter than 1, too, each the shadow of one of length 1 in a space of one more dimension.
#pragma once

#include "cpu/search/pruned/shell.h"
#include "cpu/search/map_shape.h"
#include "cpu/runtime/arena.h"
#include "cpu/search/pruned/panel.h"

namespace vitsom {
namespace VITSOM_ISA {

// The tiles of one level. The members of those of level 0 are prototypes, else the tiles of the level below.
struct TileLevel {
    Tiling tiling;
    Radius* radius;        // [tiles]
    Shell* shell;          // [tiles] of balls
    bool* exists;          // [tiles] whether any member may be a BMU
    float* centre;         // [tiles][dim] of the ball, or of the cone, of length 1; 0 where the members have no direction in
                           // common. Of tiles of prototypes only where these are the top level: below it, the codes of the
                           // level above are enough
    Plane* plane;          // [tiles] of prototypes
    float* axes;           // [tiles][3][dim] of its plane
    Panel* panel;          // [tiles] of tiles
    ShellPanel* shells;    // [tiles] of tiles, of balls
    std::uint32_t* codes;  // [tiles][words][LANES]
    std::int64_t count() const { return tiling.tiles.count(); }
};

// Tiles of the top level are tried for every sample: with 1024 of them, a search of a map of 128 x 128 takes a fifth longer.
constexpr int MOST_LEVELS = 8;
constexpr std::int64_t MOST_AT_TOP = 256;

struct TileTree {
    bool is_of_balls;         // under the squared Euclidean distance, else of cones
    std::int64_t features;    // of a row
    std::int64_t dim, words;  // of a row, padded
    float slack;              // what the roundings of a score, but for its codes, come to at most; of balls in lengths of both rows
    float unit;               // of balls: what rows are multiplied with; 0 where there is no frame
    float reach;              // of balls: no prototype is longer
    float origin_square;      // of balls, of its length
    float shortest, longest;  // of balls: about as long as prototypes are
    float* seen_from;         // [dim] of balls: what rows are seen from
    int num_levels;
    TileLevel level[MOST_LEVELS];
    float contrast[2][LANES]; // how far a lane is to the right of the middle of a tile of prototypes, and how far below it
    float* origin;            // [dim] what codes are seen from
    std::int64_t num_roots;   // panels of LANES tiles of the top level
    Panel* root;              // [num_roots] around the origin
    ShellPanel* root_shells;  // [num_roots] of balls
    std::uint32_t* root_codes;

    TileTree(const Problem& p, Cells map)
        : is_of_balls(p.distance == Distance::squared_euclidean), features(p.dim), dim(padded(features)),
          words(dim / PanelCode::PER_WORD), unit(1), reach(1), num_levels(1) {
        slack = is_of_balls ? chain_error(dim) + 0x1p-20f : 4 * dot_error(dim);
        level[0].tiling = Tiling(map);
        while (top().count() > MOST_AT_TOP && num_levels < MOST_LEVELS) {
            level[num_levels].tiling = Tiling(top().tiling.tiles);
            ++num_levels;
        }
        origin_square = shortest = longest = 0;
        num_roots = ceil_div(top().count(), LANES);
        set_contrasts();
    }

    // In a tile one cell wide, the place of a lane and its square.
    void set_contrasts() {
        const Tiling& tiling = level[0].tiling;
        const float rows = static_cast<float>(tiling.tile_rows), cols = static_cast<float>(tiling.tile_cols);
        for (int lane = 0; lane < LANES; ++lane) {
            const float down = static_cast<float>(lane / tiling.tile_cols) - (rows - 1) / 2;
            const float across = static_cast<float>(lane % tiling.tile_cols) - (cols - 1) / 2;
            contrast[0][lane] = tiling.tile_cols == 1 ? down * down - (LANES * LANES - 1) / 12.0f : across;
            contrast[1][lane] = tiling.tile_rows == 1 ? across * across - (LANES * LANES - 1) / 12.0f : down;
        }
    }

    const TileLevel& top() const { return level[num_levels - 1]; }

    // Tiles of the top level, which a panel around the origin holds.
    Members tiles_of_root(std::int64_t root) const {
        return {root * LANES, 0, 1, static_cast<int>(smaller(LANES, top().count() - root * LANES)), 4};
    }

    void take(Arena& arena) {
        for (int l = 0; l < num_levels; ++l) {
            TileLevel& tiles = level[l];
            tiles.radius = arena.take<Radius>(tiles.count());
            tiles.shell = arena.take<Shell>(is_of_balls ? tiles.count() : 0);
            tiles.exists = arena.take<bool>(tiles.count());
            tiles.plane = arena.take<Plane>(l == 0 ? tiles.count() : 0);
            tiles.centre = arena.take<float>(l > 0 || num_levels == 1 ? tiles.count() * dim : 0);
            tiles.axes = arena.take<float>(l == 0 ? tiles.count() * 3 * dim : 0);
            tiles.panel = arena.take<Panel>(l == 0 ? 0 : tiles.count());
            tiles.shells = arena.take<ShellPanel>(l > 0 && is_of_balls ? tiles.count() : 0);
            tiles.codes = arena.take<std::uint32_t>(l == 0 ? 0 : tiles.count() * words * LANES);
        }
        origin = arena.take<float>(dim);
        seen_from = arena.take<float>(is_of_balls ? dim : 0);
        root = arena.take<Panel>(num_roots);
        root_shells = arena.take<ShellPanel>(is_of_balls ? num_roots : 0);
        root_codes = arena.take<std::uint32_t>(num_roots * words * LANES);
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

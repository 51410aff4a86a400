// How the tree of tiles is built, from the prototypes up.
#pragma once

#include "cpu/search/search_output.h"
#include "cpu/search/pruned/tile_tree.h"

namespace vitsom {
namespace VITSOM_ISA {

// Of a thread, members side by side: the prototypes of a tile, or of all tiles of a block, and the tiles of a tile.
struct BuildScratch {
    float* prototypes;  // [tiles][dim][LANES]
    float* tiles;       // [dim][LANES]

    static BuildScratch take(Arena& arena, const TileTree& tree) {
        const std::int64_t tiles = tree.num_levels == 1 ? 1 : LANES;
        return {arena.take<float>(tiles * LANES * tree.dim), arena.take<float>(LANES * tree.dim)};
    }
};

// The mean of 64 prototypes.
inline void find_origin(const Problem& p, TileTree& tree, float* unit) {
    const std::int64_t members = smaller(64, p.num_prototypes);
    const Order order(p.num_prototypes);
    fill(tree.origin, tree.dim, 0.0f);
    for (std::int64_t i = 0; i < members; ++i) {
        const Row x = row(p.prototypes, order(i));
        const double inverse = inverse_norm(x, p.dim);
        if (!(inverse == inverse)) continue;
        write_unit(x, inverse, p.dim, tree.dim, unit);
        for (std::int64_t d = 0; d < tree.dim; d += WIDTH) store(tree.origin + d, load(tree.origin + d) + load(unit + d));
    }
    for (std::int64_t d = 0; d < tree.dim; d += WIDTH) {
        store(tree.origin + d, load(tree.origin + d) * (1 / static_cast<float>(members)));
    }
}

// The prototypes of a tile as unit vectors side by side, and the factors that made them so. Returns 0 for each lane whose prototype
// may be a BMU, -inf for the others. The prototypes of `next` are fetched meanwhile.
inline Lanes read_members(
    const Problem& p, const Members& members, const Members& next, std::int64_t dim, float* units, double (&inverse)[LANES]) {
    // Rows of a tile are in several places of memory, more than the processor foresees: without fetching them a search of a map of
    // 256 x 256 takes 4 % longer.
    for (int lane = 0; lane < LANES; ++lane) {  // a loop of its own: no norm waits for another
        if (next[lane] >= 0) fetch(row(p.prototypes, next[lane]), p.dim);
        inverse[lane] = members[lane] < 0 ? __builtin_nan("") : squared_norm(row(p.prototypes, members[lane]), p.dim);
    }
    for (int lane = 0; lane < LANES; ++lane) inverse[lane] = inverse_norm(inverse[lane]);
    Lanes present = splat_lanes(-__builtin_inff());
    for (int lane = 0; lane < LANES; ++lane) {
        const bool exists = inverse[lane] == inverse[lane];
        const Row x = row(p.prototypes, exists ? members[lane] : 0);
        write_unit(x, exists ? inverse[lane] : 0, exists ? p.dim : 0, dim, units + lane * WIDTH, SIDE_BY_SIDE);
        if (exists) set_lane(present, lane, 0.0f);
    }
    return present;
}

// The cones of some tiles, for a panel of them. Returns 0 for each lane whose tile holds any that may be a BMU, -inf for the others.
inline Lanes read_cones(const TileLevel& level, const Members& tiles, Panel& panel) {
    Lanes present = splat_lanes(-__builtin_inff());
    panel.cosine = splat_lanes(1);
    panel.sine = Lanes{};
    for (int lane = 0; lane < LANES; ++lane) {
        if (tiles[lane] < 0 || !level.exists[tiles[lane]]) continue;
        set_lane(present, lane, 0.0f);
        set_lane(panel.cosine, lane, level.radius[tiles[lane]].cosine);
        set_lane(panel.sine, lane, level.radius[tiles[lane]].sine);
    }
    return present;
}

// The plane and the cone of a tile of prototypes. The axis of the cone is written in vectors `stride` apart.
inline Plane describe_members(
    const TileTree& tree, const float* members, const Lanes& present, float* axes, float* axis, std::int64_t stride,
    Radius& radius) {
    contrast_members(members, tree.contrast, tree.dim, axes);
    normalise(axes, tree.dim);
    complete_axes(axes, tree.dim);
    const Plane plane = plane_of(members, present, axes, tree.dim);
    radius = radius_of(static_cast<double>(find_axis(plane, present, axes, tree.dim, axis, stride)) - tree.slack);
    return plane;
}

inline void build_tile(
    const Problem& p, const TileTree& tree, std::int64_t tile, std::int64_t next, const SearchOutput& result, float* prototypes,
    float* axis, std::int64_t stride) {
    const TileLevel& level = tree.level[0];
    const Members members = level.tiling.members(tile);
    double inverse[LANES];
    const Lanes present = read_members(p, members, level.tiling.members(next), tree.dim, prototypes, inverse);
    for (int lane = 0; lane < LANES; ++lane) {
        if (members[lane] < 0) continue;
        result.inverse_prototype[members[lane]] = inverse[lane];
    }
    level.plane[tile] =
        describe_members(tree, prototypes, present, level.axes + 3 * tile * tree.dim, axis, stride, level.radius[tile]);
    level.exists[tile] = largest(present) == 0;
}

// A tile of these tiles of the level below, the axes of whose cones are its members.
inline void build_tile_of_tiles(const TileTree& tree, int l, std::int64_t tile, const Members& tiles, const float* members) {
    const TileLevel &level = tree.level[l], &below = tree.level[l - 1];
    Panel& panel = level.panel[tile];
    const Lanes present = read_cones(below, tiles, panel);
    float* centre = level.centre + tile * tree.dim;
    sum_members(members, tree.dim, centre);
    normalise(centre, tree.dim);
    const float least = narrow_cone(members, present, panel.cosine, panel.sine, tree.dim, centre);
    level.radius[tile] = radius_of(static_cast<double>(least) - 2 * tree.slack);
    encode_members(members, present, centre, tree.origin, tree.dim, panel, level.codes + tile * tree.words * LANES);
    level.exists[tile] = largest(present) == 0;
}

inline void build_tile_of_tiles(const TileTree& tree, int l, std::int64_t tile, float* scratch) {
    const TileLevel& below = tree.level[l - 1];
    const Members tiles = tree.level[l].tiling.members(tile);
    for (int lane = 0; lane < LANES; ++lane) {
        const float* axis = tiles[lane] < 0 ? nullptr : below.centre + tiles[lane] * tree.dim;
        write_member(axis, tree.dim, scratch + lane * WIDTH);
    }
    build_tile_of_tiles(tree, l, tile, tiles, scratch);
}

// Tiles between the one that is built and the one whose prototypes are fetched: with 1, a search of a map of 512 x 512 takes 2 % longer.
constexpr int AHEAD = 2;

// A tile of the level above the prototypes' with all its tiles. The prototypes are at hand, so that its cone need not hold those of
// its tiles: it is a fifth narrower, and a search of a map of 512 x 512 visits 30 % fewer of them.
inline void build_block(const Problem& p, const TileTree& tree, std::int64_t block, const SearchOutput& result, BuildScratch scratch) {
    const TileLevel &level = tree.level[1], &below = tree.level[0];
    const Members tiles = level.tiling.members(block);
    const Members tiles_of_next = level.tiling.members(smaller(block + 1, level.count() - 1));
    const auto prototypes = [&](int lane) { return scratch.prototypes + lane * LANES * tree.dim; };
    for (int lane = 0; lane < LANES; ++lane) {
        float* axis = scratch.tiles + lane * WIDTH;
        if (tiles[lane] < 0) {
            write_member(nullptr, tree.dim, axis);
            continue;
        }
        const std::int64_t next = lane + AHEAD < LANES ? tiles[lane + AHEAD] : tiles_of_next[lane + AHEAD - LANES];
        build_tile(p, tree, tiles[lane], next < 0 ? tiles[lane] : next, result, prototypes(lane), axis, SIDE_BY_SIDE);
    }
    build_tile_of_tiles(tree, 1, block, tiles, scratch.tiles);
    float least = 1;
    for (int lane = 0; lane < LANES; ++lane) {
        if (tiles[lane] < 0) continue;
        const Lanes along = dot_members(prototypes(lane), level.centre + block * tree.dim, tree.dim);
        const float least_of_tile = least_along(along, below.plane[tiles[lane]].slack);
        if (!(least_of_tile >= least)) least = least_of_tile;
    }
    level.radius[block] = radius_of(static_cast<double>(least) - tree.slack);
}

inline void build_root(const TileTree& tree, std::int64_t root, float* scratch) {
    const TileLevel& top = tree.top();
    const Members tiles = tree.tiles_of_root(root);
    for (int lane = 0; lane < LANES; ++lane) {
        const std::int64_t tile = tiles[lane];
        write_member(tile < 0 ? nullptr : top.centre + tile * tree.dim, tree.dim, scratch + lane * WIDTH);
    }
    Panel& panel = tree.root[root];
    const Lanes present = read_cones(top, tiles, panel);
    encode_members(
        scratch, present, tree.origin, tree.origin, tree.dim, panel, tree.root_codes + root * tree.words * LANES);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

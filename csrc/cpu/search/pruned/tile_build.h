// How the tree of tiles is built, from the prototypes up.
#pragma once

#include "cpu/search/search_output.h"
#include "cpu/search/pruned/tile_tree.h"
#include "cpu/simd/powers.h"

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

// How many times as far from the origin as from their centre prototypes have to be, squared, to be seen from there: roundings are in
// proportion to the square of what is seen. From the origin, those of one length are in one shell.
constexpr double FAR_FROM_ORIGIN = 64;

// Of balls: what they are seen from, in a unit of about the longest.
inline void find_frame_of_balls(const Problem& p, TileTree& tree) {
    const Frame frame = find_frame(p, tree.origin);
    tree.unit = frame.unit;
    fill(tree.seen_from, tree.dim, 0.0f);
    if (!(frame.unit > 0)) return;
    if (frame.far_square > FAR_FROM_ORIGIN * frame.square) {
        std::memcpy(tree.seen_from, tree.origin, static_cast<std::size_t>(p.dim) * sizeof(float));
        fill(tree.origin, tree.dim, 0.0f);
        return;
    }
    const double length = __builtin_sqrt(frame.far_square + frame.square);
    tree.unit = length >= SHORTEST_SEEN && length <= LONGEST_SEEN ? static_cast<float>(1 / power_of_two_below(length)) : 0;
    for (std::int64_t d = 0; d < tree.dim; d += WIDTH) store(tree.origin + d, load(tree.origin + d) * tree.unit);
    tree.origin_square = dot_padded(tree.origin, tree.origin, tree.dim);
}

// The mean of 64 prototypes.
inline void find_origin(const Problem& p, TileTree& tree, float* unit) {
    const std::int64_t members = smaller(64, p.num_prototypes);
    const Order order(p.num_prototypes);
    fill(tree.origin, tree.dim, 0.0f);
    if (tree.is_of_balls) return find_frame_of_balls(p, tree);
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

// Of balls, prototypes that are too far away to be anyone's: there are nearer ones.
inline void leave_out_distant(const TileTree& tree, float* members, double (&inverse)[LANES], Lanes& squares, Lanes& present) {
    for (int lane = 0; lane < LANES; ++lane) {
        if (squares[lane] < BEYOND * BEYOND) continue;
        write_member(nullptr, tree.dim, members + lane * WIDTH);
        set_lane(squares, lane, 0.0f);
        set_lane(present, lane, -__builtin_inff());
        inverse[lane] = __builtin_nan("");
    }
}

// The prototypes of a tile as unit vectors side by side, and the factors that made them so. Returns 0 for each lane whose prototype
// may be a BMU, -inf for the others. The prototypes of `next` are fetched meanwhile. `squares` are their squared lengths, of balls.
inline Lanes read_members(
    const Problem& p, const TileTree& tree, const Members& members, const Members& next, float* units, double (&inverse)[LANES],
    Lanes& squares) {
    // Rows of a tile are in several places of memory, more than the processor foresees: without fetching them a search of a map of
    // 256 x 256 takes 4 % longer.
    for (int lane = 0; lane < LANES; ++lane) {  // a loop of its own: no norm waits for another
        if (next[lane] >= 0) fetch(row(p.prototypes, next[lane]), p.dim);
        // Of balls, their squares as they are seen tell those that are no numbers.
        if (members[lane] < 0) inverse[lane] = __builtin_nan("");
        else inverse[lane] = tree.is_of_balls ? 1 : squared_norm(row(p.prototypes, members[lane]), p.dim);
    }
    for (int lane = 0; lane < LANES; ++lane) inverse[lane] = inverse_norm(inverse[lane]);
    Lanes present = splat_lanes(-__builtin_inff());
    for (int lane = 0; lane < LANES; ++lane) {
        const bool exists = inverse[lane] == inverse[lane];
        const Row x = row(p.prototypes, exists ? members[lane] : 0);
        const std::int64_t count = exists ? tree.features : 0;
        if (tree.is_of_balls) write_centred(x, tree.seen_from, tree.unit, count, tree.dim, units + lane * WIDTH, SIDE_BY_SIDE);
        else write_unit(x, exists ? inverse[lane] : 0, count, tree.dim, units + lane * WIDTH, SIDE_BY_SIDE);
        if (exists) set_lane(present, lane, 0.0f);
    }
    if (tree.is_of_balls) {
        squares = squares_of_members(units, tree.dim);
        leave_out_distant(tree, units, inverse, squares, present);
    }
    return present;
}

// The cones of some tiles, for a panel of them. Returns 0 for each lane whose tile holds any that may be a BMU, -inf for the others.
inline Lanes read_cones(const TileLevel& level, const Members& tiles, Panel& panel) {
    Lanes present = splat_lanes(-__builtin_inff());
    panel.cosine = splat_lanes(1);
    panel.sine = Lanes{};
    panel.more = Lanes{};
    for (int lane = 0; lane < LANES; ++lane) {
        if (tiles[lane] < 0 || !level.exists[tiles[lane]]) continue;
        set_lane(present, lane, 0.0f);
        set_lane(panel.cosine, lane, level.radius[tiles[lane]].cosine);
        set_lane(panel.sine, lane, level.radius[tiles[lane]].sine);
        set_lane(panel.more, lane, level.radius[tiles[lane]].more);
    }
    return present;
}

// The plane and the cone of a tile of prototypes. The axis of the cone is written in vectors `stride` apart.
inline Plane describe_members(
    const TileTree& tree, const float* members, const Lanes& squares, const Lanes& present, float* axes, float* axis,
    std::int64_t stride, Radius& radius, Shell* shell) {
    if (tree.is_of_balls) {
        *shell = shell_of(squares, present, tree.dim);
        return describe_ball(members, squares, present, tree.contrast, tree.dim, axes, axis, stride, radius);
    }
    contrast_members(members, tree.contrast, tree.dim, axes);
    normalise(axes, tree.dim);
    complete_axes(axes, tree.dim);
    Lanes squared;
    const Plane plane = plane_of(members, present, axes, tree.dim, false, 1, squared);
    radius = radius_of(static_cast<double>(find_axis(plane, present, axes, tree.dim, axis, stride)) - tree.slack);
    return plane;
}

inline void build_tile(
    const Problem& p, const TileTree& tree, std::int64_t tile, std::int64_t next, const SearchOutput& result, float* prototypes,
    float* axis, std::int64_t stride) {
    const TileLevel& level = tree.level[0];
    const Members members = level.tiling.members(tile);
    double inverse[LANES];
    Lanes squares{};
    const Lanes present = read_members(p, tree, members, level.tiling.members(next), prototypes, inverse, squares);
    for (int lane = 0; lane < LANES; ++lane) {
        if (members[lane] < 0) continue;
        result.inverse_prototype[members[lane]] = inverse[lane];
    }
    level.plane[tile] = describe_members(
        tree, prototypes, squares, present, level.axes + 3 * tile * tree.dim, axis, stride, level.radius[tile], level.shell + tile);
    level.exists[tile] = largest(present) == 0;
}

// Of balls: a score is less by half of the square of a centre, which what is needed of the ball then knows, and of the shells.
inline void count_squares(
    const TileLevel& below, const Members& tiles, const float* members, std::int64_t n, Panel& panel, ShellPanel& shells) {
    const Lanes half_square = 0.5f * squares_of_members(members, n);
    shells.along_origin = panel.bias;
    panel.bias = panel.bias - half_square;
    panel.more = panel.more + half_square;
    Lanes most{}, least{};
    for (int lane = 0; lane < LANES; ++lane) {
        if (tiles[lane] < 0 || !below.exists[tiles[lane]]) {
            set_lane(shells.along_origin, lane, 0.0f);
            continue;
        }
        set_lane(most, lane, below.shell[tiles[lane]].most);
        set_lane(least, lane, below.shell[tiles[lane]].least);
    }
    shells.longer = {most, 0.5f * most - half_square};
    shells.shorter = {least, 0.5f * least - half_square};
}

// A tile of these tiles of the level below, the axes of whose cones are its members.
inline void build_tile_of_tiles(const TileTree& tree, int l, std::int64_t tile, const Members& tiles, const float* members) {
    const TileLevel &level = tree.level[l], &below = tree.level[l - 1];
    Panel& panel = level.panel[tile];
    const Lanes present = read_cones(below, tiles, panel);
    float* centre = level.centre + tile * tree.dim;
    if (tree.is_of_balls) {
        mean_of_members(members, present, tree.dim, centre);
        const float radius = shrink_ball(members, present, panel.sine, tree.dim, centre);
        level.radius[tile] = ball_of(radius > 0 ? radius : 0, dot_padded(centre, centre, tree.dim));
        level.shell[tile] = Shell::none();
        for (int lane = 0; lane < LANES; ++lane) {
            if (tiles[lane] >= 0 && below.exists[tiles[lane]]) level.shell[tile].widen_to(below.shell[tiles[lane]]);
        }
    } else {
        sum_members(members, tree.dim, centre);
        normalise(centre, tree.dim);
        const float least = narrow_cone(members, present, panel.cosine, panel.sine, tree.dim, centre);
        level.radius[tile] = radius_of(static_cast<double>(least) - 2 * tree.slack);
    }
    encode_members(members, present, centre, tree.origin, tree.dim, panel, level.codes + tile * tree.words * LANES);
    if (tree.is_of_balls) count_squares(below, tiles, members, tree.dim, panel, level.shells[tile]);
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

// Tiles between the one that is built and the one whose prototypes are fetched: with 1, a search of a map of 512 x 512 takes 2 %
// longer.
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
    if (tree.is_of_balls) {
        float most = 0;
        for (int lane = 0; lane < LANES; ++lane) {
            if (tiles[lane] < 0) continue;
            const Lanes squares = square_distances(prototypes(lane), level.centre + block * tree.dim, tree.dim);
            const unsigned there = lanes_reaching(below.plane[tiles[lane]].slack, splat_lanes(-__FLT_MAX__));
            const float radius = radius_from(squares, there, tree.dim);
            if (!(radius <= most)) most = radius;
        }
        const float* centre = level.centre + block * tree.dim;
        level.radius[block] = ball_of(most, dot_padded(centre, centre, tree.dim));
        return;
    }
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
    if (tree.is_of_balls) count_squares(top, tiles, scratch, tree.dim, panel, tree.root_shells[root]);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// How the tree of tiles is built, from the prototypes up.
#pragma once

#include "search_result.h"
#include "tile_tree.h"

namespace vitsom {
namespace VITSOM_ISA {

// The mean of 64 prototypes.
template <class T>
void find_origin(const Problem& p, TileTree& tree, float* unit) {
    const std::int64_t members = smaller(64, p.num_prototypes);
    const Order order(p.num_prototypes);
    fill(tree.origin, tree.dim, 0.0f);
    for (std::int64_t i = 0; i < members; ++i) {
        const T* x = row<T>(p.prototypes, order(i));
        const double inverse = inverse_norm(x, p.dim);
        if (!(inverse == inverse)) continue;
        write_unit(x, inverse, p.dim, tree.dim, unit);
        for (std::int64_t d = 0; d < tree.dim; d += WIDTH) store(tree.origin + d, load(tree.origin + d) + load(unit + d));
    }
    for (std::int64_t d = 0; d < tree.dim; d += WIDTH) {
        store(tree.origin + d, load(tree.origin + d) * (1 / static_cast<float>(members)));
    }
    tree.origin_squared = squared_norm(tree.origin, tree.dim);
}

// The direction of the sum of the members, nullptr for one that is none: the centre of their tile.
inline void find_direction(const float* const (&member)[LANES], std::int64_t dim, float* centre) {
    Vec squares{};
    for (std::int64_t d = 0; d < dim; d += WIDTH) {
        Vec total{};
        for (int lane = 0; lane < LANES; ++lane) {
            if (member[lane]) total += load(member[lane] + d);
        }
        squares += total * total;
        store(centre + d, total);
    }
    const float factor = normalising(sum(squares), 0x1p-20f);
    for (std::int64_t d = 0; d < dim; d += WIDTH) store(centre + d, load(centre + d) * factor);
}

// Of the cone around a centre that holds those of the members: `along` is their product with the centre.
inline Radius enclosing(
    const float* const (&member)[LANES], const Radius (&radius)[LANES], const Vec& along, float slack) {
    double least = 1;
    for (int lane = 0; lane < LANES; ++lane) {
        if (!member[lane]) continue;
        const double cosine = static_cast<double>(along[lane]) - slack;
        if (!(cosine > 0) || !(radius[lane].cosine > 0)) return EVERYTHING;
        const double sum = cosine * radius[lane].cosine - __builtin_sqrt(1 - cosine * cosine) * radius[lane].sine;
        if (!(sum >= least)) least = sum;
    }
    return radius_of(least);
}

// How far to the right of the tile's middle a lane is, and how far below it; in a tile one cell wide, its place and its square.
inline void contrasts_of(const Tiling& tiling, float (&contrast)[2][LANES]) {
    const float rows = static_cast<float>(tiling.tile_rows), cols = static_cast<float>(tiling.tile_cols);
    for (int lane = 0; lane < LANES; ++lane) {
        const float down = static_cast<float>(lane / tiling.tile_cols) - (rows - 1) / 2;
        const float across = static_cast<float>(lane % tiling.tile_cols) - (cols - 1) / 2;
        contrast[0][lane] = tiling.tile_cols == 1 ? down * down - (LANES * LANES - 1) / 12.0f : across;
        contrast[1][lane] = tiling.tile_rows == 1 ? across * across - (LANES * LANES - 1) / 12.0f : down;
    }
}

// Of the cone around a centre that holds `count` unit vectors.
inline Radius enclosing(const float* const* unit, std::int64_t count, const float* centre, std::int64_t dim, float slack) {
    const float* const axis[1] = {centre};
    float least = 1;
    for (std::int64_t first = 0; first < count; first += 4) {
        const float* x[4];
        for (int r = 0; r < 4; ++r) x[r] = unit[smaller(first + r, count - 1)];
        float along[1][4];
        dot_four<1>(x, axis, dim, along);
        for (int r = 0; r < 4; ++r) least = along[0][r] < least ? along[0][r] : least;
    }
    return radius_of(static_cast<double>(least) - slack);
}

// A tile of prototypes; `units` [LANES][dim] receives them as unit vectors. Those of `next` are fetched meanwhile.
template <class T>
void build_tile(
    const Problem& p, const TileTree& tree, std::int64_t tile, std::int64_t next, const Search& result, float* units) {
    const TileLevel& level = tree.level[0];
    const float* member[LANES];
    const Members members = level.tiling.members(tile), next_members = level.tiling.members(next);
    level.exists[tile] = false;
    for (int lane = 0; lane < LANES; ++lane) {
        const std::int64_t k = members[lane], next_k = next_members[lane];
        member[lane] = nullptr;
        if (k < 0) continue;
        const T* x = row<T>(p.prototypes, k);
        if (next_k >= 0) fetch(row<T>(p.prototypes, next_k), p.dim);
        const double inverse = tree.inverse[k] = inverse_norm(x, p.dim);
        result.inverse_prototype[k] = static_cast<float>(inverse);
        if (!(inverse == inverse)) continue;
        member[lane] = units + lane * tree.dim;
        level.exists[tile] = true;
        write_unit(x, inverse, p.dim, tree.dim, units + lane * tree.dim);
    }
    float* centre = level.centre + tile * tree.dim;
    float* axes = level.axes + 2 * tile * tree.dim;
    float contrast[2][LANES];
    contrasts_of(level.tiling, contrast);
    find_axes(member, contrast, tree.dim, centre, axes);
    level.plane[tile] = plane_of(member, centre, axes, tree.dim);
    const Vec along = level.plane[tile].along - level.plane[tile].present;
    level.radius[tile] = radius_of(static_cast<double>(-largest(-along)) - tree.slack);
}

// A tile of the tiles of the level below.
inline void build_tile_of_tiles(const TileTree& tree, int l, std::int64_t tile) {
    const TileLevel &level = tree.level[l], &below = tree.level[l - 1];
    const float* member[LANES];
    Radius radius[LANES];
    const Members members = level.tiling.members(tile);
    level.exists[tile] = false;
    for (int lane = 0; lane < LANES; ++lane) {
        const std::int64_t child = members[lane];
        member[lane] = child >= 0 && below.exists[child] ? below.centre + child * tree.dim : nullptr;
        if (!member[lane]) continue;
        radius[lane] = below.radius[child];
        level.exists[tile] = true;
    }
    float* centre = level.centre + tile * tree.dim;
    find_direction(member, tree.dim, centre);
    Panel& panel = level.panel[tile];
    encode_members(member, radius, centre, 1, tree.origin, tree.dim, panel, level.codes + tile * tree.words * LANES);
    level.radius[tile] = enclosing(member, radius, panel.along, tree.slack);
}

// A tile of the level above the prototypes' with all its tiles; `units` [LANES * LANES][dim] receives the prototypes. Those are at
// hand, so that its cone need not hold those of its tiles: it is a fifth narrower, and a search of a map of 512 x 512 visits 30 %
// fewer of them.
template <class T>
void build_block(const Problem& p, const TileTree& tree, std::int64_t block, const Search& result, float* units) {
    const TileLevel &level = tree.level[1], &below = tree.level[0];
    const Members members = level.tiling.members(block);
    std::int64_t tile[LANES + 1], num_tiles = 0, count = 0;
    for (int place = 0; place < LANES; ++place) {
        tile[num_tiles] = members[place];
        num_tiles += members[place] >= 0;
    }
    tile[num_tiles] = level.tiling.members(smaller(block + 1, level.count() - 1))[0];
    const float* unit[LANES * LANES];
    for (std::int64_t i = 0; i < num_tiles; ++i) {
        float* first = units + i * LANES * tree.dim;
        build_tile<T>(p, tree, tile[i], tile[i + 1], result, first);
        for (int lane = 0; lane < LANES; ++lane) {
            unit[count] = first + lane * tree.dim;
            count += below.plane[tile[i]].present[lane] == 0;
        }
    }
    build_tile_of_tiles(tree, 1, block);
    level.radius[block] = enclosing(unit, count, level.centre + block * tree.dim, tree.dim, tree.slack);
}

inline void build_root(const TileTree& tree, std::int64_t root) {
    const TileLevel& top = tree.top();
    const float* member[LANES];
    Radius radius[LANES];
    for (int lane = 0; lane < LANES; ++lane) {
        const std::int64_t tile = root * LANES + lane;
        member[lane] = tile < top.count() && top.exists[tile] ? top.centre + tile * tree.dim : nullptr;
        if (member[lane]) radius[lane] = top.radius[tile];
    }
    encode_members(
        member, radius, tree.origin, tree.origin_squared, tree.origin, tree.dim, tree.root[root],
        tree.root_codes + root * tree.words * LANES);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// The map as a tree of tiles: tiles of prototypes, tiles of those tiles, each with a centre and the angle that it spans.
//
// A prototype w of a tile with centre c and radius a is at an angle of at least angle(z, c) - a from a sample z. Where some prototype
// is known to be at an angle t, none of the tile can be the BMU unless angle(z, c) <= a + t, that is z . c >= cos a cos t - sin a sin t.
// This holds for vectors shorter than 1, too, each the shadow of one of length 1 in a space of one more dimension.
#pragma once

#include "map_shape.h"
#include "memory.h"
#include "plane.h"
#include "search_result.h"

namespace vitsom {
namespace VITSOM_ISA {

// The tiles of one level. The members of those of level 0 are prototypes, else the tiles of the level below.
struct TileLevel {
    Tiling tiling;
    float* centre;         // [tiles][dim] of length 1; 0 where the members have no direction in common
    Radius* radius;        // [tiles]
    bool* exists;          // [tiles] whether any member may be a BMU
    Plane* plane;          // [tiles] of prototypes
    float* axes;           // [tiles][2][dim]
    Panel* panel;          // [tiles] of tiles
    std::uint32_t* codes;  // [tiles][words][LANES]

    std::int64_t count() const { return tiling.tiles.count(); }
};

// Tiles of the top level are tried for every sample: with 1024 of them, a search of a map of 128 x 128 takes a fifth longer.
constexpr int MOST_LEVELS = 8;
constexpr std::int64_t MOST_AT_TOP = 256;

struct TileTree {
    std::int64_t dim, words;  // of a row, padded
    float slack;              // what the roundings of a score, but for its codes, come to at most
    int num_levels;
    TileLevel level[MOST_LEVELS];
    float* origin;            // [dim] what all are seen from
    double origin_squared;
    double* inverse;          // [num_prototypes] 1 / max(|w|, eps), NaN for a row that is not finite
    std::int64_t num_roots;   // panels of LANES tiles of the top level
    Panel* root;              // [num_roots] around the origin
    std::uint32_t* root_codes;

    TileTree(const Problem& p, Cells map) : dim(padded(p.dim)), words(dim / Int8::PER_WORD), num_levels(1) {
        slack = 4 * dot_error(dim);
        level[0].tiling = Tiling(map);
        while (top().count() > MOST_AT_TOP && num_levels < MOST_LEVELS) {
            level[num_levels].tiling = Tiling(top().tiling.tiles);
            ++num_levels;
        }
        num_roots = ceil_div(top().count(), LANES);
    }

    const TileLevel& top() const { return level[num_levels - 1]; }

    void take(Arena& arena, const Problem& p) {
        for (int l = 0; l < num_levels; ++l) {
            TileLevel& tiles = level[l];
            tiles.centre = arena.take<float>(tiles.count() * dim);
            tiles.radius = arena.take<Radius>(tiles.count());
            tiles.exists = arena.take<bool>(tiles.count());
            tiles.plane = arena.take<Plane>(l == 0 ? tiles.count() : 0);
            tiles.axes = arena.take<float>(l == 0 ? tiles.count() * 2 * dim : 0);
            tiles.panel = arena.take<Panel>(l == 0 ? 0 : tiles.count());
            tiles.codes = arena.take<std::uint32_t>(l == 0 ? 0 : tiles.count() * words * LANES);
        }
        origin = arena.take<float>(dim);
        inverse = arena.take<double>(p.num_prototypes);
        root = arena.take<Panel>(num_roots);
        root_codes = arena.take<std::uint32_t>(num_roots * words * LANES);
    }
};

// A row of length 1, padded.
template <class T>
void write_unit(const T* x, double inverse, std::int64_t count, std::int64_t dim, float* out) {
    const float factor = static_cast<float>(inverse * 0x1p32);
    for_each_vector(count, [&](std::int64_t d, auto load, auto) { store(out + d, load(x + d) * 0x1p-32f * factor); });
    for (std::int64_t d = ceil_div(count, WIDTH) * WIDTH; d < dim; d += WIDTH) store(out + d, Vec{});
}

// Rows of a tile are in several places of memory, more than the processor foresees: without this a search of a map of 256 x 256
// takes 4 % longer.
template <class T>
void fetch(const T* x, std::int64_t count) {
    for (std::int64_t d = 0; d < count; d += 64 / static_cast<std::int64_t>(sizeof(T))) __builtin_prefetch(x + d, 0, 2);
}

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

// A tile of prototypes; `units` [LANES][dim] receives them as unit vectors.
template <class T>
void build_tile(const Problem& p, const TileTree& tree, std::int64_t tile, const Search& result, float* units) {
    const TileLevel& level = tree.level[0];
    const float* member[LANES];
    Radius radius[LANES];
    const Members members = level.tiling.members(tile), next_members = level.tiling.members(smaller(tile + 1, level.count() - 1));
    level.exists[tile] = false;
    for (int lane = 0; lane < LANES; ++lane) {
        const std::int64_t k = members[lane], next = next_members[lane];
        member[lane] = nullptr;
        if (k < 0) continue;
        const T* x = row<T>(p.prototypes, k);
        if (next >= 0) fetch(row<T>(p.prototypes, next), p.dim);
        const double inverse = tree.inverse[k] = inverse_norm(x, p.dim);
        result.inverse_prototype[k] = static_cast<float>(inverse);
        if (!(inverse == inverse)) continue;
        member[lane] = units + lane * tree.dim;
        radius[lane] = POINT;
        level.exists[tile] = true;
        write_unit(x, inverse, p.dim, tree.dim, units + lane * tree.dim);
    }
    float* centre = level.centre + tile * tree.dim;
    float* axes = level.axes + 2 * tile * tree.dim;
    float contrast[2][LANES];
    contrasts_of(level.tiling, contrast);
    find_axes(member, contrast, tree.dim, centre, axes);
    level.plane[tile] = plane_of(member, centre, axes, tree.dim);
    level.radius[tile] = enclosing(member, radius, level.plane[tile].along, tree.slack);
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

// The samples on their way through the tree of tiles: how far each has got, and what a thread knows of its block of them.
#pragma once

#include "cpu/search/nearest.h"
#include "cpu/search/pruned/reach.h"

namespace vitsom {
namespace VITSOM_ISA {

// How far the search of a sample has got.
struct Progress {
    Nearest nearest;
    std::int32_t first_tile;  // in which it began
    float threshold;
    float along_origin;  // its product with the origin of the codes
};

// All samples, as the walks of all threads leave them.
struct Seekers {
    const std::int64_t* rows;  // [batch] which samples they are
    Progress* progress;        // [batch]
    std::int32_t* order;       // [batch] by their first tile
    std::int32_t* next;        // [tiles of level 0 + 1]

    static Seekers take(Arena& arena, const TileTree& tree, const std::int64_t* rows, std::int64_t batch) {
        Seekers all{};
        all.rows = rows;
        all.progress = arena.take<Progress>(batch);
        all.order = arena.take<std::int32_t>(batch);
        all.next = arena.take<std::int32_t>(tree.level[0].count() + 1);
        return all;
    }

    // Samples that go the same way go together: they need the same tiles, whose prototypes are then still in the cache.
    void sort(std::int64_t batch, std::int64_t tiles) {
        for (std::int64_t tile = 0; tile <= tiles; ++tile) next[tile] = 0;
        for (std::int64_t i = 0; i < batch; ++i) ++next[progress[i].first_tile + 1];
        for (std::int64_t tile = 0; tile < tiles; ++tile) next[tile + 1] += next[tile];
        for (std::int64_t i = 0; i < batch; ++i) order[next[progress[i].first_tile]++] = static_cast<std::int32_t>(i);
    }
};

// Tiles that a sample follows down the tree. Of four the first candidates are better, and one in 25 tiles fewer is looked into,
// but on 20 maps of 64 x 64 to 256 x 256 the whole search took 2 % longer.
constexpr int FOLLOWED = 2;

// Samples that go down the tree side by side, their products with a panel in registers.
constexpr int WALK_ROWS = WIDTH == LANES ? TILE_ROWS : TILE_ROWS * TILE_COLS / LANES;

// The tiles, of one level, that each of some samples has come to.
struct Paths {
    std::int64_t tile[WALK_ROWS][FOLLOWED];
    int count[WALK_ROWS];
};

// Of a thread: a block of samples, and lists of some of them by their place in it.
struct WalkScratch {
    std::int64_t block;
    float* unit;           // [block][dim]
    std::uint32_t* codes;  // [block][words]
    Reach* reach;          // [block]
    Seen* seen;            // [block] of balls
    Progress* progress;    // [block]
    std::int64_t* row;     // [block]
    std::int32_t* kept;    // [num_levels + 1][block]
    float* along;          // [num_levels + 1][block]
    std::int32_t* list;    // [num_levels + 1][LANES][block], each with room for a vector more
    unsigned* likely;      // [block] prototypes of a tile, a bit each

    static WalkScratch take(Arena& arena, const TileTree& tree, std::int64_t block) {
        WalkScratch scratch{};
        scratch.block = block;
        scratch.unit = arena.take<float>(block * tree.dim);
        scratch.codes = arena.take<std::uint32_t>(block * tree.words);
        scratch.reach = arena.take<Reach>(block);
        scratch.seen = arena.take<Seen>(block);
        scratch.progress = arena.take<Progress>(block);
        scratch.row = arena.take<std::int64_t>(block);
        scratch.kept = arena.take<std::int32_t>((tree.num_levels + 1) * block);
        scratch.along = arena.take<float>((tree.num_levels + 1) * block);
        scratch.list = arena.take<std::int32_t>((tree.num_levels + 1) * LANES * (block + LANES));
        scratch.likely = arena.take<unsigned>(block);
        return scratch;
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

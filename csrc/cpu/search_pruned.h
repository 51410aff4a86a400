// The search on a map in order, where tiles of neighbouring prototypes are ruled out at once.
//
// How far it looks is up to the data, so it looks before it leaps: a few samples try a few tiles first, and a block of samples that
// has to look into too many leaves them to the passes that score every prototype.
#pragma once

#include "tile_build.h"
#include "tile_walk.h"

namespace vitsom {
namespace VITSOM_ISA {

// Pairs of a sample and a prototype below which the trial takes more than a twentieth of the time that it may save (of 128 x 1600
// with 3136 features it was a half), and features beyond which the samples of a block no longer fit the second-level cache.
constexpr std::int64_t LEAST_PAIRS = 1 << 22, MOST_DIM_TO_PRUNE = 4096;

// A block whose samples have to look into more than this share of the tiles, on average, is served faster by those who look at all.
constexpr double MOST_TILES = 0.4;

// Of the samples of a block: their units and codes.
constexpr std::int64_t BLOCK_BYTES = 3 << 18;

constexpr int MOST_WALKS = 256;  // threads

constexpr std::int64_t TRIED_SAMPLES = 32, TRIED_TILES = 32;

// The share of the tiles that a few samples would have to look into. It is an upper bound, as they know only the prototypes of these.
template <class T>
double share_of_tiles(
    const Problem& p, const TileTree& tree, const std::int64_t* rows, std::int64_t batch, const Search& result, float* units,
    float* samples) {
    const std::int64_t num_tiles = smaller(TRIED_TILES, tree.level[0].count()), num_samples = smaller(TRIED_SAMPLES, batch);
    const Order tiles(tree.level[0].count()), order(batch);
    float best[TRIED_SAMPLES], along[TRIED_SAMPLES][TRIED_TILES];
    for (std::int64_t i = 0; i < num_samples; ++i) {
        const T* z = row<T>(p.z, rows[order(i)]);
        const double inverse = inverse_norm(z, p.dim);
        write_unit(z, inverse == inverse ? inverse : 0, p.dim, tree.dim, samples + i * tree.dim);
        best[i] = 0;
    }
    for (std::int64_t j = 0; j < num_tiles; ++j) {
        const std::int64_t tile = tiles(j);
        build_tile<T>(p, tree, tile, tile, result, units);
        for (std::int64_t i = 0; i < num_samples; ++i) {
            const float* z = samples + i * tree.dim;
            along[i][j] = dot_padded(z, tree.level[0].centre + tile * tree.dim, tree.dim);
            for (int lane = 0; lane < LANES; ++lane) {
                if (tree.level[0].plane[tile].present[lane] != 0) continue;
                const float score = dot_padded(z, units + lane * tree.dim, tree.dim);
                if (score > best[i]) best[i] = score;
            }
        }
    }
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < num_samples; ++i) {
        const float cosine = best[i] < 1 ? best[i] : 1, sine = __builtin_sqrtf(1 - cosine * cosine);
        for (std::int64_t j = 0; j < num_tiles; ++j) {
            const Radius radius = tree.level[0].radius[tiles(j)];
            kept += along[i][j] >= radius.cosine * cosine - radius.sine * sine;
        }
    }
    return static_cast<double>(kept) / static_cast<double>(num_samples * num_tiles);
}

inline bool may_prune(const Problem& p, std::int64_t batch) {
    if (p.pruning != Pruning::automatic) return p.pruning == Pruning::always && batch > 0;
    return p.dim >= LEAST_DIM && p.dim <= MOST_DIM_TO_PRUNE && batch >= LEAST_SAMPLES && p.num_prototypes >= LEAST_PROTOTYPES &&
           batch * p.num_prototypes >= LEAST_PAIRS;
}

// Blocks of equal size, as many for each thread.
inline std::int64_t samples_a_block(std::int64_t batch, const TileTree& tree, int threads) {
    const std::int64_t bytes = tree.dim * static_cast<std::int64_t>(sizeof(float)) + tree.words * 4;
    const std::int64_t most = larger(96, BLOCK_BYTES / bytes);
    const std::int64_t a_thread = ceil_div(batch, threads);
    return ceil_div(a_thread, ceil_div(a_thread, most));
}

// As search_coded; adds to the tiles of `counts`, too.
template <class T>
std::int64_t search_pruned(
    const Problem& p, std::int64_t* rows, std::int64_t batch, const Search& result, SearchCounts& counts) {
    if (!may_prune(p, batch)) return 0;
    const std::int64_t dim = padded(p.dim);
    Arena trial;
    float *trial_unit = nullptr, *trial_samples = nullptr;
    lay_out(trial, [&](Arena& a) {
        trial_unit = a.take<float>(LANES * dim);
        trial_samples = a.take<float>(TRIED_SAMPLES * dim);
    });
    TileTree tree(p, map_shape<T>(p, trial_unit));
    const int threads = p.threads < MOST_WALKS ? p.threads : MOST_WALKS;
    const std::int64_t block = samples_a_block(batch, tree, threads), blocks = ceil_div(batch, block);
    const std::int64_t units_a_thread = tree.num_levels == 1 ? LANES : LANES * LANES;
    Seekers seekers{};
    WalkScratch scratch[MOST_WALKS];
    float* units = nullptr;
    Arena arena;
    lay_out(arena, [&](Arena& a) {
        tree.take(a, p);
        seekers = Seekers::take(a, tree, rows, batch);
        for (int thread = 0; thread < threads; ++thread) scratch[thread] = WalkScratch::take(a, tree, block);
        units = a.take<float>(threads * units_a_thread * tree.dim);
    });
    find_origin<T>(p, tree, trial_unit);
    const bool at_any_cost = p.pruning == Pruning::always;
    if (!at_any_cost && share_of_tiles<T>(p, tree, rows, batch, result, trial_unit, trial_samples) > MOST_TILES) return 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int thread = omp_get_thread_num();
        float* own_units = units + thread * units_a_thread * tree.dim;
        if (tree.num_levels == 1) {
#pragma omp for schedule(static)
            for (std::int64_t tile = 0; tile < tree.level[0].count(); ++tile) {
                build_tile<T>(p, tree, tile, smaller(tile + 1, tree.level[0].count() - 1), result, own_units);
            }
        } else {
#pragma omp for schedule(static)
            for (std::int64_t block = 0; block < tree.level[1].count(); ++block) build_block<T>(p, tree, block, result, own_units);
        }
        for (int level = 2; level < tree.num_levels; ++level) {
#pragma omp for schedule(static)
            for (std::int64_t tile = 0; tile < tree.level[level].count(); ++tile) build_tile_of_tiles(tree, level, tile);
        }
#pragma omp for schedule(static)
        for (std::int64_t root = 0; root < tree.num_roots; ++root) build_root(tree, root);
        TileWalk<T> walk(p, tree, result, seekers, scratch[thread]);
#pragma omp for schedule(static)
        for (std::int64_t b = 0; b < blocks; ++b) walk.set_out(b * block, smaller(batch, (b + 1) * block));
#pragma omp single
        seekers.sort(batch, tree.level[0].count());
#pragma omp for schedule(dynamic)
        for (std::int64_t b = 0; b < blocks; ++b) {
            const std::int64_t count = smaller(block, batch - b * block);
            const double most_work = MOST_TILES * static_cast<double>(count * tree.level[0].count());
            walk.run(seekers.order + b * block, count, at_any_cost ? INT64_MAX : static_cast<std::int64_t>(most_work));
        }
    }
    std::int64_t undecided = 0;
    for (std::int64_t i = 0; i < batch; ++i) {
        const std::int64_t to = rows[i];
        const Progress& progress = seekers.progress[i];
        counts.candidates += progress.candidates;
        counts.tiles += progress.tiles;
        if (progress.threshold == UNDECIDED && result.inverse_z[to] == result.inverse_z[to]) {
            rows[undecided++] = to;
        } else {
            result.score[to] = static_cast<float>(progress.best);
            result.bmu[to] = progress.bmu;
        }
    }
    return batch - undecided;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

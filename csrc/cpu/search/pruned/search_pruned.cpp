// The search on a map in order, where tiles of neighbouring prototypes are ruled out at once.
//
// How far it looks is up to the data, so it looks before it leaps: a few samples try a few tiles first, and a block of samples that
// has to look into too many leaves them to the passes that score every prototype.
#include "cpu/runtime/interruption.h"
#include "cpu/module/kernel_table.h"
#include "cpu/search/pruned/descent.h"
#include "cpu/search/pruned/tile_build.h"
#include "cpu/search/pruned/tile_walk.h"
#include "cpu/search/worthwhile.h"

namespace vitsom {
namespace VITSOM_ISA {

// Pairs of a sample and a prototype below which the trial takes more than a twentieth of the time that it may save (of 128 x 1600
// with 3136 features it was a half), and features beyond which the samples of a block no longer fit the second-level cache.
constexpr std::int64_t LEAST_PAIRS = 1 << 22, MOST_DIM_TO_PRUNE = 4096;

// A block whose samples have to look into more than this share of the tiles, on average, is served faster by those who look at all.
constexpr double MOST_TILES = 0.4;

// Of the samples of a block, their units and codes: half as much fits the second-level cache, but a block more is another walk through
// the tree, 3 % of the search of a map of 512 x 512.
constexpr std::int64_t BLOCK_BYTES = 3 << 19;

constexpr int MOST_WALKS = 256;  // threads

constexpr std::int64_t TRIED_SAMPLES = 32, TRIED_TILES = 32;

// The share of the tiles that a few samples would have to look into. It is an upper bound, as they know only the prototypes of these.
inline double share_of_tiles(
    const Problem& p, const TileTree& tree, const std::int64_t* rows, std::int64_t batch, float* units, float* axes,
    float* samples) {
    float* centre = axes + 3 * tree.dim;
    const Tiling& tiling = tree.level[0].tiling;
    const std::int64_t num_tiles = smaller(TRIED_TILES, tiling.tiles.count()), num_samples = smaller(TRIED_SAMPLES, batch);
    const Order tiles(tiling.tiles.count()), order(batch);
    float best[TRIED_SAMPLES], square[TRIED_SAMPLES], along[TRIED_SAMPLES][TRIED_TILES];
    Radius radius[TRIED_TILES];
    Shell shell[TRIED_TILES];
    int nearest[TRIED_SAMPLES] = {};
    for (std::int64_t i = 0; i < num_samples; ++i) {
        const Row z = row(p.z, rows[order(i)]);
        const double inverse = inverse_norm(z, p.dim);
        float* sample = samples + i * tree.dim;
        if (!(inverse == inverse)) fill(sample, tree.dim, 0.0f);
        else if (tree.is_of_balls) write_centred(z, tree.seen_from, tree.unit, tree.features, tree.dim, sample);
        else write_unit(z, inverse, p.dim, tree.dim, sample);
        square[i] = dot_padded(sample, sample, tree.dim);
        best[i] = tree.is_of_balls ? -__FLT_MAX__ : 0;
    }
    for (std::int64_t j = 0; j < num_tiles; ++j) {
        const Members members = tiling.members(tiles(j)), next = tiling.members(tiles(smaller(j + 1, num_tiles - 1)));
        double inverse[LANES];
        Lanes squares{};
        const Lanes present = read_members(p, tree, members, next, units, inverse, squares);
        describe_members(tree, units, squares, present, axes, centre, WIDTH, radius[j], shell + j);
        for (std::int64_t i = 0; i < num_samples; ++i) {
            const float* z = samples + i * tree.dim;
            along[i][j] = dot_padded(z, centre, tree.dim);
            const float score = tree.is_of_balls ? (square[i] + largest(present - square_distances(units, z, tree.dim))) / 2
                                                 : largest(dot_members(units, z, tree.dim) + present);
            if (!(score > best[i])) continue;
            best[i] = score;
            nearest[i] = static_cast<int>(j);
        }
    }
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < num_samples; ++i) {
        const float score = tree.is_of_balls || best[i] < 1 ? best[i] : 1;
        const float apart = tree.is_of_balls ? square[i] - 2 * score : 1 - score * score;
        const float sine = __builtin_sqrtf(apart > 0 ? apart : 0);
        const Stretch stretch(square[i], score, shell[nearest[i]]);
        for (std::int64_t j = 0; j < num_tiles; ++j) {
            bool reaches = along[i][j] >= radius[j].cosine * score - radius[j].sine * sine - radius[j].more;
            if (tree.is_of_balls) reaches &= along[i][j] >= stretch.needed(score, radius[j], shell[j]);
            kept += reaches;
        }
    }
    return static_cast<double>(kept) / static_cast<double>(num_samples * num_tiles);
}

inline bool may_prune(const Problem& p, std::int64_t batch) {
    if (p.pruning != Pruning::automatic) return p.pruning == Pruning::always && batch > 0;
    return p.dim >= LEAST_DIM && p.dim <= MOST_DIM_TO_PRUNE && batch >= LEAST_SAMPLES && p.num_prototypes >= LEAST_PROTOTYPES &&
           batch * p.num_prototypes >= LEAST_PAIRS;
}

// How long prototypes are, seen from the origin.
inline void find_lengths(TileTree& tree) {
    const TileLevel& top = tree.top();
    Shell all = Shell::none();
    for (std::int64_t tile = 0; tile < top.count(); ++tile) {
        if (top.exists[tile]) all.widen_to(top.shell[tile]);
    }
    tree.shortest = __builtin_sqrtf(all.least > 0 ? all.least : 0);
    tree.longest = __builtin_sqrtf(all.most > 0 ? all.most : 0);
    tree.reach = tree.longest * (1 + 0x1p-20f);
}

// Blocks of equal size, as many for each thread.
inline std::int64_t samples_a_block(std::int64_t batch, const TileTree& tree, int threads) {
    const std::int64_t bytes = tree.dim * static_cast<std::int64_t>(sizeof(float)) + tree.words * 4;
    const std::int64_t most = larger(96, BLOCK_BYTES / bytes);
    const std::int64_t a_thread = ceil_div(batch, threads);
    return ceil_div(a_thread, ceil_div(a_thread, most));
}

// Adds to the candidates and the tiles of `counts`.
std::int64_t search_pruned(
    const Problem& p, std::int64_t* rows, std::int64_t batch, const SearchOutput& result, SearchCounts& counts) {
    if (!may_prune(p, batch)) return 0;
    const std::int64_t dim = padded(p.dim);
    Arena trial;
    float *trial_units = nullptr, *trial_axes = nullptr, *trial_samples = nullptr;
    lay_out(trial, [&](Arena& a) {
        trial_units = a.take<float>(LANES * dim);
        trial_axes = a.take<float>(4 * dim);
        trial_samples = a.take<float>(TRIED_SAMPLES * dim);
    });
    TileTree tree(p, map_shape(p, trial_units));
    const int threads = p.threads < MOST_WALKS ? p.threads : MOST_WALKS;
    const std::int64_t block = samples_a_block(batch, tree, threads), blocks = ceil_div(batch, block);
    Seekers seekers{};
    WalkScratch scratch[MOST_WALKS];
    BuildScratch build[MOST_WALKS];
    Arena arena;
    lay_out(arena, [&](Arena& a) {
        tree.take(a);
        seekers = Seekers::take(a, tree, rows, batch);
        for (int thread = 0; thread < threads; ++thread) {
            scratch[thread] = WalkScratch::take(a, tree, block);
            build[thread] = BuildScratch::take(a, tree);
        }
    });
    find_origin(p, tree, trial_units);
    if (tree.is_of_balls && !(tree.unit > 0)) return 0;
    const bool at_any_cost = p.pruning == Pruning::always;
    if (!at_any_cost && share_of_tiles(p, tree, rows, batch, trial_units, trial_axes, trial_samples) > MOST_TILES) return 0;
    Interruption interruption(p);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int thread = omp_get_thread_num();
        if (tree.num_levels == 1) {
#pragma omp for schedule(static)
            for (std::int64_t tile = 0; tile < tree.level[0].count(); ++tile) {
                const std::int64_t next = smaller(tile + 1, tree.level[0].count() - 1);
                build_tile(
                    p, tree, tile, next, result, build[thread].prototypes, tree.level[0].centre + tile * tree.dim, WIDTH);
            }
        } else {
#pragma omp for schedule(static)
            for (std::int64_t block = 0; block < tree.level[1].count(); ++block) build_block(p, tree, block, result, build[thread]);
        }
        for (int level = 2; level < tree.num_levels; ++level) {
#pragma omp for schedule(static)
            for (std::int64_t tile = 0; tile < tree.level[level].count(); ++tile) {
                build_tile_of_tiles(tree, level, tile, build[thread].tiles);
            }
        }
#pragma omp for schedule(static)
        for (std::int64_t root = 0; root < tree.num_roots; ++root) build_root(tree, root, build[thread].tiles);
#pragma omp single
        if (tree.is_of_balls) find_lengths(tree);
        Descent descent(p, tree, result, seekers, scratch[thread]);
#pragma omp for schedule(static)
        for (std::int64_t b = 0; b < blocks; ++b) descent.set_out(b * block, smaller(batch, (b + 1) * block));
#pragma omp single
        seekers.sort(batch, tree.level[0].count());
        TileWalk walk(p, tree, result, seekers, scratch[thread]);
#pragma omp for schedule(dynamic)
        for (std::int64_t b = 0; b < blocks; ++b) {
            if (interruption.is_wanted()) continue;
            const std::int64_t count = smaller(block, batch - b * block);
            const double most_work = MOST_TILES * static_cast<double>(count * tree.level[0].count());
            walk.run(seekers.order + b * block, count, at_any_cost ? INT64_MAX : static_cast<std::int64_t>(most_work));
        }
        const std::int64_t candidates = descent.candidates() + walk.candidates(), tiles = walk.tiles();
#pragma omp atomic
        counts.candidates += candidates;
#pragma omp atomic
        counts.tiles += tiles;
    }
    interruption.end_here();
    std::int64_t undecided = 0;
    for (std::int64_t i = 0; i < batch; ++i) {
        const std::int64_t to = rows[i];
        const Progress& progress = seekers.progress[i];
        if (progress.threshold == UNDECIDED && result.inverse_z[to] == result.inverse_z[to]) {
            rows[undecided++] = to;
        } else {
            progress.nearest.write(result, to);
        }
    }
    return batch - undecided;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

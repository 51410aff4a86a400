// The loss of each sample under a distance that does not factorise: the sum over units of weight times distance, pair by pair.
//
// Features are compared as they are, in fp32: their difference loses no digit far from the origin nor between neighbors, where a
// product of matrices loses all. Memory: a few tiles of pairs for each thread.
#include "cpu/module/kernel_table.h"
#include "cpu/pairs/pair_weights.h"
#include "cpu/pairs/scale.h"
#include "cpu/runtime/interruption.h"
#include "cpu/step/rows_by_unit.h"

namespace vitsom {
namespace VITSOM_ISA {

// Adds to losses [samples], divided by the scale, what a tile adds.
template <class Distance>
void add_losses(const PairTile& tile, const PairScratch& scratch, double* losses) {
    for (std::int64_t r = 0; r < tile.samples; ++r) {
        Vec total{};
        const bool* matters = scratch.matters + r / TILE_ROWS * BLOCKS;
        for (std::int64_t block = 0; block < tile.blocks(); ++block) {
            if (!matters[block]) continue;
            const std::int64_t at = r * UNITS + block * TILE_COLS;
            const Features weights = load_row(scratch.weights + at), sums = load_row(scratch.sums + at);
            total += weights.low * Distance::distance(sums.low) + weights.high * Distance::distance(sums.high);
        }
        losses[r] += static_cast<double>(sum(total));
    }
}

void pair_losses(const Problem& p, const Neighborhood& h, PairDistance distance, const std::int64_t* bmu, double* losses) {
    const int threads = static_cast<int>(
        smaller(useful_threads(p.batch * p.num_prototypes * p.dim, p.threads), affordable_pieces(p, PairScratch::BYTES)));
    RowsByUnit samples{};
    float* largest = nullptr;
    PairScratch* scratch = nullptr;
    Arena arena;
    lay_out(arena, [&](Arena& a) {
        samples.take(a, p.batch, p.num_prototypes);
        largest = a.take<float>(p.batch + p.num_prototypes);
        scratch = a.take<PairScratch>(threads);
        for (int thread = 0; thread < threads; ++thread) {
            PairScratch own{};
            own.take(a);
            if (scratch) scratch[thread] = own;
        }
    });
    samples.sort(bmu, p.batch, p.num_prototypes);
    const float scale = scale_of_pairs(p, distance, largest, threads);
    const std::int64_t height = samples_a_tile(p.batch, threads);
    Interruption interruption(p);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (std::int64_t first = 0; first < p.batch; first += height) {
        const PairScratch& own = scratch[omp_get_thread_num()];
        double total[SAMPLES] = {};
        PairTile tile{samples.order + first, smaller(height, p.batch - first), 0, 0};
        for (; tile.first_unit < p.num_prototypes && !interruption.is_wanted(); tile.first_unit += UNITS) {
            tile.units = smaller(UNITS, p.num_prototypes - tile.first_unit);
            // Every weight that is a number: the farthest unit may be as far as one likes.
            if (!weigh_tile(h, bmu, tile, __FLT_MIN__, own)) continue;
            with_distance(distance, [&](auto kind) {
                sum_over_features<decltype(kind)>(p, tile, scale, own);
                add_losses<decltype(kind)>(tile, own, total);
            });
        }
        for (std::int64_t r = 0; r < tile.samples; ++r) losses[tile.sample[r]] = total[r] / static_cast<double>(scale);
    }
    interruption.end_here();
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

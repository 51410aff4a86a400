// How the gradients of pairs are divided among threads, and the memory that they take: for each number of a gradient one in fp64,
// and a few tiles of pairs for each thread.
#pragma once

#include "cpu/pairs/pair_tile.h"
#include "cpu/pairs/scale.h"
#include "cpu/pairs/totals.h"
#include "cpu/step/rows_by_unit.h"

namespace vitsom {
namespace VITSOM_ISA {

// Of one thread, TILE_COLS features of the units of a tile.
struct GradientScratch {
    PairScratch pairs;
    float* v;     // [UNITS][TILE_COLS]
    float* of_v;  // [UNITS][TILE_COLS] the pulls on them

    static constexpr std::int64_t BYTES = PairScratch::BYTES + 2 * 4 * UNITS * TILE_COLS;
};

struct GradientPlan {
    RowsByUnit samples;
    Totals of_z, of_prototypes;  // the former in the order of the samples
    float* factor;          // [batch] gradients of the losses in that order, the largest about 1
    double unit;            // what 1 of these is
    float scale;            // of latents and prototypes
    float* largest;         // [batch + num_prototypes] scratch
    int threads;
    std::int64_t blocks, samples_a_block, units_a_block;
    GradientScratch* scratch;  // [threads]

    void take(Arena& arena, const Problem& p, bool for_z, bool for_prototypes) {
        const int useful = useful_threads(2 * p.batch * p.num_prototypes * p.dim, p.threads);
        threads = static_cast<int>(smaller(useful, affordable_pieces(p, GradientScratch::BYTES)));
        samples_a_block = ceil_div(ceil_div(p.batch, threads), TILE_ROWS) * TILE_ROWS;
        units_a_block = ceil_div(ceil_div(p.num_prototypes, threads), TILE_COLS) * TILE_COLS;
        blocks = larger(ceil_div(p.batch, larger(samples_a_block, 1)), ceil_div(p.num_prototypes, units_a_block));
        samples.take(arena, p.batch, p.num_prototypes);
        factor = arena.take<float>(p.batch);
        largest = arena.take<float>(p.batch + p.num_prototypes);
        if (for_z) of_z.take(arena, p.batch, p.dim);
        if (for_prototypes) of_prototypes.take(arena, p.num_prototypes, p.dim);
        GradientScratch* own = arena.take<GradientScratch>(threads);
        for (int thread = 0; thread < threads; ++thread) {
            GradientScratch s{};
            s.pairs.take(arena);
            s.v = arena.take<float>(UNITS * TILE_COLS);
            s.of_v = arena.take<float>(UNITS * TILE_COLS);
            if (own) own[thread] = s;
        }
        scratch = own;
    }

    void prepare(const Problem& p, PairDistance distance, const double* grad_losses, const std::int64_t* bmu) {
        samples.sort(bmu, p.batch, p.num_prototypes);
        scale = scale_of_pairs(p, distance, largest, threads);
        double most = 0;
        for (std::int64_t i = 0; i < p.batch; ++i) {
            const double size = __builtin_fabs(grad_losses[i]);
            most = size <= __DBL_MAX__ && size > most ? size : most;
        }
        const int exponent = exponent_of(most);
        unit = power_of_two(exponent < -1000 ? 0 : exponent);
        for (std::int64_t i = 0; i < p.batch; ++i) factor[i] = static_cast<float>(grad_losses[samples.order[i]] / unit);
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

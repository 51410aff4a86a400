// Gradients of the losses of pair_losses: a pair pulls its latent and its unit as strongly, one way and the other.
//
// Pulls are differences times a number, as the distances are sums over differences: nothing cancels far from the origin. Those of a
// tile of pairs are added up in fp32, tiles in fp64.
//
// Samples and units are divided into as many blocks as there are threads, and in each of as many rounds every block of samples meets
// another block of units: no two threads ever write to one row, and the order of all sums is the same in any team.
#include "cpu/module/kernel_table.h"
#include "cpu/pairs/gradient_plan.h"
#include "cpu/pairs/pair_weights.h"
#include "cpu/pairs/scale.h"
#include "cpu/runtime/interruption.h"

namespace vitsom {
namespace VITSOM_ISA {

// scratch.weights become the strengths of the pulls of a tile: times the gradient of the sample's loss.
template <class Distance>
void find_strengths(const PairTile& tile, const float* factor, const PairScratch& scratch) {
    for (std::int64_t r = 0; r < tile.samples; ++r) {
        const bool* matters = scratch.matters + r / TILE_ROWS * BLOCKS;
        for (std::int64_t block = 0; block < tile.blocks(); ++block) {
            if (!matters[block]) continue;
            const std::int64_t at = r * UNITS + block * TILE_COLS;
            const Features weights = load_row(scratch.weights + at), sums = load_row(scratch.sums + at);
            store_row(
                scratch.weights + at, Distance::strength(factor[r] * weights.low, sums.low),
                Distance::strength(factor[r] * weights.high, sums.high));
        }
    }
}

// What a register tile of pulls has room for: chains of PULLED_ROWS additions, of two vectors at a time.
constexpr int PULLED_ROWS = TILE_ROWS / 2;

// Units [begin, end) pull some samples in TILE_COLS features, x, and these pull them: added to of_x, and to of_v
// [UNITS][TILE_COLS]. Where NARROW, in the first WIDTH of these features.
template <class Distance, bool FOR_Z, bool FOR_PROTOTYPES, bool NARROW>
inline __attribute__((always_inline)) void pull_rows(
    std::int64_t begin, std::int64_t end, const float* strengths, const float* v, const Tile<PULLED_ROWS>& x,
    Tile<PULLED_ROWS>& of_x, float* of_v) {
    for (std::int64_t k = begin; k < end; ++k) {
        const float* unit = v + k * TILE_COLS;
        float* pulled = of_v + k * TILE_COLS;
        Vec low = FOR_PROTOTYPES ? load(pulled) : Vec{}, high = FOR_PROTOTYPES && !NARROW ? load(pulled + WIDTH) : Vec{};
#pragma GCC unroll 16
        for (int r = 0; r < PULLED_ROWS; ++r) {
            const float strength = strengths[r * UNITS + k];
            const Vec of_low = Distance::pull(strength, x.low[r] - load(unit));
            if (FOR_Z) of_x.low[r] += of_low;
            if (FOR_PROTOTYPES) low += of_low;
            if (NARROW) continue;
            const Vec of_high = Distance::pull(strength, x.high[r] - load(unit + WIDTH));
            if (FOR_Z) of_x.high[r] += of_high;
            if (FOR_PROTOTYPES) high += of_high;
        }
        if (FOR_PROTOTYPES) store(pulled, low);
        if (FOR_PROTOTYPES && !NARROW) store(pulled + WIDTH, high);
    }
}

// TILE_COLS features of a row, `rest` of which it has.
inline Features load_scaled(Row x, std::int64_t rest, float scale) {
    const Features given = with_elements(x, [&](const auto* elements) { return load_features(elements, rest); });
    return {scale * given.low, scale * given.high};
}

// Adds the pulls of a tile in TILE_COLS features from d on to the totals of its samples, the first of which is `first_sample` of
// all, and of its units.
template <class Distance, bool FOR_Z, bool FOR_PROTOTYPES, bool NARROW>
void pull_features(
    const Problem& p, const GradientPlan& plan, const PairTile& tile, std::int64_t first_sample, const GradientScratch& scratch,
    std::int64_t d) {
    const std::int64_t rest = p.dim - d;
    for (std::int64_t k = 0; k < tile.units; ++k) {
        const Features unit = load_scaled(row(p.prototypes, tile.first_unit + k) + d, rest, plan.scale);
        store_row(scratch.v + k * TILE_COLS, unit.low, unit.high);
        if (FOR_PROTOTYPES) store_row(scratch.of_v + k * TILE_COLS, Vec{}, Vec{});
    }
    for (std::int64_t first = 0; first < tile.samples; first += PULLED_ROWS) {
        const std::int64_t rows = smaller(PULLED_ROWS, tile.samples - first);
        const bool* matters = scratch.pairs.matters + first / TILE_ROWS * BLOCKS;
        Tile<PULLED_ROWS> x, of_x;
#pragma GCC unroll 16
        for (int r = 0; r < PULLED_ROWS; ++r) {
            const Features sample = r < rows ? load_scaled(row(p.z, tile.sample[first + r]) + d, rest, plan.scale) : Features{};
            x.low[r] = sample.low;
            x.high[r] = sample.high;
            of_x.low[r] = of_x.high[r] = Vec{};
        }
        for (std::int64_t block = 0; block < tile.blocks(); ++block) {
            if (!matters[block]) continue;
            const std::int64_t begin = block * TILE_COLS, end = smaller(begin + TILE_COLS, tile.units);
            pull_rows<Distance, FOR_Z, FOR_PROTOTYPES, NARROW>(
                begin, end, scratch.pairs.weights + first * UNITS, scratch.v, x, of_x, scratch.of_v);
        }
        for (std::int64_t r = 0; r < rows && FOR_Z; ++r) {
            plan.of_z.add<NARROW>(first_sample + first + r, d, {of_x.low[r], of_x.high[r]});
        }
    }
    for (std::int64_t k = 0; k < tile.units && FOR_PROTOTYPES; ++k) {
        plan.of_prototypes.add<NARROW>(tile.first_unit + k, d, load_row(scratch.of_v + k * TILE_COLS));
    }
}

template <class Distance, bool FOR_Z, bool FOR_PROTOTYPES>
void pull_tile(
    const Problem& p, const GradientPlan& plan, const PairTile& tile, std::int64_t first_sample, const GradientScratch& scratch) {
    for (std::int64_t d = 0; d < p.dim; d += TILE_COLS) {
        const auto pull = p.dim - d > WIDTH ? pull_features<Distance, FOR_Z, FOR_PROTOTYPES, false>
                                            : pull_features<Distance, FOR_Z, FOR_PROTOTYPES, true>;
        pull(p, plan, tile, first_sample, scratch, d);
    }
}

// All pairs of a block of samples and a block of units.
template <class Distance>
void pull_block(
    const Problem& p, const Neighborhood& h, const std::int64_t* bmu, const GradientPlan& plan, std::int64_t samples,
    std::int64_t units, Interruption& interruption) {
    const GradientScratch& scratch = plan.scratch[omp_get_thread_num()];
    const std::int64_t end = smaller((samples + 1) * plan.samples_a_block, p.batch);
    const std::int64_t end_unit = smaller((units + 1) * plan.units_a_block, p.num_prototypes);
    for (std::int64_t first = samples * plan.samples_a_block; first < end; first += SAMPLES) {
        PairTile tile{plan.samples.order + first, smaller(SAMPLES, end - first), units * plan.units_a_block, 0};
        for (; tile.first_unit < end_unit && !interruption.is_wanted(); tile.first_unit += UNITS) {
            tile.units = smaller(UNITS, end_unit - tile.first_unit);
            if (!weigh_tile(h, bmu, tile, NEGLIGIBLE, scratch.pairs)) continue;
            if (Distance::PULLS_BY_DISTANCE) sum_over_features<Distance>(p, tile, plan.scale, scratch.pairs);
            find_strengths<Distance>(tile, plan.factor + first, scratch.pairs);
            const auto pull = !plan.of_z.data            ? pull_tile<Distance, false, true>
                              : !plan.of_prototypes.data ? pull_tile<Distance, true, false>
                                                         : pull_tile<Distance, true, true>;
            pull(p, plan, tile, first, scratch);
        }
    }
}

void pair_gradients(
    const Problem& p, const Neighborhood& h, PairDistance distance, const double* grad_losses, const std::int64_t* bmu,
    void* grad_z, void* grad_prototypes) {
    if (!grad_z && !grad_prototypes) return;
    const std::int64_t row_bytes = p.dim * row(p.z, 0).element_bytes();
    use_huge_pages(grad_z, static_cast<std::size_t>(p.batch * row_bytes));
    use_huge_pages(grad_prototypes, static_cast<std::size_t>(p.num_prototypes * row_bytes));
    GradientPlan plan{};
    Arena arena;
    lay_out(arena, [&](Arena& a) { plan.take(a, p, grad_z, grad_prototypes); });
    plan.prepare(p, distance, grad_losses, bmu);
    Interruption interruption(p);
#pragma omp parallel num_threads(plan.threads) if (plan.threads > 1)
    {
        plan.of_z.clear();
        plan.of_prototypes.clear();
        for (std::int64_t round = 0; round < plan.blocks; ++round) {
#pragma omp for schedule(dynamic)
            for (std::int64_t block = 0; block < plan.blocks; ++block) {
                with_distance(distance, [&](auto kind) {
                    pull_block<decltype(kind)>(p, h, bmu, plan, block, (block + round) % plan.blocks, interruption);
                });
            }
        }
        plan.of_z.write(p.z.dtype, plan.unit, plan.samples.order, p.dim, grad_z);
        plan.of_prototypes.write(p.z.dtype, -plan.unit, nullptr, p.dim, grad_prototypes);
    }
    interruption.end_here();
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// The nearest unit by Manhattan distance: every pair in fp32, then in fp64 what fp32 cannot tell apart.
#include "cpu/module/kernel_table.h"
#include "cpu/pairs/pair_tile.h"
#include "cpu/pairs/scale.h"
#include "cpu/runtime/interruption.h"

namespace vitsom {
namespace VITSOM_ISA {

inline double exact_distance(Row x, Row y, std::int64_t n) {
    return with_elements(x, [=](const auto* a) {
        const auto* b = reinterpret_cast<decltype(a)>(y.data);
        Doubles total{};
        for_each_vector(n, [&](std::int64_t d, auto load, auto) {
            const DoublePair of_a = widen(load(a + d)), of_b = widen(load(b + d));
            const Doubles low = of_a.low - of_b.low, high = of_a.high - of_b.high;
            total += (low < Doubles{} ? -low : low) + (high < Doubles{} ? -high : high);
        });
        return sum(total);
    });
}

// Of one sample, the units that may be its nearest.
struct NearestUnits {
    static constexpr int MOST = 16;
    std::int64_t unit[MOST];  // in their order
    float score[MOST];
    float limit;  // what a score is at most
    int count;

    void drop_ruled_out() {
        int kept = 0;
        for (int i = 0; i < count; ++i) {
            if (score[i] > limit) continue;
            unit[kept] = unit[i];
            score[kept++] = score[i];
        }
        count = kept;
    }

    // Leaves the nearest in fp64, the lowest of equals, and returns its distance: NaN where there is none.
    double decide(const Problem& p, Row x) {
        if (count == 0) return __builtin_nan("");
        int best = 0;
        double distance = exact_distance(x, row(p.prototypes, unit[0]), p.dim);
        for (int i = 1; i < count; ++i) {
            const double exact = exact_distance(x, row(p.prototypes, unit[i]), p.dim);
            if (!(exact < distance)) continue;
            best = i;
            distance = exact;
        }
        unit[0] = unit[best];
        score[0] = score[best];
        count = 1;
        return distance;
    }

    // `of_score` and `beside` say how far above the lowest score another may be.
    void note(const Problem& p, Row x, std::int64_t new_unit, float new_score, double of_score, double beside) {
        if (count == MOST) drop_ruled_out();
        if (count == MOST) decide(p, x);
        unit[count] = new_unit;
        score[count++] = new_score;
        const double next = static_cast<double>(new_score) * of_score + beside;
        if (next < static_cast<double>(limit)) limit = static_cast<float>(next);
    }

    // Those of a tile whose scores [UNITS] are low enough.
    void note_all(const Problem& p, Row x, const PairTile& tile, const float* scores, double of_score, double beside) {
        for (std::int64_t v = 0; v < tile.units; v += WIDTH) {
            for (unsigned lanes = lanes_reaching(splat(limit), load(scores + v)); lanes != 0; lanes &= lanes - 1) {
                const std::int64_t i = v + __builtin_ctz(lanes);
                if (i < tile.units && scores[i] <= limit) note(p, x, tile.first_unit + i, scores[i], of_score, beside);
            }
        }
    }
};

void search_manhattan(const Problem& p, std::int64_t* bmu, float* distance) {
    const int threads = static_cast<int>(
        smaller(useful_threads(p.batch * p.num_prototypes * p.dim, p.threads), affordable_pieces(p, PairScratch::BYTES)));
    std::int64_t* order = nullptr;
    float* largest = nullptr;
    PairScratch* scratch = nullptr;
    NearestUnits* nearest = nullptr;
    Arena arena;
    lay_out(arena, [&](Arena& a) {
        order = a.take<std::int64_t>(p.batch);
        largest = a.take<float>(p.batch + p.num_prototypes);
        nearest = a.take<NearestUnits>(threads * SAMPLES);
        scratch = a.take<PairScratch>(threads);
        for (int thread = 0; thread < threads; ++thread) {
            PairScratch own{};
            own.take(a);
            if (scratch) scratch[thread] = own;
        }
    });
    for (std::int64_t i = 0; i < p.batch; ++i) order[i] = i;
    for (int thread = 0; thread < threads; ++thread) std::memset(scratch[thread].matters, true, GROUPS * BLOCKS * sizeof(bool));
    const float scale = scale_of_pairs(p, PairDistance::manhattan, largest, threads);
    // A score is off by a rounding for each addition of its longest chain, two more, and what is below the least number in each
    // feature; two scores differ by twice as much.
    const std::int64_t roundings = smaller(p.dim, FEATURES) + ceil_div(p.dim, FEATURES) + 4;
    const double of_score = 1 + 0x1.1p-23 * static_cast<double>(roundings), beside = 0x1p-148 * static_cast<double>(p.dim);
    const std::int64_t height = samples_a_tile(p.batch, threads);
    Interruption interruption(p);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (std::int64_t first = 0; first < p.batch; first += height) {
        const PairScratch& own = scratch[omp_get_thread_num()];
        NearestUnits* units = nearest + omp_get_thread_num() * SAMPLES;
        PairTile tile{order + first, smaller(height, p.batch - first), 0, 0};
        for (std::int64_t r = 0; r < tile.samples; ++r) {
            units[r].count = 0;
            units[r].limit = __FLT_MAX__;
        }
        for (; tile.first_unit < p.num_prototypes && !interruption.is_wanted(); tile.first_unit += UNITS) {
            tile.units = smaller(UNITS, p.num_prototypes - tile.first_unit);
            sum_over_features<Manhattan>(p, tile, scale, own);
            for (std::int64_t r = 0; r < tile.samples; ++r) {
                units[r].note_all(p, row(p.z, first + r), tile, own.sums + r * UNITS, of_score, beside);
            }
        }
        if (interruption.has_come()) continue;
        for (std::int64_t r = 0; r < tile.samples; ++r) {
            units[r].drop_ruled_out();
            distance[first + r] = static_cast<float>(units[r].decide(p, row(p.z, first + r)));
            bmu[first + r] = units[r].count > 0 ? units[r].unit[0] : 0;
        }
    }
    interruption.end_here();
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

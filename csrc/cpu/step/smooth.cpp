// out = G x for one row of features of each unit: per term of the neighborhood, first along the columns of the grid, then along its
// rows, TILE_COLS features at a time.
//
// Every weight counts, however small: far from all samples a batch SOM divides one small sum by another. Hence no thin factors, whose
// errors are in proportion to the largest weight.
#include "cpu/module/kernel_table.h"
#include "cpu/neighborhood/packed_factor.h"

namespace vitsom {
namespace VITSOM_ISA {

// Terms whose products along the columns are kept before any is taken along the rows: a unit's features are then read and written
// once for so many. Of 11 terms, the bubble of radius 16 on 128 x 128 units, that takes 0.6 of the time of one term at a time.
constexpr std::int64_t MOST_KEPT = 8;

// Fewer where they would take more memory than this, or than the rows themselves.
constexpr std::int64_t KEPT_BYTES = 16 << 20;

inline std::int64_t kept_terms(const Neighborhood& h, std::int64_t dim) {
    const std::int64_t units = h.rows * h.cols, float_size = sizeof(float);
    const std::int64_t budget = larger(KEPT_BYTES, units * dim * float_size) / (units * TILE_COLS * float_size);
    return larger(1, smaller(smaller(h.terms, MOST_KEPT), budget));
}

struct SmoothingPlan {
    PackedFactor *rows, *cols;  // [terms]
    float* between;             // [cols][terms kept][rows][TILE_COLS] smoothed along the columns
    float* line;                // [threads][2][longer axis][TILE_COLS] a line of the grid: before, and the sum of the terms

    void take(Arena& arena, const Neighborhood& h, std::int64_t kept, int threads) {
        PackedFactor* of_rows = arena.take<PackedFactor>(h.terms);
        PackedFactor* of_cols = arena.take<PackedFactor>(h.terms);
        for (std::int64_t t = 0; t < h.terms; ++t) {
            PackedFactor row{}, col{};
            PackedFactor::take(arena, row, h.rows, h.rows);
            PackedFactor::take(arena, col, h.cols, h.cols);
            if (!of_rows) continue;
            of_rows[t] = row;
            of_cols[t] = col;
        }
        rows = of_rows;
        cols = of_cols;
        between = arena.take<float>(kept * h.rows * h.cols * TILE_COLS);
        line = arena.take<float>(threads * 2 * larger(h.rows, h.cols) * TILE_COLS);
    }

    void prepare(const Neighborhood& h) {
        for (std::int64_t t = 0; t < h.terms; ++t) {
            rows[t].pack(factor(h.row_factors, h.rows, t, false, __FLT_MIN__), nullptr, h.rows, nullptr, h.rows);
            cols[t].pack(factor(h.col_factors, h.cols, t, false, __FLT_MIN__), nullptr, h.cols, nullptr, h.cols);
        }
    }
};

// What a product is written to, or added to.
struct SummedRows {
    float* first;
    std::int64_t stride;
    bool add;

    void operator()(std::int64_t index, Vec low, Vec high) const { store_row(first + index * stride, low, high, add); }
};

// The terms [first, first + kept) of a chunk, of which `count` features exist. In a parallel region, by all of its threads.
inline void smooth_chunk(
    const Neighborhood& h, const SmoothingPlan& plan, std::int64_t first, std::int64_t kept, const float* x, std::int64_t dim,
    std::int64_t count, float* out) {
    const std::int64_t longer = larger(h.rows, h.cols) * TILE_COLS, row = h.rows * TILE_COLS;
    float* before = plan.line + omp_get_thread_num() * 2 * longer;
    float* sum = before + longer;
#pragma omp for schedule(static)
    for (std::int64_t r = 0; r < h.rows; ++r) {
        for (std::int64_t c = 0; c < h.cols; ++c) {
            const Features features = load_features(x + (r * h.cols + c) * dim, count);
            store_row(before + c * TILE_COLS, features.low, features.high);
        }
        for (std::int64_t t = 0; t < kept; ++t) {
            plan.cols[first + t].apply(before, SummedRows{plan.between + t * row + r * TILE_COLS, kept * row, false});
        }
    }
#pragma omp for schedule(static)
    for (std::int64_t c = 0; c < h.cols; ++c) {
        const float* smoothed = plan.between + c * kept * row;
        for (std::int64_t t = 0; t < kept; ++t) {
            plan.rows[first + t].apply(smoothed + t * row, SummedRows{sum, TILE_COLS, t > 0});
        }
        for (std::int64_t r = 0; r < h.rows; ++r) {
            const float* done = sum + r * TILE_COLS;
            float* to = out + (r * h.cols + c) * dim;
            for_each_vector(count, [&](std::int64_t d, auto load, auto store) {
                store(to + d, first == 0 ? load(done + d) : load(to + d) + load(done + d));
            });
        }
    }
}

void smooth(const float* x, std::int64_t dim, const Neighborhood& h, int threads, float* out) {
    const int used = useful_threads(h.rows * h.cols * dim * (h.rows + h.cols), threads);
    SmoothingPlan plan{};
    Arena arena;
    const std::int64_t kept = kept_terms(h, dim);
    lay_out(arena, [&](Arena& a) { plan.take(a, h, kept, used); });
    plan.prepare(h);
#pragma omp parallel num_threads(used) if (used > 1)
    for (std::int64_t d = 0; d < dim; d += TILE_COLS) {
        for (std::int64_t t = 0; t < h.terms; t += kept) {
            smooth_chunk(h, plan, t, smaller(kept, h.terms - t), x + d, dim, smaller(TILE_COLS, dim - d), out + d);
        }
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

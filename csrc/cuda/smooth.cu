// One term of the neighborhood applied along one axis of the grid. Forward: all prototypes along the columns, then rows
// combined where a BMU is. Backward: the samples of each BMU spread along the rows, then all units along the columns. The primitive:
// all units along both.
#include "launch.h"
#include "steps.h"
#include "tile.cuh"

namespace vitsom::cuda {
namespace {

// smoothed[r, c] = sum over s of factor[c, s] * (w^[r, s] - centre); a difference of two numbers next to each other is rounded once
template <class T>
__global__ void __launch_bounds__(PRODUCT_THREADS, PRODUCT_BLOCKS) smooth_normalised(
    Tiling tiling, Rows<const T> prototypes, const float* inverse, const float* inverse_rest, Rows<float> centre,
    std::int64_t cols, const float* factor, Rows<float> smoothed) {
    const std::int64_t first = tiling.repeat() * cols;
    product_tile<Weights::by_depth>(
        tiling.row(), cols, tiling.feature(), cols, BESIDE_ONE,
        [&](std::int64_t c, std::int64_t s) { return factor[c * cols + s]; },
        [&](std::int64_t s, std::int64_t d) {
            const float4 x = prototypes.load(first + s, d), c = centre.load(0, d);
            const float high = inverse[first + s], rest = inverse_rest[first + s];
            const auto from_centre = [&](float x, float c) { return DROP * (fmaf(high, x, -LIFT * c) + rest * x); };
            return float4{from_centre(x.x, c.x), from_centre(x.y, c.y), from_centre(x.z, c.z), from_centre(x.w, c.w)};
        },
        [&](std::int64_t c, std::int64_t d, float4 v) { smoothed.store(first + c, d, v); });
}

// combined[g] (+)= sum over r of factor[row of g, r] * smoothed[r, c] for the distinct BMUs g of column c
__global__ void __launch_bounds__(PRODUCT_THREADS, PRODUCT_BLOCKS) combine_at_bmus(
    Tiling tiling, Rows<float> smoothed, Groups groups, std::int64_t rows, std::int64_t cols, const float* factor,
    bool is_first, Rows<float> combined) {
    const std::int64_t column = tiling.repeat(), count = groups.column_groups[column];
    if (tiling.row() >= count) return;
    const std::int64_t start = groups.column_start[column];
    const int* bmu_rows = groups.group_row + start;
    product_tile<Weights::by_depth>(
        tiling.row(), count, tiling.feature(), rows, BESIDE_ONE,
        [&](std::int64_t g, std::int64_t r) { return factor[bmu_rows[g] * rows + r]; },
        [&](std::int64_t r, std::int64_t d) { return smoothed.load(r * cols + column, d); },
        [&](std::int64_t g, std::int64_t d, float4 v) {
            combined.store(start + g, d, is_first ? v : combined.load(start + g, d) + v);
        });
}

// spread[r, c] = sum over the distinct BMUs g of column c of factor[row of g, r] * sums[g]
__global__ void __launch_bounds__(PRODUCT_THREADS, PRODUCT_BLOCKS) spread_from_bmus(
    Tiling tiling, Rows<float> sums, Groups groups, std::int64_t rows, std::int64_t cols, const float* factor,
    Rows<float> spread) {
    const std::int64_t column = tiling.repeat(), start = groups.column_start[column];
    const int* bmu_rows = groups.group_row + start;
    product_tile<Weights::by_row>(
        tiling.row(), rows, tiling.feature(), groups.column_groups[column], NOTHING,
        [&](std::int64_t r, std::int64_t g) { return factor[bmu_rows[g] * rows + r]; },
        [&](std::int64_t g, std::int64_t d) { return sums.load(start + g, d); },
        [&](std::int64_t r, std::int64_t d, float4 v) { spread.store(r * cols + column, d, v); });
}

// smoothed[l, m] (+)= sum over k of factor[m, k] * x[l, k], or of factor[k, m] where it is read by row, for the lines l of an axis,
// `line_apart` units from one another, and their units, `unit_apart`
template <Weights ORDER>
__global__ void __launch_bounds__(PRODUCT_THREADS, PRODUCT_BLOCKS) smooth_lines(
    Tiling tiling, Rows<const float> x, std::int64_t line_apart, std::int64_t unit_apart, std::int64_t count,
    const float* factor, bool is_first, Rows<float> smoothed) {
    const std::int64_t first = tiling.repeat() * line_apart;
    product_tile<ORDER>(
        tiling.row(), count, tiling.feature(), count, NOTHING,
        [&](std::int64_t m, std::int64_t k) { return factor[ORDER == Weights::by_row ? k * count + m : m * count + k]; },
        [&](std::int64_t k, std::int64_t d) { return x.load(first + k * unit_apart, d); },
        [&](std::int64_t m, std::int64_t d, float4 v) {
            const std::int64_t at = first + m * unit_apart;
            smoothed.store(at, d, is_first ? v : smoothed.load(at, d) + v);
        });
}

const float* row_factor(const Neighborhood& h, std::int64_t term) { return h.row_factors + term * h.rows * h.rows; }
const float* col_factor(const Neighborhood& h, std::int64_t term) { return h.col_factors + term * h.cols * h.cols; }

}  // namespace

void smooth_prototypes(
    const Problem& p, const Neighborhood& h, std::int64_t term, const Packed& prototypes, const Features& centre,
    const Features& smoothed, cudaStream_t stream) {
    const Tiling tiling(h.cols, p.dim, h.rows);
    by_dtype(p.z.dtype, [&](auto zero) {
        using T = decltype(zero);
        launch(
            "smooth_normalised", smooth_normalised<T>, tiling.blocks(), PRODUCT_THREADS, stream, tiling,
            make_rows<T>(p.prototypes, p.dim), prototypes.inverse, prototypes.inverse_rest, centre, h.cols,
            col_factor(h, term), smoothed);
    });
}

void combine_rows(
    const Problem& p, const Neighborhood& h, std::int64_t term, const Features& smoothed, const Groups& groups,
    const Features& combined, cudaStream_t stream) {
    const Tiling tiling(h.rows < p.batch ? h.rows : p.batch, p.dim, h.cols);
    launch(
        "combine_at_bmus", combine_at_bmus, tiling.blocks(), PRODUCT_THREADS, stream, tiling, smoothed, groups, h.rows,
        h.cols, row_factor(h, term), term == 0, combined);
}

void spread_rows(
    const Problem& p, const Neighborhood& h, std::int64_t term, const Features& sums, const Groups& groups,
    const Features& spread, cudaStream_t stream) {
    const Tiling tiling(h.rows, p.dim, h.cols);
    launch(
        "spread_from_bmus", spread_from_bmus, tiling.blocks(), PRODUCT_THREADS, stream, tiling, sums, groups, h.rows,
        h.cols, row_factor(h, term), spread);
}

void smooth_along(
    Axis axis, const Neighborhood& h, std::int64_t term, bool transposed, const Rows<const float>& x, const Features& smoothed,
    bool is_first, cudaStream_t stream) {
    const bool is_cols = axis == Axis::cols;
    const std::int64_t count = is_cols ? h.cols : h.rows, lines = is_cols ? h.rows : h.cols;
    const Tiling tiling(count, x.dim, lines);
    launch(
        "smooth_lines", transposed ? smooth_lines<Weights::by_row> : smooth_lines<Weights::by_depth>, tiling.blocks(),
        PRODUCT_THREADS, stream, tiling, x, is_cols ? h.cols : 1, is_cols ? 1 : h.cols, count,
        is_cols ? col_factor(h, term) : row_factor(h, term), is_first, smoothed);
}

}  // namespace vitsom::cuda

// Gradients: dL/dz^ = -scale * attraction; dL/dw^ = -scale * (G A), A_k the sum of z^ over the samples whose BMU is k; both
// through the normalisation.
//
// A is sparse: the samples are summed up by BMU first. Then, a slab of grid rows at a time, the sums of each column of the grid
// are spread along its rows, and each row of the slab is smoothed along the columns and projected, all while it is in cache.
// Bytes: z is read twice, its sums written once and read once a slab, the attraction and the prototypes read once and the
// gradients written once.
#pragma once

#include "samples.h"
#include "search.h"
#include "smoothing.h"

namespace vitsom {
namespace VITSOM_ISA {

// Bytes of the spread samples that the slab of one thread may take. On the same map as in forward.h the gradient took 11 ms with 1
// or 2 MB, 14 to 19 with 4 and 15 to 20 with the whole map spread at once.
constexpr std::int64_t SLAB_BYTES = 2 << 20;

struct Backward {
    std::int64_t chunks, slab_rows;
    int slab_threads;          // as many as there are slabs for
    Samples samples;
    double* inverse_z;         // [batch]
    std::int64_t* every;       // [max(rows, cols)] 0, 1, 2, ...
    std::int64_t full_count;
    std::int64_t* full_cols;   // [cols] columns that hold a BMU
    PackedFactor* cols;        // [terms] out: every column, in: full_cols
    bool* reached;             // [terms][rows] whether a grid row receives from a term
    PackedFactor rows;         // one a thread
    float* sums;               // [full column][chunk][its BMUs][TILE_COLS]
    float* spread;             // [threads][slab row][chunk][full column][TILE_COLS]
    float* gradient;           // [threads][slab row][cols][dim] where the result itself is not fp32

    template <class T>
    void take(Arena& arena, const Problem& p, const Neighborhood& h, int threads) {
        chunks = ceil_div(p.dim, TILE_COLS);
        const std::int64_t column_rows = smaller(h.rows, p.batch), full = smaller(h.cols, p.batch);
        const std::int64_t row_size = chunks * full * TILE_COLS;
        const std::int64_t fitting = SLAB_BYTES / (larger(1, row_size) * static_cast<std::int64_t>(sizeof(float)));
        // At least 4 rows, or the register tile starves; not so many that a thread idles.
        slab_rows = smaller(smaller(TILE_ROWS, larger(4, fitting)), ceil_div(h.rows, threads));
        slab_threads = static_cast<int>(smaller(threads, ceil_div(h.rows, slab_rows)));
        Samples::take(arena, samples, p.batch, h.rows, h.cols);
        inverse_z = arena.take<double>(p.batch);
        every = arena.take<std::int64_t>(larger(h.rows, h.cols));
        full_cols = arena.take<std::int64_t>(h.cols);
        PackedFactor* taken = arena.take<PackedFactor>(h.terms);
        for (std::int64_t t = 0; t < h.terms; ++t) {
            PackedFactor factor{};
            PackedFactor::take(arena, factor, h.cols, full, 1);
            if (taken) taken[t] = factor;
        }
        cols = taken;
        reached = arena.take<bool>(h.terms * h.rows);
        PackedFactor::take(arena, rows, slab_rows, column_rows, slab_threads);
        sums = arena.take<float>(smaller(p.batch, p.num_prototypes) * chunks * TILE_COLS);
        spread = arena.take<float>(slab_threads * slab_rows * row_size);
        gradient = arena.take<float>(sizeof(T) == sizeof(float) ? 0 : slab_threads * slab_rows * h.cols * p.dim);
    }

    void prepare(const Problem& p, const Neighborhood& h, const std::int64_t* bmu) {
        samples.sort(bmu, p.batch, h.rows, h.cols);
        for (std::int64_t i = 0; i < larger(h.rows, h.cols); ++i) every[i] = i;
        full_count = 0;
        for (std::int64_t c = 0; c < h.cols; ++c) {
            if (samples.column[c] < samples.column[c + 1]) full_cols[full_count++] = c;
        }
        for (std::int64_t t = 0; t < h.terms; ++t) {
            cols[t].pack(factor(h.col_factors, h.cols, t, true), every, h.cols, full_cols, full_count);
            mark_active_outs(factor(h.row_factors, h.rows, t, true), h.rows, reached + t * h.rows);
        }
    }

    float* sums_of(std::int64_t column) const { return sums + samples.column[column] * chunks * TILE_COLS; }
    std::int64_t bmus_of(std::int64_t column) const { return samples.column[column + 1] - samples.column[column]; }
};

// WIDTH features, from d on, of the sum of z^ over the samples of a BMU; in fp64, for 20000 samples of one BMU summed up in fp32
// are wrong by 6e-6.
template <class T>
void sum_samples(const Problem& p, const Backward& b, std::int64_t group, std::int64_t d, float* out) {
    const std::int64_t rest = p.dim - d;
    DoublePair total{};
    for (std::int64_t s = b.samples.start[group]; s < b.samples.start[group + 1] && rest > 0; ++s) {
        const std::int64_t i = b.samples.order[s];
        const T* z = row<T>(p.z, i) + d;
        const float inverse = static_cast<float>(b.inverse_z[i]);
        const DoublePair v = widen(inverse * (rest >= WIDTH ? load(z) : load_partial(z, rest)));
        total.low += v.low;
        total.high += v.high;
    }
    store(out, narrow(total));
}

template <class T>
void sum_column(const Problem& p, const Backward& b, std::int64_t column) {
    const std::int64_t bmus = b.bmus_of(column);
    for (std::int64_t j = 0; j < bmus; ++j) {
        for (std::int64_t chunk = 0; chunk < b.chunks; ++chunk) {
            float* out = b.sums_of(column) + (chunk * bmus + j) * TILE_COLS;
            sum_samples<T>(p, b, b.samples.column[column] + j, chunk * TILE_COLS, out);
            sum_samples<T>(p, b, b.samples.column[column] + j, chunk * TILE_COLS + WIDTH, out + WIDTH);
        }
    }
}

// One term of the spread samples for the grid rows [first, first + count).
inline void spread_along_rows(
    const Problem& p, const Neighborhood& h, const Backward& b, std::int64_t term, std::int64_t first, std::int64_t count,
    float* spread) {
    PackedFactor rows = b.rows.copy(b.slab_rows, smaller(h.rows, p.batch), omp_get_thread_num());
    for (std::int64_t full = 0; full < b.full_count; ++full) {
        const std::int64_t column = b.full_cols[full], bmus = b.bmus_of(column);
        const std::int64_t* bmu_rows = b.samples.row + b.samples.column[column];
        rows.pack(factor(h.row_factors, h.rows, term, true), b.every + first, count, bmu_rows, bmus);
        for (std::int64_t chunk = 0; chunk < b.chunks; ++chunk) {
            float* out = spread + (chunk * b.full_count + full) * TILE_COLS;
            rows.apply(b.sums_of(column) + chunk * bmus * TILE_COLS, [&](std::int64_t r, Vec low, Vec high) {
                store(out + r * b.chunks * b.full_count * TILE_COLS, low);
                store(out + r * b.chunks * b.full_count * TILE_COLS + WIDTH, high);
            });
        }
    }
}

// gradient [cols][dim] = or += one term of one grid row.
template <bool ADD>
void smooth_along_columns(const Problem& p, const Backward& b, std::int64_t term, const float* spread, float* gradient) {
    for (std::int64_t chunk = 0; chunk < b.chunks; ++chunk) {
        const std::int64_t d = chunk * TILE_COLS, count = smaller(TILE_COLS, p.dim - d);
        b.cols[term].apply(spread + chunk * b.full_count * TILE_COLS, [&](std::int64_t c, Vec low, Vec high) {
            store_chunk<ADD>(gradient + c * p.dim + d, count, low, high);
        });
    }
}

template <class T>
void gradient_of_z(const Problem& p, double scale, const float* attraction, T* grad_z) {
    [[maybe_unused]] const int threads = useful_threads(8 * p.batch * p.dim, p.threads);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < p.batch; ++i) {
        gradient_through_normalization(row<T>(p.z, i), attraction + i * p.dim, -scale, grad_z + i * p.dim, p.dim);
    }
}

template <class T>
void gradient_of_prototypes(
    const Problem& p, const Neighborhood& h, double scale, const std::int64_t* bmu, T* grad_prototypes) {
    const int threads = smoothing_threads(p, h);
    Backward b{};
    Arena arena;
    lay_out(arena, [&](Arena& a) { b.take<T>(a, p, h, threads); });
    b.prepare(p, h, bmu);
    bool finite = true;
#pragma omp parallel for schedule(static) reduction(&& : finite) num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < p.batch; ++i) {
        b.inverse_z[i] = inverse_norm(row<T>(p.z, i), p.dim);
        finite = finite && b.inverse_z[i] == b.inverse_z[i];
    }
    if (!finite) {  // a bad sample pulls on every prototype, be its weight 0: 0 * NaN is NaN
        fill(grad_prototypes, p.num_prototypes * p.dim, __builtin_nanf(""));
        return;
    }
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (std::int64_t full = 0; full < b.full_count; ++full) sum_column<T>(p, b, b.full_cols[full]);

    const std::int64_t slabs = ceil_div(h.rows, b.slab_rows), row_size = b.chunks * b.full_count * TILE_COLS;
#pragma omp parallel for schedule(dynamic) num_threads(b.slab_threads) if (b.slab_threads > 1)
    for (std::int64_t slab = 0; slab < slabs; ++slab) {
        const std::int64_t first = slab * b.slab_rows, count = smaller(b.slab_rows, h.rows - first);
        float* spread = b.spread + omp_get_thread_num() * b.slab_rows * b.chunks * smaller(h.cols, p.batch) * TILE_COLS;
        T* out = grad_prototypes + first * h.cols * p.dim;
        float* gradient = sizeof(T) == sizeof(float) ? reinterpret_cast<float*>(out)
                                                     : b.gradient + omp_get_thread_num() * b.slab_rows * h.cols * p.dim;
        for (std::int64_t term = 0; term < h.terms; ++term) {
            spread_along_rows(p, h, b, term, first, count, spread);
            for (std::int64_t r = 0; r < count; ++r) {
                const float* x = spread + r * row_size;
                float* row_gradient = gradient + r * h.cols * p.dim;
                const bool is_reached = b.reached[term * h.rows + first + r];
                if (is_reached && term == 0) smooth_along_columns<false>(p, b, term, x, row_gradient);
                else if (is_reached) smooth_along_columns<true>(p, b, term, x, row_gradient);
                else if (term == 0) fill(row_gradient, h.cols * p.dim, 0.0f);
                if (term < h.terms - 1) continue;
                for (std::int64_t c = 0; c < h.cols; ++c) {
                    const T* w = row<T>(p.prototypes, (first + r) * h.cols + c);
                    const std::int64_t at = (r * h.cols + c) * p.dim;
                    gradient_through_normalization(w, gradient + at, -scale, out + at, p.dim);
                }
            }
        }
    }
}

template <class T>
void som_backward(
    const Problem& p, const Neighborhood& h, double scale, const std::int64_t* bmu, const float* attraction, void* grad_z,
    void* grad_prototypes) {
    use_huge_pages(grad_z, static_cast<std::size_t>(p.batch * p.dim) * sizeof(T));
    use_huge_pages(grad_prototypes, static_cast<std::size_t>(p.num_prototypes * p.dim) * sizeof(T));
    if (grad_z) gradient_of_z(p, scale, attraction, static_cast<T*>(grad_z));
    if (grad_prototypes) gradient_of_prototypes(p, h, scale, bmu, static_cast<T*>(grad_prototypes));
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

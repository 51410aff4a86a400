// Gradients: dL/dz^ = -scale * attraction; dL/dw^ = -scale * (G A), A_k the sum of z^ over the samples whose BMU is k; both
// through the normalisation.
//
// A is sparse: per term, the samples of each column of the grid are spread along its rows, then all is smoothed along the columns,
// a grid row at a time so that it is still in cache when its gradients are projected. Bytes: z is read twice, the attraction once,
// the spread map is written and read once, the prototypes are read once and the gradients written once.
#pragma once

#include "samples.h"
#include "search.h"
#include "smoothing.h"

namespace vitsom {
namespace VITSOM_ISA {

struct Backward {
    std::int64_t chunks;
    Samples samples;
    float* inverse_z;         // [batch]
    std::int64_t* every;      // [cols] 0, 1, 2, ...
    std::int64_t* in_rows;    // [rows] grid rows whose samples enter the current term
    std::int64_t* out_rows;   // [rows] grid rows that it reaches
    std::int64_t* position;   // [rows] of a grid row among out_rows, or -1
    std::int64_t* full_cols;  // [cols] columns that hold such samples
    bool* enters;             // [rows] whether a grid row is among in_rows
    bool* written;            // [rows] whether a term has reached the grid row
    PackedFactor rows;        // one a thread
    PackedFactor cols;
    std::int64_t* group;      // [threads][rows]
    std::int64_t* group_row;  // [threads][rows]
    float* sums;              // [threads][rows][TILE_COLS]
    float* spread;            // [chunk][out_row][full_col][TILE_COLS]
    float* gradient;          // [num_prototypes][dim] where the result itself is not fp32

    template <class T>
    void take(Arena& arena, const Problem& p, const Neighborhood& h, int threads) {
        chunks = ceil_div(p.dim, TILE_COLS);
        const std::int64_t column_rows = smaller(h.rows, p.batch), full = smaller(h.cols, p.batch);
        Samples::take(arena, samples, p.batch, h.rows, h.cols);
        inverse_z = arena.take<float>(p.batch);
        every = arena.take<std::int64_t>(h.cols);
        in_rows = arena.take<std::int64_t>(h.rows);
        out_rows = arena.take<std::int64_t>(h.rows);
        position = arena.take<std::int64_t>(h.rows);
        full_cols = arena.take<std::int64_t>(h.cols);
        enters = arena.take<bool>(h.rows);
        written = arena.take<bool>(h.rows);
        PackedFactor::take(arena, rows, h.rows, column_rows, threads);
        PackedFactor::take(arena, cols, h.cols, full, 1);
        group = arena.take<std::int64_t>(threads * h.rows);
        group_row = arena.take<std::int64_t>(threads * h.rows);
        sums = arena.take<float>(threads * h.rows * TILE_COLS);
        spread = arena.take<float>(chunks * h.rows * full * TILE_COLS);
        gradient = arena.take<float>(sizeof(T) == sizeof(float) ? 0 : p.num_prototypes * p.dim);
    }

    bool column_enters(std::int64_t column) const {
        for (std::int64_t g = samples.column[column]; g < samples.column[column + 1]; ++g) {
            if (enters[samples.row[g]]) return true;
        }
        return false;
    }
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
        const DoublePair v = widen(b.inverse_z[i] * (rest >= WIDTH ? load(z) : load_partial(z, rest)));
        total.low += v.low;
        total.high += v.high;
    }
    store(out, narrow(total));
}

template <class T>
void spread_along_rows(
    const Problem& p, const Neighborhood& h, const Backward& b, Factor row_factor, std::int64_t out_count,
    std::int64_t full_count, std::int64_t full) {
    const int thread = omp_get_thread_num();
    std::int64_t* group = b.group + thread * h.rows;
    std::int64_t* group_row = b.group_row + thread * h.rows;
    float* sums = b.sums + thread * h.rows * TILE_COLS;
    const std::int64_t column = b.full_cols[full];
    std::int64_t count = 0;
    for (std::int64_t g = b.samples.column[column]; g < b.samples.column[column + 1]; ++g) {
        if (!b.enters[b.samples.row[g]]) continue;
        group[count] = g;
        group_row[count++] = b.samples.row[g];
    }
    PackedFactor rows = b.rows.copy(h.rows, smaller(h.rows, p.batch), thread);
    rows.pack(row_factor, b.out_rows, out_count, group_row, count);
    for (std::int64_t chunk = 0; chunk < b.chunks; ++chunk) {
        const std::int64_t d = chunk * TILE_COLS;
        for (std::int64_t j = 0; j < count; ++j) {
            sum_samples<T>(p, b, group[j], d, sums + j * TILE_COLS);
            sum_samples<T>(p, b, group[j], d + WIDTH, sums + j * TILE_COLS + WIDTH);
        }
        float* out = b.spread + (chunk * out_count * full_count + full) * TILE_COLS;
        rows.apply(sums, [&](std::int64_t r, Vec low, Vec high) {
            store(out + r * full_count * TILE_COLS, low);
            store(out + r * full_count * TILE_COLS + WIDTH, high);
        });
    }
}

// Adds a term to the gradient of the prototypes of one grid row.
inline void smooth_row(
    const Problem& p, const Neighborhood& h, const Backward& b, std::int64_t out_row, std::int64_t out_count,
    std::int64_t full_count, float* gradient) {
    const std::int64_t grid_row = b.out_rows[out_row];
    for (std::int64_t chunk = 0; chunk < b.chunks; ++chunk) {
        const std::int64_t d = chunk * TILE_COLS, count = smaller(TILE_COLS, p.dim - d);
        const float* x = b.spread + (chunk * out_count + out_row) * full_count * TILE_COLS;
        float* out = gradient + grid_row * h.cols * p.dim + d;
        if (b.written[grid_row]) {
            b.cols.apply(x, [&](std::int64_t c, Vec low, Vec high) { store_chunk<true>(out + c * p.dim, count, low, high); });
        } else {
            b.cols.apply(x, [&](std::int64_t c, Vec low, Vec high) { store_chunk<false>(out + c * p.dim, count, low, high); });
        }
    }
    b.written[grid_row] = true;
}

template <class T>
void gradient_of_z(const Problem& p, double scale, const float* attraction, T* grad_z) {
    const int threads = useful_threads(8 * p.batch * p.dim, p.threads);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < p.batch; ++i) {
        gradient_through_normalization(row<T>(p.z, i), attraction + i * p.dim, -scale, grad_z + i * p.dim, p.dim);
    }
}

template <class T>
void gradient_of_prototypes(
    const Problem& p, const Neighborhood& h, double scale, const std::int64_t* bmu, T* grad_prototypes) {
    const int threads = useful_threads(p.num_prototypes * p.dim * h.cols + p.batch * p.dim * h.rows, p.threads);
    Backward b{};
    Arena arena;
    lay_out(arena, [&](Arena& a) { b.take<T>(a, p, h, threads); });
    float* gradient = sizeof(T) == sizeof(float) ? reinterpret_cast<float*>(grad_prototypes) : b.gradient;
    b.samples.sort(bmu, p.batch, h.rows, h.cols);
    for (std::int64_t c = 0; c < h.cols; ++c) b.every[c] = c;
    for (std::int64_t r = 0; r < h.rows; ++r) b.written[r] = false;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < p.batch; ++i) {
        b.inverse_z[i] = static_cast<float>(inverse_norm(row<T>(p.z, i), p.dim));
    }
    bool finite = true;
    for (std::int64_t i = 0; i < p.batch; ++i) finite &= b.inverse_z[i] == b.inverse_z[i];
    if (!finite) {  // a bad sample pulls on every prototype, be its weight 0: 0 * NaN is NaN
        fill(grad_prototypes, p.num_prototypes * p.dim, __builtin_nanf(""));
        return;
    }

    for (std::int64_t term = 0; term < h.terms; ++term) {
        const Factor rows = factor(h.row_factors, h.rows, term, true), cols = factor(h.col_factors, h.cols, term, true);
        const std::int64_t in_count = active_outs(transposed(rows), h.rows, b.in_rows);
        const std::int64_t out_count = active_outs(rows, h.rows, b.out_rows);
        for (std::int64_t r = 0; r < h.rows; ++r) {
            b.enters[r] = false;
            b.position[r] = -1;
        }
        for (std::int64_t r = 0; r < in_count; ++r) b.enters[b.in_rows[r]] = true;
        for (std::int64_t r = 0; r < out_count; ++r) b.position[b.out_rows[r]] = r;
        std::int64_t full_count = 0;
        for (std::int64_t c = 0; c < h.cols; ++c) {
            if (b.column_enters(c)) b.full_cols[full_count++] = c;
        }
        b.cols.pack(cols, b.every, h.cols, b.full_cols, full_count);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
        for (std::int64_t full = 0; full < full_count; ++full) {
            spread_along_rows<T>(p, h, b, rows, out_count, full_count, full);
        }
        const bool is_last = term == h.terms - 1;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
        for (std::int64_t r = 0; r < h.rows; ++r) {
            if (b.position[r] >= 0) smooth_row(p, h, b, b.position[r], out_count, full_count, gradient);
            if (!is_last) continue;
            for (std::int64_t k = r * h.cols; k < (r + 1) * h.cols; ++k) {
                if (!b.written[r]) fill(gradient + k * p.dim, p.dim, 0.0f);
                gradient_through_normalization(
                    row<T>(p.prototypes, k), gradient + k * p.dim, -scale, grad_prototypes + k * p.dim, p.dim);
            }
        }
    }
}

template <class T>
void som_backward(
    const Problem& p, const Neighborhood& h, double scale, const std::int64_t* bmu, const float* attraction, void* grad_z,
    void* grad_prototypes) {
    if (grad_z) gradient_of_z(p, scale, attraction, static_cast<T*>(grad_z));
    if (grad_prototypes) gradient_of_prototypes(p, h, scale, bmu, static_cast<T*>(grad_prototypes));
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

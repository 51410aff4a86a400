// Loss and attraction: loss = scale * sum over i of (n_b - z^_i . S_b), S = G W^, n = G 1, b the BMU of sample i.
//
// S is wanted at the BMUs only. Per term of the neighborhood: smooth all prototypes along the columns of the grid, then combine
// rows for the distinct BMUs of each column. Bytes: the prototypes are read twice (search, smoothing), the smoothed map is written
// and read once, z is read three times and the attraction written once.
#pragma once

#include "samples.h"
#include "search.h"
#include "smoothing.h"

namespace vitsom {
namespace VITSOM_ISA {

// Chunks of TILE_COLS features whose prototypes are fetched together: 128-byte reads alone leave the prefetcher behind.
constexpr std::int64_t CHUNKS_AT_ONCE = 4;

struct Forward {
    std::int64_t chunks;
    Samples samples;
    double* weight;         // [num_prototypes] n
    double* column_sums;    // [cols]
    double* sample_loss;    // [batch]
    std::int64_t* every;    // [max(rows, cols)] 0, 1, 2, ...
    std::int64_t* in_rows;  // [rows] grid rows that enter the current term
    std::int64_t* out_rows; // [rows]
    bool* wanted;           // [rows] whether a grid row is among out_rows
    PackedFactor cols;
    PackedFactor rows;      // one a thread
    float* packed;          // [threads][CHUNKS_AT_ONCE][cols][TILE_COLS]
    float* smoothed;        // [chunk][col][in_row][TILE_COLS]
    std::int64_t* group;    // [threads][rows] groups of a column that the current term reaches
    std::int64_t* group_row;// [threads][rows] and their grid rows

    void take(Arena& arena, const Problem& p, const Neighborhood& h, int threads) {
        chunks = ceil_div(p.dim, TILE_COLS);
        const std::int64_t column_rows = smaller(h.rows, p.batch);
        Samples::take(arena, samples, p.batch, h.rows, h.cols);
        weight = arena.take<double>(p.num_prototypes);
        column_sums = arena.take<double>(h.cols);
        sample_loss = arena.take<double>(p.batch);
        every = arena.take<std::int64_t>(larger(h.rows, h.cols));
        in_rows = arena.take<std::int64_t>(h.rows);
        out_rows = arena.take<std::int64_t>(h.rows);
        wanted = arena.take<bool>(h.rows);
        PackedFactor::take(arena, cols, h.cols, h.cols, 1);
        PackedFactor::take(arena, rows, column_rows, h.rows, threads);
        packed = arena.take<float>(threads * CHUNKS_AT_ONCE * h.cols * TILE_COLS);
        smoothed = arena.take<float>(chunks * h.cols * h.rows * TILE_COLS);
        group = arena.take<std::int64_t>(threads * h.rows);
        group_row = arena.take<std::int64_t>(threads * h.rows);
    }
};

inline int smoothing_threads(const Problem& p, const Neighborhood& h) {
    return useful_threads(p.num_prototypes * p.dim * h.cols + p.batch * p.dim * h.rows, p.threads);
}

template <class T>
void smooth_along_columns(
    const Problem& p, const Neighborhood& h, Forward& f, std::int64_t in_count, const float* inverse, int threads) {
    const std::int64_t batches = ceil_div(f.chunks, CHUNKS_AT_ONCE);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t task = 0; task < in_count * batches; ++task) {
        const std::int64_t in = task / batches, first_chunk = task % batches * CHUNKS_AT_ONCE;
        const std::int64_t last_chunk = smaller(f.chunks, first_chunk + CHUNKS_AT_ONCE);
        float* packed = f.packed + omp_get_thread_num() * CHUNKS_AT_ONCE * h.cols * TILE_COLS;
        for (std::int64_t c = 0; c < h.cols; ++c) {
            const std::int64_t k = f.in_rows[in] * h.cols + c;
            for (std::int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
                const std::int64_t d = chunk * TILE_COLS;
                float* out = packed + ((chunk - first_chunk) * h.cols + c) * TILE_COLS;
                pack_chunk(row<T>(p.prototypes, k) + d, p.dim - d, inverse[k], out);
            }
        }
        for (std::int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
            float* out = f.smoothed + (chunk * h.cols * in_count + in) * TILE_COLS;
            f.cols.apply(packed + (chunk - first_chunk) * h.cols * TILE_COLS, [&](std::int64_t c, Vec low, Vec high) {
                store(out + c * in_count * TILE_COLS, low);
                store(out + c * in_count * TILE_COLS + WIDTH, high);
            });
        }
    }
}

// Adds a term to the attraction of the first sample of each BMU; the others are copies, made by `finish_column`.
inline void combine_rows(
    const Problem& p, const Neighborhood& h, const Forward& f, Factor row_factor, std::int64_t in_count, std::int64_t column,
    bool is_first_term, float* attraction) {
    const int thread = omp_get_thread_num();
    std::int64_t* group = f.group + thread * h.rows;
    std::int64_t* group_row = f.group_row + thread * h.rows;
    const auto attraction_of = [&](std::int64_t g) { return attraction + f.samples.order[f.samples.start[g]] * p.dim; };
    std::int64_t count = 0;
    for (std::int64_t g = f.samples.column[column]; g < f.samples.column[column + 1]; ++g) {
        if (is_first_term) fill(attraction_of(g), p.dim, 0.0f);
        if (!f.wanted[f.samples.row[g]]) continue;
        group[count] = g;
        group_row[count++] = f.samples.row[g];
    }
    PackedFactor rows = f.rows.copy(smaller(h.rows, p.batch), h.rows, thread);
    rows.pack(row_factor, group_row, count, f.in_rows, in_count);
    for (std::int64_t chunk = 0; chunk < f.chunks; ++chunk) {
        const std::int64_t d = chunk * TILE_COLS;
        const float* x = f.smoothed + (chunk * h.cols + column) * in_count * TILE_COLS;
        rows.apply(x, [&](std::int64_t out, Vec low, Vec high) {
            store_chunk<true>(attraction_of(group[out]) + d, smaller(TILE_COLS, p.dim - d), low, high);
        });
    }
}

template <class T>
void finish_column(const Problem& p, const Forward& f, std::int64_t column, const std::int64_t* bmu, float* attraction) {
    for (std::int64_t g = f.samples.column[column]; g < f.samples.column[column + 1]; ++g) {
        const std::int64_t start = f.samples.start[g];
        const float* first = attraction + f.samples.order[start] * p.dim;
        for (std::int64_t s = start; s < f.samples.start[g + 1]; ++s) {
            const std::int64_t i = f.samples.order[s];
            const T* z = row<T>(p.z, i);
            f.sample_loss[i] = f.weight[bmu[i]] - dot(z, first, p.dim) * inverse_norm(z, p.dim);
            if (s > start) std::memcpy(attraction + i * p.dim, first, static_cast<std::size_t>(p.dim) * sizeof(float));
        }
    }
}

template <class T>
void som_forward(
    const Problem& p, const Neighborhood& h, double scale, float* loss, std::int64_t* bmu, float* attraction) {
    *loss = 0;
    if (p.batch == 0) return;
    Arena norms;
    Search found{bmu, nullptr, nullptr, nullptr};
    lay_out(norms, [&](Arena& arena) {
        found.score = arena.take<float>(p.batch);
        found.inverse_z = arena.take<float>(p.batch);
        found.inverse_prototype = arena.take<float>(p.num_prototypes);
    });
    {
        SearchPlan plan = plan_search(p);
        Arena arena;
        lay_out(arena, [&](Arena& a) { take_search(a, p, plan); });
        search<T>(p, plan, found);
    }

    const int threads = smoothing_threads(p, h);
    Forward f{};
    Arena arena;
    lay_out(arena, [&](Arena& a) { f.take(a, p, h, threads); });
    f.samples.sort(bmu, p.batch, h.rows, h.cols);
    for (std::int64_t k = 0; k < p.num_prototypes; ++k) f.weight[k] = 0;
    for (std::int64_t i = 0; i < larger(h.rows, h.cols); ++i) f.every[i] = i;

    for (std::int64_t term = 0; term < h.terms; ++term) {
        const Factor rows = factor(h.row_factors, h.rows, term, false), cols = factor(h.col_factors, h.cols, term, false);
        add_total_weight(rows, h.rows, cols, h.cols, f.column_sums, f.weight);
        const std::int64_t in_count = active_outs(transposed(rows), h.rows, f.in_rows);
        const std::int64_t out_count = active_outs(rows, h.rows, f.out_rows);
        for (std::int64_t r = 0; r < h.rows; ++r) f.wanted[r] = false;
        for (std::int64_t r = 0; r < out_count; ++r) f.wanted[f.out_rows[r]] = true;
        f.cols.pack(cols, f.every, h.cols, f.every, h.cols);
        smooth_along_columns<T>(p, h, f, in_count, found.inverse_prototype, threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
        for (std::int64_t column = 0; column < h.cols; ++column) {
            combine_rows(p, h, f, rows, in_count, column, term == 0, attraction);
            if (term == h.terms - 1) finish_column<T>(p, f, column, bmu, attraction);
        }
    }

    double total = 0;
    for (std::int64_t i = 0; i < p.batch; ++i) total += f.sample_loss[i];
    bool finite = true;
    for (std::int64_t k = 0; k < p.num_prototypes; ++k) finite &= found.inverse_prototype[k] == found.inverse_prototype[k];
    if (!finite) {  // a bad prototype may lie outside every band, where its weight is 0: 0 * NaN is NaN all the same
        total = __builtin_nan("");
        fill(attraction, p.batch * p.dim, __builtin_nanf(""));
    }
    *loss = static_cast<float>(scale * total);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// Loss and attraction: loss = scale * sum over i of (n_b - z^_i . S_b), S = G W^, n = G 1, b the BMU of sample i.
//
// S is wanted at the BMUs only. Per term of the neighborhood: smooth all prototypes along the columns of the grid, then combine
// rows for the distinct BMUs of each column; a slice of the features at a time, so that the smoothed map never leaves the cache.
// Bytes: the prototypes are read twice (search, smoothing), z is read three times and the attraction written once.
#pragma once

#include "samples.h"
#include "search.h"
#include "smoothing.h"

namespace vitsom {
namespace VITSOM_ISA {

// Bytes of the smoothed map that a slice of the features may take. On a map of 40 x 40 with 3136 features a forward pass took
// 22 ms with 1 MB, 23 to 25 with 2 or 4, 26 with 8 and 30 with all features at once (one thread).
constexpr std::int64_t SLICE_BYTES = 1 << 20;

// Chunks of TILE_COLS features whose prototypes are fetched together: 128-byte reads alone leave the prefetcher behind.
constexpr std::int64_t CHUNKS_AT_ONCE = 4;

// One separable term of the neighborhood, ready to be applied.
struct Term {
    Factor row_factor;
    PackedFactor cols;
    std::int64_t in_count;
    std::int64_t* in_rows;  // [rows] grid rows that enter it
    bool* wanted;           // [rows] whether a grid row receives from it
};

struct Forward {
    std::int64_t chunks, slice_chunks;
    Samples samples;
    double* weight;           // [num_prototypes] n
    double* column_sums;      // [cols]
    double* sample_dot;       // [batch] z . S_b
    std::int64_t* every;      // [max(rows, cols)] 0, 1, 2, ...
    Term* terms;              // [terms]
    PackedFactor rows;        // one a thread
    float* packed;            // [threads][CHUNKS_AT_ONCE][cols][TILE_COLS]
    float* smoothed;          // [chunk of the slice][col][in_row][TILE_COLS]
    std::int64_t* group;      // [threads][rows] groups of a column that the current term reaches
    std::int64_t* group_row;  // [threads][rows] and their grid rows

    void take(Arena& arena, const Problem& p, const Neighborhood& h, int threads) {
        chunks = ceil_div(p.dim, TILE_COLS);
        const std::int64_t chunk_size = h.cols * h.rows * TILE_COLS;
        slice_chunks = smaller(chunks, larger(1, SLICE_BYTES / (chunk_size * static_cast<std::int64_t>(sizeof(float)))));
        const std::int64_t column_rows = smaller(h.rows, p.batch);
        Samples::take(arena, samples, p.batch, h.rows, h.cols);
        weight = arena.take<double>(p.num_prototypes);
        column_sums = arena.take<double>(h.cols);
        sample_dot = arena.take<double>(p.batch);
        every = arena.take<std::int64_t>(larger(h.rows, h.cols));
        Term* taken = arena.take<Term>(h.terms);
        for (std::int64_t t = 0; t < h.terms; ++t) {
            Term term{};
            PackedFactor::take(arena, term.cols, h.cols, h.cols, 1);
            term.in_rows = arena.take<std::int64_t>(h.rows);
            term.wanted = arena.take<bool>(h.rows);
            if (taken) taken[t] = term;
        }
        terms = taken;
        PackedFactor::take(arena, rows, column_rows, h.rows, threads);
        packed = arena.take<float>(threads * CHUNKS_AT_ONCE * h.cols * TILE_COLS);
        smoothed = arena.take<float>(slice_chunks * chunk_size);
        group = arena.take<std::int64_t>(threads * h.rows);
        group_row = arena.take<std::int64_t>(threads * h.rows);
    }

    void prepare(const Problem& p, const Neighborhood& h, const std::int64_t* bmu) {
        samples.sort(bmu, p.batch, h.rows, h.cols);
        for (std::int64_t k = 0; k < p.num_prototypes; ++k) weight[k] = 0;
        for (std::int64_t i = 0; i < p.batch; ++i) sample_dot[i] = 0;
        for (std::int64_t i = 0; i < larger(h.rows, h.cols); ++i) every[i] = i;
        for (std::int64_t t = 0; t < h.terms; ++t) {
            Term& term = terms[t];
            const Factor cols = factor(h.col_factors, h.cols, t, false);
            term.row_factor = factor(h.row_factors, h.rows, t, false);
            mark_active_outs(transposed(term.row_factor), h.rows, term.wanted);
            term.in_count = list_marked(term.wanted, h.rows, term.in_rows);
            mark_active_outs(term.row_factor, h.rows, term.wanted);
            term.cols.pack(cols, every, h.cols, every, h.cols);
            add_total_weight(term.row_factor, h.rows, cols, h.cols, column_sums, weight);
        }
    }
};

// A range of chunks of the features.
struct Slice {
    std::int64_t first, last;  // chunks [first, last)

    std::int64_t begin() const { return first * TILE_COLS; }
    std::int64_t count(std::int64_t dim) const { return smaller(dim, last * TILE_COLS) - begin(); }
};

template <class T>
void smooth_along_columns(
    const Problem& p, const Neighborhood& h, const Forward& f, const Term& term, Slice slice, const float* inverse,
    int threads) {
    const std::int64_t batches = ceil_div(slice.last - slice.first, CHUNKS_AT_ONCE);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t task = 0; task < term.in_count * batches; ++task) {
        const std::int64_t in = task / batches, first_chunk = slice.first + task % batches * CHUNKS_AT_ONCE;
        const std::int64_t last_chunk = smaller(slice.last, first_chunk + CHUNKS_AT_ONCE);
        float* packed = f.packed + omp_get_thread_num() * CHUNKS_AT_ONCE * h.cols * TILE_COLS;
        for (std::int64_t c = 0; c < h.cols; ++c) {
            const std::int64_t k = term.in_rows[in] * h.cols + c;
            for (std::int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
                const std::int64_t d = chunk * TILE_COLS;
                float* out = packed + ((chunk - first_chunk) * h.cols + c) * TILE_COLS;
                pack_chunk(row<T>(p.prototypes, k) + d, p.dim - d, inverse[k], out);
            }
        }
        for (std::int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
            float* out = f.smoothed + ((chunk - slice.first) * h.cols * term.in_count + in) * TILE_COLS;
            term.cols.apply(packed + (chunk - first_chunk) * h.cols * TILE_COLS, [&](std::int64_t c, Vec low, Vec high) {
                store(out + c * term.in_count * TILE_COLS, low);
                store(out + c * term.in_count * TILE_COLS + WIDTH, high);
            });
        }
    }
}

// Adds a term to the attraction of the first sample of each BMU of a column; `finish_column` copies it to the others.
inline void combine_rows(
    const Problem& p, const Neighborhood& h, const Forward& f, const Term& term, Slice slice, std::int64_t column,
    bool is_first_term, float* attraction) {
    const int thread = omp_get_thread_num();
    std::int64_t* group = f.group + thread * h.rows;
    std::int64_t* group_row = f.group_row + thread * h.rows;
    const auto attraction_of = [&](std::int64_t g) { return attraction + f.samples.order[f.samples.start[g]] * p.dim; };
    std::int64_t count = 0;
    for (std::int64_t g = f.samples.column[column]; g < f.samples.column[column + 1]; ++g) {
        if (is_first_term) fill(attraction_of(g) + slice.begin(), slice.count(p.dim), 0.0f);
        if (!term.wanted[f.samples.row[g]]) continue;
        group[count] = g;
        group_row[count++] = f.samples.row[g];
    }
    if (count == 0) return;
    PackedFactor rows = f.rows.copy(smaller(h.rows, p.batch), h.rows, thread);
    rows.pack(term.row_factor, group_row, count, term.in_rows, term.in_count);
    for (std::int64_t chunk = slice.first; chunk < slice.last; ++chunk) {
        const std::int64_t d = chunk * TILE_COLS;
        const float* x = f.smoothed + ((chunk - slice.first) * h.cols + column) * term.in_count * TILE_COLS;
        rows.apply(x, [&](std::int64_t out, Vec low, Vec high) {
            store_chunk<true>(attraction_of(group[out]) + d, smaller(TILE_COLS, p.dim - d), low, high);
        });
    }
}

template <class T>
void finish_column(const Problem& p, const Forward& f, Slice slice, std::int64_t column, float* attraction) {
    const std::int64_t begin = slice.begin(), count = slice.count(p.dim);
    for (std::int64_t g = f.samples.column[column]; g < f.samples.column[column + 1]; ++g) {
        const std::int64_t start = f.samples.start[g];
        const float* first = attraction + f.samples.order[start] * p.dim + begin;
        for (std::int64_t s = start; s < f.samples.start[g + 1]; ++s) {
            const std::int64_t i = f.samples.order[s];
            f.sample_dot[i] += dot(row<T>(p.z, i) + begin, first, count);
            if (s > start) {
                std::memcpy(attraction + i * p.dim + begin, first, static_cast<std::size_t>(count) * sizeof(float));
            }
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
        found.inverse_z = arena.take<double>(p.batch);
        found.inverse_prototype = arena.take<float>(p.num_prototypes);
    });
    search<T>(p, found);

    const int threads = smoothing_threads(p, h);
    Forward f{};
    Arena arena;
    lay_out(arena, [&](Arena& a) { f.take(a, p, h, threads); });
    f.prepare(p, h, bmu);
    for (std::int64_t first = 0; first < f.chunks; first += f.slice_chunks) {
        const Slice slice{first, smaller(f.chunks, first + f.slice_chunks)};
        for (std::int64_t t = 0; t < h.terms; ++t) {
            smooth_along_columns<T>(p, h, f, f.terms[t], slice, found.inverse_prototype, threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
            for (std::int64_t column = 0; column < h.cols; ++column) {
                combine_rows(p, h, f, f.terms[t], slice, column, t == 0, attraction);
                if (t == h.terms - 1) finish_column<T>(p, f, slice, column, attraction);
            }
        }
    }

    double total = 0;
    for (std::int64_t i = 0; i < p.batch; ++i) total += f.weight[bmu[i]] - f.sample_dot[i] * found.inverse_z[i];
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

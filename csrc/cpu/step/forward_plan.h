// What a forward pass has ready before it smooths: each term of the neighborhood, packed, and memory for every thread.
#pragma once

#include "cpu/neighborhood/mirror_folding.h"
#include "cpu/step/bmu_groups.h"

namespace vitsom {
namespace VITSOM_ISA {

// Chunks of TILE_COLS features that are packed together; the next ones are fetched meanwhile, as no prefetcher follows so many
// rows at a time.
constexpr std::int64_t CHUNKS_AT_ONCE = 4;

// Bytes of the smoothed map that a slice of the features may take. On a map of 40 x 40 with 3136 features the smoothing took 5.4 ms
// with 2 MB, 5.8 with 1 and 8 with 4 (one thread).
constexpr std::int64_t SLICE_BYTES = 2 << 20;

// The same where each thread has slices of its own: less than half of its second-level cache, and no thread waits for another. On
// that map, two threads take four fifths of the time that they take if they share each slice.
constexpr std::int64_t OWN_SLICE_BYTES = 420 << 10;

// One separable term of the neighborhood, ready to be applied.
struct Term {
    bool is_thin;
    std::int64_t entering;     // grid rows that enter it
    std::int64_t* in_rows;     // [rows] which they are
    bool* wanted;              // [rows] whether a grid row receives from it
    PackedFactor cols;         // in: every column; out: the columns that hold a BMU
    Reduction cols_to_ranks, rows_to_ranks;  // in place of it
    Expansion ranks_to_cols;   // out: the columns that hold a BMU
    Factor combine;            // out: grid rows; in: grid rows, or ranks
    const std::int64_t* combine_in;
    std::int64_t combine_count;

    std::int64_t col_outs() const { return is_thin ? cols_to_ranks.ranks() : cols.outs; }
};

// What smooths one slice.
struct Workspace {
    float* reduced;           // [chunk of the slice][rank of the columns][entering row][TILE_COLS]
    float* smoothed;          // [chunk of the slice][full column][entering row, or rank of the rows][TILE_COLS]
};

// What each thread needs for its part.
struct ForwardScratch {
    PackedFactor rows;
    float* packed;            // [CHUNKS_AT_ONCE][cols][TILE_COLS], or twice that
    float* folded;            // [2 * rows][TILE_COLS], or a chunk that is not whole: [rows][TILE_COLS]
    float* ranks;             // [rank of the rows][rank of the columns][TILE_COLS]
    std::int64_t* group;      // [rows] groups of a column that the current term reaches
    std::int64_t* group_row;  // [rows] and their grid rows
    double* along;            // [batch] z . S_b of its slices; of slices that all threads share, one for all of them
};

struct ForwardPlan {
    std::int64_t chunks, slice_chunks;
    bool own_slices;          // a thread each, or each slice by all threads
    int threads;
    float* centre;            // [chunks * TILE_COLS], zero beyond dim
    BmuGroups samples;
    double* weight;           // [groups] n
    double* row_sums;         // [rows]
    double* column_sums;      // [cols]
    double* rank_sums;        // [max(rows, cols)]
    std::int64_t* every;      // [max(rows, cols)] 0, 1, 2, ...
    Term* terms;              // [terms]
    ForwardScratch* scratch;  // [threads]
    Workspace* workspace;     // [threads], or one

    void take(Arena& arena, const Problem& p, const Neighborhood& h, const ThinTerms& thin) {
        const std::int64_t most_full = smaller(h.cols, p.batch);
        std::int64_t reduced_rows = 0, smoothed_rows = 0, ranks_size = 0;
        for (std::int64_t t = 0; t < h.terms; ++t) {
            const std::int64_t row_rank = thin[t].rows.rank, col_rank = thin[t].cols.rank;
            reduced_rows = larger(reduced_rows, col_rank * h.rows);
            smoothed_rows = larger(smoothed_rows, most_full * (thin[t].is_thin() ? row_rank : h.rows));
            ranks_size = larger(ranks_size, row_rank * col_rank * TILE_COLS);
        }
        chunks = ceil_div(p.dim, TILE_COLS);
        const std::int64_t packed_size = CHUNKS_AT_ONCE * 2 * h.cols * TILE_COLS, most_outs = smaller(h.rows, p.batch);
        const std::int64_t scratch_bytes = static_cast<std::int64_t>(sizeof(float)) *
                                           (packed_size + 2 * h.rows * TILE_COLS + most_outs * h.rows + ranks_size + 2 * p.batch);
        threads = static_cast<int>(smaller(smoothing_threads(p, h), affordable_pieces(p, scratch_bytes)));
        const std::int64_t chunk_bytes = (reduced_rows + smoothed_rows) * TILE_COLS * static_cast<std::int64_t>(sizeof(float));
        own_slices = chunks >= threads && chunk_bytes <= OWN_SLICE_BYTES;
        slice_chunks = smaller(chunks, larger(1, (own_slices ? OWN_SLICE_BYTES : SLICE_BYTES) / chunk_bytes));
        if (own_slices) slice_chunks = smaller(slice_chunks, ceil_div(chunks, threads));
        centre = arena.take<float>(chunks * TILE_COLS);
        BmuGroups::take(arena, samples, p.batch, h.rows, h.cols);
        weight = arena.take<double>(smaller(p.batch, p.num_prototypes));
        row_sums = arena.take<double>(h.rows);
        column_sums = arena.take<double>(h.cols);
        rank_sums = arena.take<double>(larger(h.rows, h.cols));
        every = arena.take<std::int64_t>(larger(h.rows, h.cols));
        Term* taken = arena.take<Term>(h.terms);
        for (std::int64_t t = 0; t < h.terms; ++t) {
            Term term{};
            term.in_rows = arena.take<std::int64_t>(h.rows);
            term.wanted = arena.take<bool>(h.rows);
            const std::int64_t row_rank = thin[t].rows.rank, col_rank = thin[t].cols.rank;
            PackedFactor::take(arena, term.cols, thin[t].is_thin() ? 0 : most_full, h.cols);
            Reduction::take(arena, term.cols_to_ranks, h.cols, col_rank);
            Reduction::take(arena, term.rows_to_ranks, h.rows, row_rank);
            Expansion::take(arena, term.ranks_to_cols, h.cols, col_rank);
            if (taken) taken[t] = term;
        }
        terms = taken;
        ForwardScratch* own = arena.take<ForwardScratch>(threads);
        double* shared_along = own_slices ? nullptr : arena.take<double>(p.batch);
        for (int thread = 0; thread < threads; ++thread) {
            ForwardScratch s{};
            PackedFactor::take(arena, s.rows, most_outs, h.rows);
            s.packed = arena.take<float>(packed_size);
            s.folded = arena.take<float>(2 * h.rows * TILE_COLS);
            s.ranks = arena.take<float>(ranks_size);
            s.group = arena.take<std::int64_t>(h.rows);
            s.group_row = arena.take<std::int64_t>(h.rows);
            s.along = own_slices ? arena.take<double>(p.batch) : shared_along;
            if (own) own[thread] = s;
        }
        scratch = own;
        Workspace* spaces = arena.take<Workspace>(threads);
        for (int i = 0; i < (own_slices ? threads : 1); ++i) {
            Workspace w{};
            w.reduced = arena.take<float>(slice_chunks * reduced_rows * TILE_COLS);
            w.smoothed = arena.take<float>(slice_chunks * smoothed_rows * TILE_COLS);
            if (spaces) spaces[i] = w;
        }
        workspace = spaces;
    }

    // Threads that add up their own `along`: all that were asked for, be they there or not.
    int sums() const { return own_slices ? threads : 1; }

    void prepare(const Problem& p, const Neighborhood& h, const ThinTerms& thin, const std::int64_t* bmu) {
        for (int thread = 0; thread < sums(); ++thread) {
            for (std::int64_t i = 0; i < p.batch; ++i) scratch[thread].along[i] = 0;
        }
        samples.sort(bmu, p.batch, h.rows, h.cols);
        for (std::int64_t g = 0; g < samples.groups; ++g) weight[g] = 0;
        for (std::int64_t i = 0; i < larger(h.rows, h.cols); ++i) every[i] = i;
        for (std::int64_t t = 0; t < h.terms; ++t) {
            Term& term = terms[t];
            const Factor rows = factor(h.row_factors, h.rows, t, false), cols = factor(h.col_factors, h.cols, t, false);
            mark_active_outs(transposed(rows), h.rows, term.wanted);
            term.entering = list_marked(term.wanted, h.rows, term.in_rows);
            mark_active_outs(rows, h.rows, term.wanted);
            term.is_thin = thin[t].is_thin();
            if (term.is_thin) {
                const LowRank &thin_rows = thin[t].rows, &thin_cols = thin[t].cols;
                term.entering = h.rows;
                for (std::int64_t r = 0; r < h.rows; ++r) term.in_rows[r] = r;
                term.cols_to_ranks.pack(thin_cols, [](std::int64_t c) { return c; });
                term.rows_to_ranks.pack(thin_rows, [](std::int64_t r) { return r; });
                term.ranks_to_cols.pack(thin_cols, [&](std::int64_t c) { return samples.full_index[c]; });
                term.combine = thin_rows.expand();
                term.combine_in = every;
                term.combine_count = thin_rows.rank;
                sum_rows(thin_rows, row_sums, rank_sums);
                sum_rows(thin_cols, column_sums, rank_sums);
            } else {
                term.cols.pack(cols, samples.full, samples.full_count, every, h.cols);
                term.combine = rows;
                term.combine_in = term.in_rows;
                term.combine_count = term.entering;
                sum_rows(rows, h.rows, h.rows, row_sums);
                sum_rows(cols, h.cols, h.cols, column_sums);
            }
            for (std::int64_t g = 0; g < samples.groups; ++g) weight[g] += row_sums[samples.row[g]] * column_sums[samples.col[g]];
        }
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

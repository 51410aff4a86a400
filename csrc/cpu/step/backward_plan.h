// What a backward pass has ready before it smooths: the sources of each term of the neighborhood, and memory for every thread.
#pragma once

#include "cpu/neighborhood/mirror_folding.h"
#include "cpu/step/bmu_groups.h"

namespace vitsom {
namespace VITSOM_ISA {

// Bytes of the spread sums that the slab of one thread may take: half of the second-level cache.
constexpr std::int64_t SLAB_BYTES = 512 << 10;

// Bytes of the prototypes that are smoothed and projected together: they and their gradient share the second-level cache.
constexpr std::int64_t PROJECTED_BYTES = 192 << 10;

// What one term of the neighborhood spreads along the rows of the grid: the sums of each column that holds a BMU, or of each rank.
struct Sources {
    bool is_thin;
    bool* reached;                // [rows] whether a grid row receives anything
    Factor spread;                // out: grid rows; in: grid rows
    LowRank rows_from_ranks;      // in its place
    Expansion cols;               // every column from the sources
    PackedFactor* rows_to_ranks;  // [full column] in: its BMUs
    Reduction cols_to_ranks;      // in: the full columns
    std::int64_t row_ranks;
    float* ranks;                 // [rank of the columns][chunk][rank of the rows][TILE_COLS]
};

// What each thread needs for its part.
struct BackwardScratch {
    PackedFactor rows;
    Expansion rows_from_ranks;
    std::int64_t* place;       // [rows] of a grid row in the slab, or -1
    float* reduced;            // [rank of the rows][full column][TILE_COLS]
    float* folded;             // [2 * cols][TILE_COLS]
    float* spread;             // [term][slab row][chunk][source][TILE_COLS]
    float* gradient;           // [columns_at_once][chunk][TILE_COLS]
};

struct BackwardPlan {
    std::int64_t chunks, slab_rows, spread_size, columns_at_once;
    int threads, slab_threads;  // the latter as many as there are slabs for
    std::int64_t* order;       // [rows] the grid rows, as slabs take them: each followed by its mirror image where axes are folded
    Sources* sources;          // [terms]
    float* sums;               // [full column][chunk][its BMUs][TILE_COLS]
    BackwardScratch* scratch;  // [threads]

    std::int64_t gradient_size() const { return chunks * TILE_COLS; }  // of a prototype

    void take(Arena& arena, const Problem& p, const Neighborhood& h, const ThinTerms& thin, const BmuGroups& samples) {
        chunks = ceil_div(p.dim, TILE_COLS);
        std::int64_t most_sources = 0, most_ranks = 0, reduced_size = 0;
        for (std::int64_t t = 0; t < h.terms; ++t) {
            most_sources = larger(most_sources, thin[t].is_thin() ? thin[t].cols.rank : samples.full_count);
            most_ranks = larger(most_ranks, thin[t].rows.rank);
            reduced_size = larger(reduced_size, thin[t].rows.rank * samples.full_count * TILE_COLS);
        }
        spread_size = chunks * most_sources * TILE_COLS;
        const std::int64_t row_bytes = h.terms * spread_size * static_cast<std::int64_t>(sizeof(float));
        const std::int64_t prototype_bytes = p.dim * static_cast<std::int64_t>(sizeof(float));
        columns_at_once = smaller(TILE_ROWS, larger(4, PROJECTED_BYTES / prototype_bytes));
        const std::int64_t scratch_size = reduced_size + 2 * h.cols * TILE_COLS + (TILE_ROWS + most_ranks) * h.rows +
                                          4 * h.terms * spread_size + columns_at_once * gradient_size();
        threads = static_cast<int>(
            smaller(smoothing_threads(p, h), affordable_pieces(p, scratch_size * static_cast<std::int64_t>(sizeof(float)))));
        // At least 4 rows, or the register tile starves; not so many that a thread idles.
        slab_rows = smaller(smaller(TILE_ROWS, larger(4, SLAB_BYTES / row_bytes)), ceil_div(h.rows, threads));
        if (thin.is_folded()) slab_rows = ceil_div(slab_rows, 2) * 2;
        slab_threads = static_cast<int>(smaller(threads, ceil_div(h.rows, slab_rows)));
        order = arena.take<std::int64_t>(h.rows);
        Sources* taken = arena.take<Sources>(h.terms);
        for (std::int64_t t = 0; t < h.terms; ++t) {
            const std::int64_t row_rank = thin[t].rows.rank, col_rank = thin[t].cols.rank;
            Sources s{};
            s.reached = arena.take<bool>(h.rows);
            Expansion::take(arena, s.cols, h.cols, thin[t].is_thin() ? col_rank : samples.full_count);
            PackedFactor* rows_to_ranks = arena.take<PackedFactor>(thin[t].is_thin() ? samples.full_count : 0);
            for (std::int64_t full = 0; full < samples.full_count && thin[t].is_thin(); ++full) {
                PackedFactor factor{};
                PackedFactor::take(arena, factor, row_rank, samples.bmus_of(samples.full[full]));
                if (taken) rows_to_ranks[full] = factor;
            }
            s.rows_to_ranks = rows_to_ranks;
            Reduction::take(arena, s.cols_to_ranks, h.cols, col_rank);
            s.ranks = arena.take<float>(col_rank * chunks * row_rank * TILE_COLS);
            if (taken) taken[t] = s;
        }
        sources = taken;
        sums = arena.take<float>(samples.groups * chunks * TILE_COLS);
        BackwardScratch* own = arena.take<BackwardScratch>(threads);
        for (int thread = 0; thread < threads; ++thread) {
            BackwardScratch s{};
            s.reduced = arena.take<float>(reduced_size);
            s.folded = arena.take<float>(2 * h.cols * TILE_COLS);
            if (thread < slab_threads) {
                PackedFactor::take(arena, s.rows, slab_rows, h.rows);
                Expansion::take(arena, s.rows_from_ranks, h.rows, most_ranks);
                s.place = arena.take<std::int64_t>(h.rows);
                s.spread = arena.take<float>(h.terms * slab_rows * spread_size);
                s.gradient = arena.take<float>(columns_at_once * gradient_size());
            }
            if (own) own[thread] = s;
        }
        scratch = own;
    }

    void prepare(const Neighborhood& h, const ThinTerms& thin, const BmuGroups& samples, float negligible) {
        for (std::int64_t i = 0; i < h.rows; ++i) {
            order[i] = !thin.is_folded() ? i : i % 2 == 0 ? i / 2 : h.rows - 1 - i / 2;
        }
        for (std::int64_t t = 0; t < h.terms; ++t) {
            Sources& s = sources[t];
            const Factor rows = factor(h.row_factors, h.rows, t, true, negligible);
            mark_active_outs(rows, h.rows, s.reached);
            s.is_thin = thin[t].is_thin();
            if (!s.is_thin) {
                s.spread = rows;
                s.cols.pack(
                    factor(h.col_factors, h.cols, t, true, negligible), h.cols, samples.full, samples.full_count, columns_at_once);
                continue;
            }
            const LowRank thin_rows = thin[t].rows.transposed(), thin_cols = thin[t].cols.transposed();
            s.row_ranks = thin_rows.rank;
            s.rows_from_ranks = thin_rows;
            s.cols.pack(thin_cols, [](std::int64_t c) { return c; }, columns_at_once);
            s.cols_to_ranks.pack(thin_cols, [&](std::int64_t c) { return samples.full_index[c]; });
            for (std::int64_t full = 0; full < samples.full_count; ++full) {
                const std::int64_t column = samples.full[full];
                s.rows_to_ranks[full].pack(
                    thin_rows.reduce(), nullptr, thin_rows.rank, samples.row + samples.column[column], samples.bmus_of(column));
            }
        }
    }

    float* sums_of(const BmuGroups& samples, std::int64_t column) const {
        return sums + samples.column[column] * chunks * TILE_COLS;
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

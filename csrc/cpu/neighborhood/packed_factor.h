// Products with the factors of a neighborhood: out[o] = sum over i of factor(o, i) * x[i], both axes through the same code.
#pragma once

#include <cstdint>

#include "cpu/runtime/arena.h"
#include "cpu/simd/packing.h"
#include "cpu/runtime/threads.h"

namespace vitsom {
namespace VITSOM_ISA {

// A weight below this adds nothing that fp32 could see next to the weight 1 of the BMU itself: six neighbors at the distance 2 would
// add 2^-24.
constexpr float NEGLIGIBLE = 0x1p-28f;

// Products in a chain, whose roundings may all go one way.
constexpr std::int64_t SUMMED_AT_ONCE = 48;

// A function of its own: two tiles are more than there are registers.
template <int ROWS>
__attribute__((noinline)) Tile<ROWS> multiply_many(std::int64_t count, const float* a, const float* x) {
    return multiply_in_chains<ROWS, SUMMED_AT_ONCE>(count, a, x);
}

// One matrix of a neighborhood; transposed by its strides.
struct Factor {
    const float* data;
    std::int64_t out_stride, in_stride;
    float negligible = NEGLIGIBLE;  // weights below count as 0

    float operator()(std::int64_t out, std::int64_t in) const { return data[out * out_stride + in * in_stride]; }
    bool matters(float weight) const { return !(weight < negligible && weight > -negligible); }  // NaN matters
};

inline Factor factor(
    const float* factors, std::int64_t size, std::int64_t term, bool transposed, float negligible = NEGLIGIBLE) {
    const float* data = factors + term * size * size;
    return transposed ? Factor{data, 1, size, negligible} : Factor{data, size, 1, negligible};
}

// A selection of a factor's rows and columns, packed for the register tile: [tile][in of its band][rows of the tile].
struct PackedFactor {
    float* data;
    std::int64_t* begin;  // [tile] the band of inputs that matter to any row of the tile
    std::int64_t* end;
    std::int64_t outs, ins, tile_rows;

    static void take(Arena& arena, PackedFactor& f, std::int64_t max_outs, std::int64_t max_ins) {
        f.data = arena.take<float>(max_outs * max_ins);
        f.begin = arena.take<std::int64_t>(max_outs);
        f.end = arena.take<std::int64_t>(max_outs);
    }

    // Tiles of at most `most_rows` rows, all of about the same size: a tile of 1 waits for its only chain of additions. A selection
    // that is nullptr takes the first ones.
    void pack(
        Factor factor, const std::int64_t* out, std::int64_t out_count, const std::int64_t* in, std::int64_t in_count,
        std::int64_t most_rows = TILE_ROWS) {
        outs = out_count;
        ins = in_count;
        const auto selected = [](const std::int64_t* selection, std::int64_t i) { return selection ? selection[i] : i; };
        tile_rows = outs > 0 ? ceil_div(outs, ceil_div(outs, most_rows)) : 1;
        for (std::int64_t first = 0; first < outs; first += tile_rows) {
            const std::int64_t rows = smaller(tile_rows, outs - first);
            float* tile = data + first * ins;
            std::int64_t band_begin = ins, band_end = 0;
            for (std::int64_t i = 0; i < ins; ++i) {
                bool any = false;
                for (std::int64_t r = 0; r < rows; ++r) {
                    const float weight = factor(selected(out, first + r), selected(in, i));
                    const bool kept = factor.matters(weight);
                    tile[i * rows + r] = kept ? weight : 0.0f;
                    any |= kept;
                }
                if (any) {
                    band_begin = smaller(band_begin, i);
                    band_end = i + 1;
                }
            }
            begin[first / tile_rows] = band_begin;
            end[first / tile_rows] = larger(band_begin, band_end);
        }
    }

    // One tile, of ROWS rows from `first` on, of the product with x [ins][TILE_COLS]. Where all inputs and weights are alike, a chain
    // of 128 is wrong by 4.2e-7 of the weights and one of 2000 by 7.8e-6. In chains of 16, a step on 40 x 40 x 3136 takes 1.07 of
    // the time.
    template <int ROWS>
    inline __attribute__((always_inline)) Tile<ROWS> product(std::int64_t first, const float* x) const {
        const std::int64_t from = begin[first / tile_rows], to = end[first / tile_rows];
        const float* const a = data + first * ins + from * ROWS;
        if (to - from > SUMMED_AT_ONCE) return multiply_many<ROWS>(to - from, a, x + from * TILE_COLS);
        Tile<ROWS> tile{};
        multiply<ROWS>(to - from, a, x + from * TILE_COLS, tile);
        return tile;
    }

    // One tile's rows, from `first` on, of the product with x [ins][TILE_COLS]; `write(out, low, high)` gets each.
    template <class Write>
    void apply_tile(std::int64_t first, const float* x, const Write& write) const {
        with_tile_rows(smaller(tile_rows, outs - first), [&](auto constant) {
            constexpr int ROWS = decltype(constant)::value;
            const Tile<ROWS> tile = product<ROWS>(first, x);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r) write(first + r, tile.low[r], tile.high[r]);
        });
    }

    template <class Write>
    void apply(const float* x, const Write& write) const {
        for (std::int64_t first = 0; first < outs; first += tile_rows) apply_tile(first, x, write);
    }
};

// Which rows of a factor have a weight that matters.
inline void mark_active_outs(Factor factor, std::int64_t size, bool* active) {
    for (std::int64_t out = 0; out < size; ++out) {
        active[out] = false;
        for (std::int64_t in = 0; in < size && !active[out]; ++in) active[out] = factor.matters(factor(out, in));
    }
}

// The indices that are marked; returns how many.
inline std::int64_t list_marked(const bool* marked, std::int64_t size, std::int64_t* indices) {
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < size; ++i) {
        if (marked[i]) indices[count++] = i;
    }
    return count;
}

inline Factor transposed(Factor f) { return {f.data, f.in_stride, f.out_stride, f.negligible}; }

inline int smoothing_threads(const Problem& p, const Neighborhood& h) {
    return useful_threads(p.num_prototypes * p.dim * h.cols + p.batch * p.dim * h.rows, p.threads);
}

// The row sums of a factor, of the weights that the products use.
inline void sum_rows(Factor f, std::int64_t outs, std::int64_t ins, double* sums) {
    for (std::int64_t out = 0; out < outs; ++out) {
        sums[out] = 0;
        for (std::int64_t in = 0; in < ins; ++in) sums[out] += f.matters(f(out, in)) ? f(out, in) : 0.0f;
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// Products with the factors of a neighborhood: out[o] = sum over i of factor(o, i) * x[i], both axes through the same code.
#pragma once

#include <cstdint>

#include "memory.h"
#include "pack.h"
#include "threads.h"

namespace vitsom {
namespace VITSOM_ISA {

// A weight below this adds nothing that fp32 could see next to the weight 1 of the BMU itself.
constexpr float NEGLIGIBLE = 0x1p-24f;

inline bool matters(float weight) { return !(weight < NEGLIGIBLE && weight > -NEGLIGIBLE); }  // NaN matters

// One matrix of a neighborhood; transposed by its strides.
struct Factor {
    const float* data;
    std::int64_t out_stride, in_stride;

    float operator()(std::int64_t out, std::int64_t in) const { return data[out * out_stride + in * in_stride]; }
};

inline Factor factor(const float* factors, std::int64_t size, std::int64_t term, bool transposed) {
    const float* data = factors + term * size * size;
    return transposed ? Factor{data, 1, size} : Factor{data, size, 1};
}

// A selection of a factor's rows and columns, packed for the register tile: [tile][in of its band][rows of the tile].
struct PackedFactor {
    float* data;
    std::int64_t* begin;  // [tile] the band of inputs that matter to any row of the tile
    std::int64_t* end;
    std::int64_t outs, ins;

    static void take(Arena& arena, PackedFactor& f, std::int64_t max_outs, std::int64_t max_ins, int copies) {
        f.data = arena.take<float>(max_outs * max_ins * copies);
        f.begin = arena.take<std::int64_t>(ceil_div(max_outs, TILE_ROWS) * copies);
        f.end = arena.take<std::int64_t>(ceil_div(max_outs, TILE_ROWS) * copies);
    }

    PackedFactor copy(std::int64_t max_outs, std::int64_t max_ins, int index) const {
        const std::int64_t tiles = ceil_div(max_outs, TILE_ROWS);
        return {data + index * max_outs * max_ins, begin + index * tiles, end + index * tiles, 0, 0};
    }

    void pack(Factor factor, const std::int64_t* out, std::int64_t out_count, const std::int64_t* in, std::int64_t in_count) {
        outs = out_count;
        ins = in_count;
        for (std::int64_t first = 0; first < outs; first += TILE_ROWS) {
            const std::int64_t rows = smaller(TILE_ROWS, outs - first);
            float* tile = data + first * ins;
            std::int64_t band_begin = ins, band_end = 0;
            for (std::int64_t i = 0; i < ins; ++i) {
                bool any = false;
                for (std::int64_t r = 0; r < rows; ++r) {
                    const float weight = factor(out[first + r], in[i]);
                    const bool kept = matters(weight);
                    tile[i * rows + r] = kept ? weight : 0.0f;
                    any |= kept;
                }
                if (any) {
                    band_begin = smaller(band_begin, i);
                    band_end = i + 1;
                }
            }
            begin[first / TILE_ROWS] = band_begin;
            end[first / TILE_ROWS] = larger(band_begin, band_end);
        }
    }

    // x is [ins][TILE_COLS]; `write(out, low, high)` gets every row of the product.
    template <class Write>
    void apply(const float* x, const Write& write) const {
        for (std::int64_t first = 0; first < outs; first += TILE_ROWS) {
            const std::int64_t from = begin[first / TILE_ROWS], to = end[first / TILE_ROWS];
            with_tile_rows(smaller(TILE_ROWS, outs - first), [&](auto constant) {
                constexpr int ROWS = decltype(constant)::value;
                const Tile<ROWS> tile =
                    multiply<ROWS>(to - from, data + first * ins + from * ROWS, x + from * TILE_COLS);
                for (int r = 0; r < ROWS; ++r) write(first + r, tile.low[r], tile.high[r]);
            });
        }
    }
};

// Which rows of a factor have a weight that matters.
inline void mark_active_outs(Factor factor, std::int64_t size, bool* active) {
    for (std::int64_t out = 0; out < size; ++out) {
        active[out] = false;
        for (std::int64_t in = 0; in < size && !active[out]; ++in) active[out] = matters(factor(out, in));
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

inline Factor transposed(Factor f) { return {f.data, f.in_stride, f.out_stride}; }

inline int smoothing_threads(const Problem& p, const Neighborhood& h) {
    return useful_threads(p.num_prototypes * p.dim * h.cols + p.batch * p.dim * h.rows, p.threads);
}

// weight[k] += the row sums of one term, of the weights that the products use.
inline void add_total_weight(Factor rows, std::int64_t row_count, Factor cols, std::int64_t col_count, double* sums, double* weight) {
    const auto row_sum = [](Factor f, std::int64_t out, std::int64_t size) {
        double total = 0;
        for (std::int64_t in = 0; in < size; ++in) total += matters(f(out, in)) ? f(out, in) : 0.0f;
        return total;
    };
    for (std::int64_t c = 0; c < col_count; ++c) sums[c] = row_sum(cols, c, col_count);
    for (std::int64_t r = 0; r < row_count; ++r) {
        const double row = row_sum(rows, r, row_count);
        for (std::int64_t c = 0; c < col_count; ++c) weight[r * col_count + c] += row * sums[c];
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

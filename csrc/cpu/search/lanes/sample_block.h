// A block of samples side by side, a vector of them for each feature: what searches that have samples in the lanes share.
#pragma once

#include "cpu/search/search_output.h"
#include "cpu/simd/packing.h"

namespace vitsom {
namespace VITSOM_ISA {

// VECTORS of samples against AT_ONCE prototypes: their sums fill the register file but for the operands.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int VECTORS = 4, AT_ONCE = 6;
#else
constexpr int VECTORS = 3, AT_ONCE = 4;
#endif
constexpr int BLOCK_SAMPLES = VECTORS * WIDTH;

// Features that a block has room for.
constexpr std::int64_t MOST_FEATURES = 64;

// Squared lengths in fp32 between which no square or product of a sample loses what matters.
constexpr float LEAST_SQUARED = 0x1p-80f, MOST_SQUARED = 0x1p80f;

// The squared lengths of vector v of a block z [dim][BLOCK_SAMPLES].
inline Vec squares_of(const float* z, std::int64_t dim, int v) {
    Vec squared{};
    for (std::int64_t d = 0; d < dim; ++d) {
        const Vec x = load(z + d * BLOCK_SAMPLES + v * WIDTH);
        squared += x * x;
    }
    return squared;
}

// Those that are between the two, a bit each.
inline unsigned lanes_in_range(Vec squared) {
    return lanes_reaching(squared, splat(LEAST_SQUARED)) & lanes_reaching(splat(MOST_SQUARED), squared);
}

// A row times its factor, rounded once.
inline void write_exact_unit(Row x, double inverse, std::int64_t dim, float* out) {
    with_elements(x, [&](const auto* elements) {
        for_each_vector(dim, [&](std::int64_t d, auto load, auto store) {
            const DoublePair wide = widen(load(elements + d));
            store(out + d, narrow({wide.low * inverse, wide.high * inverse}));
        });
    });
}

// out[d][lane] = z[rows[lane]][d]; lanes from `count` on repeat the last row.
template <class T>
void pack_block(const Matrix& z, const std::int64_t* rows, std::int64_t count, std::int64_t dim, float* out) {
    for (std::int64_t first = 0; first < BLOCK_SAMPLES; first += WIDTH, out += WIDTH) {
        const T* x[WIDTH];
        for (std::int64_t r = 0; r < WIDTH; ++r) x[r] = typed_row<T>(z, rows[smaller(first + r, count - 1)]);
        // The last vector of a row reaches back to what has been written, rather than beyond the row.
        for (std::int64_t next = 0; next < dim && dim >= WIDTH; next += WIDTH) {
            const std::int64_t d = smaller(next, dim - WIDTH);
            Vec block[WIDTH];
#pragma GCC unroll 16
            for (int r = 0; r < WIDTH; ++r) block[r] = load(x[r] + d);
            transpose(block);
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; ++i) store(out + (d + i) * BLOCK_SAMPLES, block[i]);
        }
        if (dim >= WIDTH) continue;
        Vec block[WIDTH];
#pragma GCC unroll 16
        for (int r = 0; r < WIDTH; ++r) block[r] = load_partial(x[r], dim);
        transpose(block);
        for (std::int64_t d = 0; d < dim; ++d) store(out + d * BLOCK_SAMPLES, block[d]);
    }
}

// The BMU of sample i is found.
inline void decide(const Problem& p, std::int64_t i, std::int64_t unit, const SearchOutput& result) {
    result.bmu[i] = unit;
    result.inverse_z[i] = inverse_norm(row(p.z, i), p.dim);
    if (!result.score) return;
    const double product = dot(row(p.z, i), row(p.prototypes, unit), p.dim);
    result.score[i] = product * result.inverse_z[i] * result.inverse_prototype[unit];
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

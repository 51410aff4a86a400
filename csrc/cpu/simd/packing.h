// Operands laid out for the register tile.
#pragma once

#include "cpu/simd/integers.h"
#include "cpu/simd/lanes.h"
#include "cpu/simd/rows.h"
#include "cpu/simd/register_tile.h"

namespace vitsom {
namespace VITSOM_ISA {

// Interleaves the lower (or upper) halves of two vectors: log2(WIDTH) rounds of it transpose WIDTH vectors.
#if defined(__AVX512F__)
inline Vec zip_low(Vec a, Vec b) {
    return VITSOM_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Vec zip_high(Vec a, Vec b) {
    return VITSOM_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#elif defined(__AVX2__)
inline Vec zip_low(Vec a, Vec b) { return VITSOM_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
inline Vec zip_high(Vec a, Vec b) { return VITSOM_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
#else
inline Vec zip_low(Vec a, Vec b) { return VITSOM_SHUFFLE(a, b, 0, 4, 1, 5); }
inline Vec zip_high(Vec a, Vec b) { return VITSOM_SHUFFLE(a, b, 2, 6, 3, 7); }
#endif

inline __attribute__((always_inline)) void transpose(Vec (&rows)[WIDTH]) {
#pragma GCC unroll 4
    for (int round = 1; round < WIDTH; round *= 2) {
        Vec next[WIDTH];
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH / 2; ++i) {
            next[2 * i] = zip_low(rows[i], rows[i + WIDTH / 2]);
            next[2 * i + 1] = zip_high(rows[i], rows[i + WIDTH / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; ++i) rows[i] = next[i];
    }
}

// out[d][column] = matrix[first + column][start + d] for TILE_COLS rows of the matrix; rows from `end` on are zero.
template <class T>
void pack_columns_of(
    const Matrix& matrix, std::int64_t first, std::int64_t end, std::int64_t start, std::int64_t count, float* out) {
    for (int half = 0; half < 2; ++half, first += WIDTH, out += WIDTH) {
        for (std::int64_t d = 0; d < count; d += WIDTH) {
            const std::int64_t rest = smaller(WIDTH, count - d);
            Vec block[WIDTH];
#pragma GCC unroll 16
            for (int r = 0; r < WIDTH; ++r) {
                const T* x = typed_row<T>(matrix, smaller(first + r, end - 1)) + start + d;
                block[r] = rest == WIDTH ? load(x) : load_partial(x, rest);
                if (first + r >= end) block[r] = Vec{};
            }
            transpose(block);
            for (int i = 0; i < rest; ++i) store(out + (d + i) * TILE_COLS, block[i]);
        }
    }
}

__attribute__((noinline)) inline void pack_columns(
    const Matrix& matrix, std::int64_t first, std::int64_t end, std::int64_t start, std::int64_t count, float* out) {
    with_dtype(matrix.dtype, [&](auto t) { pack_columns_of<decltype(t)>(matrix, first, end, start, count, out); });
}

// out[d][r] = factor * scale[rows[r]] * matrix[rows[r]][start + d] for `num_rows` <= TILE_ROWS rows.
template <class T>
void pack_tile_rows_of(
    const Matrix& matrix, const std::int64_t* rows, std::int64_t num_rows, std::int64_t start, std::int64_t count, double factor,
    const double* scale, float* out) {
    for (std::int64_t first = 0; first < num_rows; first += WIDTH) {
        const std::int64_t lanes = smaller(WIDTH, num_rows - first);
        Scaling scaled[WIDTH];
        for (std::int64_t r = 0; r < lanes; ++r) scaled[r] = scaling(factor * scale[rows[first + r]]);
        for (std::int64_t d = 0; d < count; d += WIDTH) {
            const std::int64_t rest = smaller(WIDTH, count - d);
            Vec block[WIDTH];
            for (std::int64_t r = lanes; r < WIDTH; ++r) block[r] = Vec{};
            for (std::int64_t r = 0; r < lanes; ++r) {
                const T* x = typed_row<T>(matrix, rows[first + r]) + start + d;
                block[r] = scaled[r](rest == WIDTH ? load(x) : load_partial(x, rest));
            }
            transpose(block);
            float* to = out + d * num_rows + first;
            if (lanes == TILE_ROWS) {  // a copy of known size, as good as always
                for (std::int64_t i = 0; i < rest; ++i) std::memcpy(to + i * TILE_ROWS, &block[i], TILE_ROWS * sizeof *to);
            } else {
                const std::size_t size = static_cast<std::size_t>(lanes) * sizeof *to;
                for (std::int64_t i = 0; i < rest; ++i) std::memcpy(to + i * num_rows, &block[i], size);
            }
        }
    }
}

__attribute__((noinline)) inline void pack_tile_rows(
    const Matrix& matrix, const std::int64_t* rows, std::int64_t num_rows, std::int64_t start, std::int64_t count, double factor,
    const double* scale, float* out) {
    with_dtype(matrix.dtype, [&](auto t) {
        pack_tile_rows_of<decltype(t)>(matrix, rows, num_rows, start, count, factor, scale, out);
    });
}

// TILE_COLS features of one row.
struct Features {
    Vec low, high;
};

inline Features load_row(const float* x) { return {load(x), load(x + WIDTH)}; }

// The first `count` elements of a row; zero beyond.
template <class T>
inline Features load_features(const T* x, std::int64_t count) {
    if (count >= TILE_COLS) return {load(x), load(x + WIDTH)};
    if (count > WIDTH) return {load(x), load_partial(x + WIDTH, count - WIDTH)};
    return {count == WIDTH ? load(x) : load_partial(x, count), Vec{}};
}

inline void store_row(float* out, Vec low, Vec high) {
    store(out, low);
    store(out + WIDTH, high);
}

// Rows of TILE_COLS elements, in places so far apart.
struct OutputRows {
    float* first;
    std::int64_t stride;

    void operator()(std::int64_t index, Vec low, Vec high) const { store_row(first + index * stride, low, high); }
    OutputRows from(std::int64_t index) const { return {first + index * stride, stride}; }
};

// Written, or added to what is there.
inline void store_row(float* out, Vec low, Vec high, bool add) {
    if (add) store_row(out, load(out) + low, load(out + WIDTH) + high);
    else store_row(out, low, high);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

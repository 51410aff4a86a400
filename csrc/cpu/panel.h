// Sixteen vectors in int8 codes around a pole, and bounds of their products with a sample.
//
// x = along * pole + rest, so z . x = along * (z . pole) + (z - g) . rest + g . rest: where z . pole is known, only the rest is left
// to the codes, and their error is in proportion to it. The centres of neighbouring tiles have little of it beside the centre of
// the tile that they form together.
#pragma once

#include "certificate.h"

namespace vitsom {
namespace VITSOM_ISA {

constexpr int LANES = WIDTH;

// Rows are padded with zeros to a whole number of chunks.
inline std::int64_t padded(std::int64_t dim) { return ceil_div(dim, Int8::PER_WORD * WIDTH) * Int8::PER_WORD * WIDTH; }

// A row of length 1, padded.
template <class T>
void write_unit(const T* x, double inverse, std::int64_t count, std::int64_t dim, float* out) {
    const float factor = static_cast<float>(inverse * 0x1p32);
    for_each_vector(count, [&](std::int64_t d, auto load, auto) { store(out + d, load(x + d) * 0x1p-32f * factor); });
    for (std::int64_t d = ceil_div(count, WIDTH) * WIDTH; d < dim; d += WIDTH) store(out + d, Vec{});
}

// Rows of a tile are in several places of memory, more than the processor foresees: without this a search of a map of 256 x 256
// takes 4 % longer.
template <class T>
void fetch(const T* x, std::int64_t count) {
    for (std::int64_t d = 0; d < count; d += 64 / static_cast<std::int64_t>(sizeof(T))) __builtin_prefetch(x + d, 0, 2);
}

inline float dot_padded(const float* a, const float* b, std::int64_t n) {
    Vec sums[4] = {};
    for (std::int64_t d = 0; d < n; d += 4 * WIDTH) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) sums[i] += load(a + d + i * WIDTH) * load(b + d + i * WIDTH);
    }
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// The sums of four vectors, with fewer shuffles than one at a time takes.
inline void sum_four(const Vec (&v)[4], float (&out)[4]) {
    const Vec ab = VITSOM_SHUFFLE(v[0], v[1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
                   VITSOM_SHUFFLE(v[0], v[1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    const Vec cd = VITSOM_SHUFFLE(v[2], v[3], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
                   VITSOM_SHUFFLE(v[2], v[3], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    Vec abcd = VITSOM_SHUFFLE(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
               VITSOM_SHUFFLE(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    abcd += halves_swapped(abcd);
    abcd += quarters_swapped(abcd);
    std::memcpy(out, &abcd, sizeof out);
}

// The dot products of four rows with N vectors, out[vector][row]. One row at a time takes twice as long: summing up a register
// costs as much as eight products.
template <int N>
inline void dot_four(const float* const (&z)[4], const float* const (&x)[N], std::int64_t n, float (&out)[N][4]) {
    Vec sums[N][4] = {};
    for (std::int64_t d = 0; d < n; d += WIDTH) {
#pragma GCC unroll 3
        for (int i = 0; i < N; ++i) {
            const Vec column = load(x[i] + d);
#pragma GCC unroll 4
            for (int r = 0; r < 4; ++r) sums[i][r] += load(z[r] + d) * column;
        }
    }
    for (int i = 0; i < N; ++i) sum_four(sums[i], out[i]);
}

// What the roundings of one such dot product, of unit vectors that are rounded themselves, come to at most: those of a chain, those
// of the sum over its lanes, and two a vector.
inline float dot_error(std::int64_t n) { return static_cast<float>(n / WIDTH + 10) * 0x1p-24f; }

// How wide a cone is: cosine and sine of the largest angle to its axis. The cosine is never too large, nor the sine too small.
struct Radius {
    float cosine, sine;
};

// Holds any vector at all.
constexpr Radius EVERYTHING{-__builtin_inff(), 0};
constexpr Radius POINT{1, 0};

inline Radius radius_of(double cosine) {
    if (!(cosine > 0)) return EVERYTHING;
    if (cosine > 1) cosine = 1;
    const float rounded = static_cast<float>(cosine) - 0x1p-23f;
    return {rounded, static_cast<float>(__builtin_sqrt((1.0 - rounded) * (1.0 + rounded))) * (1 + 0x1p-20f)};
}

struct Panel {
    Vec scale, along;
    Vec bias;            // g . rest; -inf where there is no vector
    Vec norm, residual;  // of the rest, and of what its code leaves out
    Vec cosine, sine;    // radius of what a lane stands for
    Ints start;
};

// x[lane] in codes, [words][LANES]; nullptr where there is none.
inline void encode_members(
    const float* const (&x)[LANES], const Radius (&radius)[LANES], const float* pole, double pole_squared, const float* centre,
    std::int64_t n, Panel& panel, std::uint32_t* codes) {
    constexpr std::int64_t chunk = Int8::PER_WORD * WIDTH;
    float per_scale[LANES];
    Vec residuals[LANES], sums[LANES];
    panel = Panel{};
    for (int lane = 0; lane < LANES; ++lane) {
        residuals[lane] = sums[lane] = Vec{};
        per_scale[lane] = 0;
        panel.bias[lane] = -__builtin_inff();
        panel.cosine[lane] = 1;
        if (!x[lane]) continue;
        const float along = pole_squared > 0 ? static_cast<float>(dot_padded(x[lane], pole, n) / pole_squared) : 0;
        Vec largest_size{}, squares{}, products{};
        for (std::int64_t d = 0; d < n; d += WIDTH) {
            const Vec rest = load(x[lane] + d) - along * load(pole + d);
            largest_size = larger_of(as_floats(as_bits(rest) & 0x7fffffff), largest_size);
            squares += rest * rest;
            products += rest * load(centre + d);
        }
        const float scale = Int8::scale(largest(largest_size));
        per_scale[lane] = scale == 0 ? 0 : 1 / scale;
        panel.scale[lane] = scale;
        panel.along[lane] = along;
        panel.bias[lane] = sum(products);
        panel.norm[lane] = __builtin_sqrtf(sum(squares)) * 1.001f + 0x1p-21f;
        panel.cosine[lane] = radius[lane].cosine;
        panel.sine[lane] = radius[lane].sine;
    }
    for (std::int64_t start = 0; start < n; start += chunk) {
        Vec block[LANES] = {};
        for (int lane = 0; lane < LANES; ++lane) {
            if (!x[lane]) continue;
            Bits words{};
#pragma GCC unroll 4
            for (int place = 0; place < Int8::PER_WORD; ++place) {
                const std::int64_t d = start + place * WIDTH;
                const Vec rest = load(x[lane] + d) - panel.along[lane] * load(pole + d);
                const Vec code = Int8::encode(rest * per_scale[lane], place, words);
                const Vec left_out = rest - code * panel.scale[lane];
                residuals[lane] += left_out * left_out;
                sums[lane] += code;
            }
            block[lane] = as_floats(words);
        }
        transpose(block);
        for (int word = 0; word < WIDTH; ++word, codes += LANES) store(reinterpret_cast<float*>(codes), block[word]);
    }
    for (int lane = 0; lane < LANES; ++lane) {
        if (!x[lane]) continue;
        panel.residual[lane] = 1.001f * __builtin_sqrtf(sum(residuals[lane])) + 0x1p-21f;
        panel.start[lane] = Int8::start(sum(sums[lane]));
    }
}

// A sample less the centre, z - g, in codes.
struct CodedSample {
    float scale, residual, norm;  // the norm is that of the code
};

inline CodedSample encode_sample(const float* z, const float* centre, std::int64_t n, std::uint32_t* codes) {
    Vec largest_size{}, squares{}, residuals{};
    for (std::int64_t d = 0; d < n; d += WIDTH) {
        const Vec rest = load(z + d) - load(centre + d);
        largest_size = larger_of(as_floats(as_bits(rest) & 0x7fffffff), largest_size);
        squares += rest * rest;
    }
    const float scale = Int8::scale(largest(largest_size));
    const float per_scale = scale == 0 ? 0 : 1 / scale;
    for (std::int64_t start = 0; start < n; start += Int8::PER_WORD * WIDTH, codes += WIDTH) {
        Bits words{};
#pragma GCC unroll 4
        for (int place = 0; place < Int8::PER_WORD; ++place) {
            const std::int64_t d = start + place * WIDTH;
            const Vec rest = load(z + d) - load(centre + d);
            const Vec left_out = rest - Int8::encode(rest * per_scale, place, words) * scale;
            residuals += left_out * left_out;
        }
        store(reinterpret_cast<float*>(codes), as_floats(Int8::as_first(words)));
    }
    const float residual = 1.001f * __builtin_sqrtf(sum(residuals)) + 0x1p-21f;
    return {scale, residual, __builtin_sqrtf(sum(squares)) * 1.001f + residual};
}

// Products of the codes of ROWS samples from anywhere with those of a panel.
template <int ROWS>
inline __attribute__((always_inline)) void multiply_gathered(
    std::int64_t words, const std::uint32_t* const* z, const std::uint32_t* x, Ints start, Ints (&product)[ROWS]) {
    const std::uint32_t* a[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
        a[r] = z[r];
        product[r] = start;
    }
    for (std::int64_t j = 0; j < words; j += 4, x += 4 * LANES) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const Bits word = load_as<Bits>(x + i * LANES);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r) product[r] = Int8::multiply_add(product[r], Bits{} + a[r][j + i], word);
        }
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

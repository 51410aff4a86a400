// The members of a tile in int8 codes, and bounds of their products with a sample.
//
// x = along * pole + rest, so z . x = along * (z . pole) + (z - g) . rest + g . rest: where z . pole is known, only the rest is left
// to the codes, and their error is in proportion to it. The centres of neighbouring tiles have little of it beside the centre of
// the tile that they form together. (Two more axes leave a third of it, and on a map of 512 x 512 a tenth fewer tiles to look into,
// but the products with them took longer than that saved.)
#pragma once

#include "cpu/search/pruned/members.h"

namespace vitsom {
namespace VITSOM_ISA {

struct Panel {
    Vec scale, along;
    Vec bias;            // g . rest; -inf where there is no vector
    Vec norm, residual;  // of the rest, and of what its code leaves out
    Vec cosine, sine;    // of the cone that a lane stands for
    Ints start;
};

// `present` is 0, or -inf for a lane without a member; codes is [words][LANES].
inline void encode_members(
    const float* members, const Vec& present, const float* pole, const float* centre, std::int64_t n, Panel& panel,
    std::uint32_t* codes) {
    constexpr std::int64_t chunk = Int8::PER_WORD * WIDTH;
    const float squared = dot_padded(pole, pole, n);
    panel.along = squared > 0 ? dot_members(members, pole, n) / squared : Vec{};
    const auto rest = [&](int lane, std::int64_t d) {
        return load(members + d * LANES + lane * WIDTH) - panel.along[lane] * load(pole + d);
    };
    float per_scale[LANES];
    Vec squares[LANES], products[LANES], residuals[LANES];
    Ints offset[LANES];
    for (int lane = 0; lane < LANES; ++lane) {
        Vec largest_size{};
        squares[lane] = products[lane] = residuals[lane] = Vec{};
        offset[lane] = Ints{};
        for (std::int64_t d = 0; d < n; d += WIDTH) {
            const Vec v = rest(lane, d);
            largest_size = larger_of(as_floats(as_bits(v) & 0x7fffffff), largest_size);
            squares[lane] += v * v;
            products[lane] += v * load(centre + d);
        }
        panel.scale[lane] = Int8::scale(largest(largest_size));
        per_scale[lane] = panel.scale[lane] == 0 ? 0 : 1 / panel.scale[lane];
    }
    for (std::int64_t start = 0; start < n; start += chunk) {
        Vec block[LANES];
        for (int lane = 0; lane < LANES; ++lane) {
            Bits words{};
#pragma GCC unroll 4
            for (int place = 0; place < Int8::PER_WORD; ++place) {
                const Vec v = rest(lane, start + place * WIDTH);
                const Vec code = Int8::encode(v * per_scale[lane], place, words);
                const Vec left_out = v - code * panel.scale[lane];
                residuals[lane] += left_out * left_out;
            }
            offset[lane] = Int8::add_offset(offset[lane], words);
            block[lane] = as_floats(words);
        }
        transpose(block);
        for (int word = 0; word < WIDTH; ++word, codes += LANES) store(reinterpret_cast<float*>(codes), block[word]);
    }
    panel.bias = lanes_of(products) + present;
    panel.norm = square_root(lanes_of(squares)) * 1.001f + 0x1p-21f;
    panel.residual = square_root(lanes_of(residuals)) * 1.001f + 0x1p-21f;
    for (int lane = 0; lane < LANES; ++lane) panel.start[lane] = Int8::start(offset[lane]);
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

// Products of the codes of one sample with those of four panels.
inline void multiply_panels(
    std::int64_t words, const std::uint32_t* z, const std::uint32_t* const (&x)[4], const Ints (&start)[4], Ints (&product)[4]) {
    Ints sum[4];
#pragma GCC unroll 4
    for (int f = 0; f < 4; ++f) sum[f] = start[f];
    for (std::int64_t j = 0; j < words; ++j) {
        const Bits word = Bits{} + z[j];
#pragma GCC unroll 4
        for (int f = 0; f < 4; ++f) sum[f] = Int8::multiply_add(sum[f], word, load_as<Bits>(x[f] + j * LANES));
    }
    for (int f = 0; f < 4; ++f) product[f] = sum[f];
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

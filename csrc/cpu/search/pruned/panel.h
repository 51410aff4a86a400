// The members of a tile in codes, and bounds of their products with a sample.
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
    Lanes scale, along;
    Lanes bias;            // g . rest; -inf where there is no vector
    Lanes norm, residual;  // of the rest, and of what its code leaves out
    Lanes cosine, sine;    // of the cone that a lane stands for, or its ball as `Radius` has it
    Lanes more;            // what is needed less of a lane: of a ball, with what it is closer than its centre
    PanelCode::Sum start;
};

// `present` is 0, or -inf for a lane without a member; codes is [words][LANES].
inline void encode_members(
    const float* members, const Lanes& present, const float* pole, const float* centre, std::int64_t n, Panel& panel,
    std::uint32_t* codes) {
    constexpr std::int64_t chunk = PanelCode::PER_WORD * WIDTH;
    const float squared = dot_padded(pole, pole, n);
    panel.along = squared > 0 ? dot_members(members, pole, n) / squared : Lanes{};
    const auto rest = [&](int lane, std::int64_t d) {
        return load(members + d * LANES + lane * WIDTH) - panel.along[lane] * load(pole + d);
    };
    float scale[LANES], per_scale[LANES];
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
        scale[lane] = PanelCode::scale(largest(largest_size));
        per_scale[lane] = scale[lane] == 0 ? 0 : 1 / scale[lane];
    }
    for (std::int64_t start = 0; start < n; start += chunk) {
        for (int first = 0; first < LANES; first += WIDTH) {
            Vec block[WIDTH];
            for (int i = 0; i < WIDTH; ++i) {
                const int lane = first + i;
                Bits words{};
#pragma GCC unroll 4
                for (int place = 0; place < PanelCode::PER_WORD; ++place) {
                    const Vec v = rest(lane, start + place * WIDTH);
                    const Vec code = PanelCode::encode(v * per_scale[lane], place, words);
                    const Vec left_out = v - code * scale[lane];
                    residuals[lane] += left_out * left_out;
                }
                offset[lane] = PanelCode::add_offset(offset[lane], words);
                block[i] = as_floats(words);
            }
            transpose(block);
            for (int word = 0; word < WIDTH; ++word) store(reinterpret_cast<float*>(codes + word * LANES + first), block[word]);
        }
        codes += WIDTH * LANES;
    }
    panel.scale = load_lanes(scale);
    panel.bias = lanes_of(products) + present;
    panel.norm = square_root(lanes_of(squares)) * 1.001f + 0x1p-21f;
    panel.residual = square_root(lanes_of(residuals)) * 1.001f + 0x1p-21f;
    for (int lane = 0; lane < LANES; ++lane) set_lane(panel.start, lane, PanelCode::start(offset[lane]));
}

// A sample less so much of the centre, z - s g, in codes.
struct CodedSample {
    float scale, residual, norm;  // the norm is that of the code
};

inline CodedSample encode_sample(const float* z, const float* centre, float share, std::int64_t n, std::uint32_t* codes) {
    Vec largest_size{}, squares{}, residuals{};
    for (std::int64_t d = 0; d < n; d += WIDTH) {
        const Vec rest = load(z + d) - share * load(centre + d);
        largest_size = larger_of(as_floats(as_bits(rest) & 0x7fffffff), largest_size);
        squares += rest * rest;
    }
    const float scale = PanelCode::scale(largest(largest_size));
    const float per_scale = scale == 0 ? 0 : 1 / scale;
    for (std::int64_t start = 0; start < n; start += PanelCode::PER_WORD * WIDTH, codes += WIDTH) {
        Bits words{};
#pragma GCC unroll 4
        for (int place = 0; place < PanelCode::PER_WORD; ++place) {
            const std::int64_t d = start + place * WIDTH;
            const Vec rest = load(z + d) - share * load(centre + d);
            const Vec left_out = rest - PanelCode::encode(rest * per_scale, place, words) * scale;
            residuals += left_out * left_out;
        }
        store(reinterpret_cast<float*>(codes), as_floats(PanelCode::as_first(words)));
    }
    const float norm = 1.001f * __builtin_sqrtf(sum(squares));
    const float residual = 1.001f * __builtin_sqrtf(sum(residuals)) + PanelCode::rounding(n) * norm + 0x1p-21f;
    return {scale, residual, norm + residual};
}

// Products of the codes of four samples, each with those of a panel of its own.
inline void multiply_each(
    std::int64_t words, const std::uint32_t* const (&z)[4], const std::uint32_t* const (&x)[4], const PanelCode::Sum (&start)[4],
    PanelCode::Sum (&product)[4]) {
    PanelCode::Sum sum[4];
#pragma GCC unroll 4
    for (int f = 0; f < 4; ++f) sum[f] = start[f];
    for (std::int64_t j = 0; j < words; ++j) {
#pragma GCC unroll 4
        for (int f = 0; f < 4; ++f) sum[f] = PanelCode::multiply_add(sum[f], z[f][j], x[f] + j * LANES);
    }
    for (int f = 0; f < 4; ++f) product[f] = sum[f];
}

// Products of the codes of ROWS samples from anywhere with those of a panel.
template <int ROWS>
inline __attribute__((always_inline)) void multiply_gathered(
    std::int64_t words, const std::uint32_t* const* z, const std::uint32_t* x, const PanelCode::Sum& start,
    PanelCode::Sum* product) {
    const std::uint32_t* a[ROWS];
    PanelCode::Sum sum[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
        a[r] = z[r];
        sum[r] = start;
    }
    for (std::int64_t j = 0; j < words; j += 4, x += 4 * LANES) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r) sum[r] = PanelCode::multiply_add(sum[r], a[r][j + i], x + i * LANES);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) product[r] = sum[r];
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

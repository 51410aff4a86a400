// How far the product of two coded vectors can be from the product of the vectors.
//
// x . y - a . b = (x - a) . y + a . (y - b), so by Cauchy-Schwarz it is at most |x - a| |y| + |a| |y - b|. The residuals
// |x - a| are measured, not assumed. Both sides are made short first: a common centre c is taken off the unit vectors, which
// changes the score z^ . w^ = (z^ - c) . (w^ - c) + c . w^ + (z^ . c - c . c) by a constant of the row and a number of the
// prototype. Under the squared Euclidean distance rows are seen from c as they are, times a power of two, and what is added to a
// product is -|w - c|^2 / 2. On a trained map of photo patches that makes the bound a seventh, and the candidates a
// fourth (int8) or a sixth (bf16).
#pragma once

#include "cpu/search/codec.h"
#include "cpu/search/frame.h"
#include "cpu/simd/packing.h"

namespace vitsom {
namespace VITSOM_ISA {

// Scores are rounded in fp32 a few times outside the products of codes; each cosine is at most 2 in size. Of a squared length, with
// those of the chain that added it up.
constexpr float SLACK = 0x1p-19f, SLACK_OF_SQUARE = 0x1p-19f;

// How rows are seen: from a centre [dim], and as long as they are times `unit`, or of length 1 where that is 0.
struct View {
    const float* centre;
    double centre_squared;
    float unit;
};

// A row x as seen from the centre: x^ - c, with x^ = x / max(|x|, eps), or x times the unit.
template <class T>
struct Centred {
    const T* x;
    const float* centre;
    float factor;    // of x
    float rounding;  // of the elements of x^ - c, as a vector, no less, and of products with them
    double inverse;  // 1 / max(|x|, eps), or any number; NaN if the row is not finite, or too far, and nothing else counts then
    double along;    // c . x^, or -|x^ - c|^2 / 2
    float norm;      // no less than |x^ - c|
    float largest;   // element of x^ - c, in size

    Vec at(std::int64_t d) const { return load(x + d) * factor - load(centre + d); }
    Vec at(std::int64_t d, std::int64_t count) const {
        return load_partial(x + d, count) * factor - load_partial(centre + d, count);
    }
};

// The codes of a vector, in units of `scale`.
template <class Code>
struct Coded {
    float scale;
    float residual;  // no less than the vector less its code
    typename Code::Start start;  // of a product with it: what the offset of the other adds, taken back
};

// |x^ - c|^2 = |x^|^2 - 2 c . x^ + |c|^2 gives the product with the centre, too. 256 squares at a time are added up in fp32, in 16
// lanes: half the time of doing so in fp64, and off by 2^-20 of their sum at most.
template <class T>
Centred<T> centred(const T* x, const View& view, std::int64_t dim) {
    constexpr std::int64_t BLOCK = 16 * WIDTH;
    const bool is_cosine = view.unit == 0;
    const double squared = is_cosine ? squared_norm(x, dim) : 0, inverse = is_cosine ? inverse_norm(squared) : 1;
    const float rounding = inverse < 0x1p-126 ? 0x1p-13f : 0x1p-21f;  // a factor that small has lost up to 8 of its bits
    Centred<T> result{x, view.centre, is_cosine ? static_cast<float>(inverse) : view.unit, rounding, inverse, 0, 0, 0};
    Vec sizes{};
    Doubles low{}, high{};
    for (std::int64_t start = 0; start < dim; start += BLOCK) {
        const std::int64_t end = smaller(dim, start + BLOCK);
        Vec squares[4] = {};  // as many chains of additions
        const auto take = [&](Vec v, int chain) {
            squares[chain] += v * v;
            sizes = larger_of(as_floats(as_bits(v) & 0x7fffffff), sizes);
        };
        std::int64_t d = start;
        for (; d + 4 * WIDTH <= end; d += 4 * WIDTH) {
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) take(result.at(d + j * WIDTH), j);
        }
        for (; d + WIDTH <= end; d += WIDTH) take(result.at(d), 0);
        if (d < end) take(result.at(d, end - d), 0);
        const DoublePair wide = widen((squares[0] + squares[1]) + (squares[2] + squares[3]));
        low += wide.low;
        high += wide.high;
    }
    const double centred_squared = sum(low + high);
    result.norm = static_cast<float>(__builtin_sqrt(centred_squared)) * 1.001f;
    if (is_cosine) {
        result.along = (squared * inverse * inverse + view.centre_squared - centred_squared) / 2;
    } else {
        result.along = -centred_squared / 2;
        result.rounding *= result.norm;
        if (!(result.norm < BEYOND)) result.inverse = __builtin_nan("");
    }
    result.norm += result.rounding;
    result.largest = largest(sizes);
    return result;
}

// Codes LANES vectors in units of `scale`, laid out for the register tile: out[word][STRIDE], the first LANES of them written.
template <class Code, int LANES, int STRIDE, bool FIRST, class T>
void encode(const Centred<T>* x, std::int64_t dim, Coded<Code>* coded, std::uint32_t* out) {
    constexpr std::int64_t chunk = Code::PER_WORD * WIDTH;
    float per_scale[LANES];
    Vec residual[LANES];
    typename Code::Sum offset[LANES];
    for (int r = 0; r < LANES; ++r) {
        per_scale[r] = coded[r].scale == 0 ? 0 : 1 / coded[r].scale;
        residual[r] = Vec{};
        offset[r] = typename Code::Sum{};
    }
    for (std::int64_t start = 0; start < dim; start += chunk) {
        Vec block[WIDTH];
        for (int r = LANES; r < WIDTH; ++r) block[r] = Vec{};  // GCC would clear all of it, a third of the time of this function
        for (int r = 0; r < LANES; ++r) {
            Bits words{};
            const auto take = [&](int place, Vec v) {
                const Vec code = Code::encode(v * per_scale[r], place, words);
                const Vec rest = v - code * coded[r].scale;
                residual[r] += rest * rest;
            };
            if (start + chunk <= dim) {
#pragma GCC unroll 4
                for (int place = 0; place < Code::PER_WORD; ++place) take(place, x[r].at(start + place * WIDTH));
            } else {
                for (int place = 0; place < Code::PER_WORD; ++place) {
                    const std::int64_t d = start + place * WIDTH;
                    if (d < dim) take(place, d + WIDTH <= dim ? x[r].at(d) : x[r].at(d, dim - d));
                }
            }
            if (!FIRST) offset[r] = Code::add_offset(offset[r], words);
            block[r] = as_floats(FIRST ? Code::as_first(words) : words);
        }
        transpose(block);
        for (int word = 0; word < WIDTH; ++word, out += STRIDE) std::memcpy(out, &block[word], LANES * sizeof *out);
    }
    for (int r = 0; r < LANES; ++r) {  // 0.1 %: the roundings of these sums
        coded[r].residual = 1.001f * __builtin_sqrtf(sum(residual[r])) + x[r].rounding;
        coded[r].start = Code::start(offset[r]);
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

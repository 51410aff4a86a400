// How far the product of two coded vectors can be from the product of the vectors.
//
// x . y - a . b = (x - a) . y + a . (y - b), so by Cauchy-Schwarz it is at most |x - a| |y| + |a| |y - b|. The residuals |x - a| are
// measured, not assumed. Both sides are made short first: a common centre c is taken off the unit vectors, which changes the
// score z^ . w^ = (z^ - c) . (w^ - c) + c . w^ + (z^ . c - c . c) by a constant of the row and a number of the prototype. On a trained
// map of photo patches that makes the bound a seventh, and the prototypes within it a sixth.
#pragma once

#include "code.h"
#include "pack.h"

namespace vitsom {
namespace VITSOM_ISA {

// Scores are rounded in fp32 a few times outside the products of codes; each is at most 2 in size.
constexpr float SLACK = 0x1p-19f;

// x / |x| - centre, of a row that is finite; all zero where there is no row.
template <class T>
struct Centred {
    const T* x;
    float inverse;  // 2^32 / max(|x|, eps): in fp32 even where |x| is near the end of it
    const float* centre;

    Centred() : x(nullptr), inverse(0), centre(nullptr) {}
    Centred(const T* x, double inverse, const float* centre)
        : x(x), inverse(static_cast<float>(inverse * 0x1p32)), centre(centre) {}

    Vec at(std::int64_t d, std::int64_t dim) const {
        if (!x || d >= dim) return Vec{};
        const std::int64_t rest = dim - d;
        if (rest >= WIDTH) return load(x + d) * 0x1p-32f * inverse - load(centre + d);
        return load_partial(x + d, rest) * 0x1p-32f * inverse - load_partial(centre + d, rest);
    }
};

struct Coded {
    float scale;     // of its codes
    float norm;      // of the vector, and of
    float residual;  // the vector less its code: no less than they are
    float sum;       // of its codes
};

inline float sum(Vec v) {
    float total = 0;
    for (int lane = 0; lane < WIDTH; ++lane) total += v[lane];
    return total;
}

template <class T>
float largest_element(const Centred<T>& x, std::int64_t dim) {
    Vec largest{};
    for (std::int64_t d = 0; d < dim; d += WIDTH) {
        const Vec size = as_floats(as_bits(x.at(d, dim)) & 0x7fffffff);
        largest = size > largest ? size : largest;
    }
    float result = 0;
    for (int lane = 0; lane < WIDTH; ++lane) result = largest[lane] > result ? largest[lane] : result;
    return result;
}

// Codes LANES vectors, laid out for the register tile: out[word][STRIDE], the first LANES of them written.
template <class Code, int LANES, int STRIDE, bool FIRST, class T>
void encode(const Centred<T>* x, std::int64_t dim, Coded* coded, std::uint32_t* out) {
    constexpr std::int64_t chunk = Code::PER_WORD * WIDTH;
    float per_scale[LANES];
    Vec norm[LANES], residual[LANES], codes[LANES];
    for (int r = 0; r < LANES; ++r) {
        const float largest = largest_element(x[r], dim);
        coded[r].scale = largest < 0x1p-100f ? 0 : Code::scale(largest);
        per_scale[r] = coded[r].scale == 0 ? 0 : 1 / coded[r].scale;
        norm[r] = residual[r] = codes[r] = Vec{};
    }
    for (std::int64_t start = 0; start < dim; start += chunk) {
        Vec block[WIDTH] = {};
        for (int r = 0; r < LANES; ++r) {
            Bits words{};
#pragma GCC unroll 4
            for (int place = 0; place < Code::PER_WORD; ++place) {
                const Vec v = x[r].at(start + place * WIDTH, dim);
                const Vec code = Code::encode(v * per_scale[r], place, words);
                const Vec rest = v - code * coded[r].scale;
                norm[r] += v * v;
                residual[r] += rest * rest;
                codes[r] += code;
            }
            block[r] = as_floats(FIRST ? Code::as_first(words) : words);
        }
        transpose(block);
        for (int word = 0; word < WIDTH; ++word, out += STRIDE) std::memcpy(out, &block[word], LANES * sizeof *out);
    }
    for (int r = 0; r < LANES; ++r) {  // 0.1 %: the roundings of these sums; 2^-21: those of the vector itself
        coded[r].norm = 1.001f * __builtin_sqrtf(sum(norm[r]));
        coded[r].residual = 1.001f * __builtin_sqrtf(sum(residual[r])) + 0x1p-21f;
        coded[r].sum = sum(codes[r]);
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

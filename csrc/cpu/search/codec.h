// Short codes of a vector, four int8 or two bf16 numbers to a 32-bit word, and the instructions that multiply them.
//
// Word l of a chunk holds the features l, l + WIDTH, ... of it: any order serves that both operands have in common, and this
// one needs no permutation.
#pragma once

#include "cpu/simd/short_products.h"
#include "cpu/simd/vector.h"

namespace vitsom {
namespace VITSOM_ISA {

// Integers from -127 to 127 times a scale of the row. A sum of products is exact; a word is four of them, twice the rate of
// bf16. The first operand is unsigned, offset by 128, which is taken back by starting a sum at -128 times that of the second.
struct Int8 {
    typedef Ints Sum;
    typedef std::int32_t Start;
    static constexpr int PER_WORD = 4;
    static constexpr std::int64_t MAX_WORDS = 16384;  // 255 * 127 * 4 * 16384 < 2^31

    static float scale(float largest) { return largest < 0x1p-100f ? 0 : largest / 127; }

    // Adds the code of element `place` of each word; returns the numbers that the codes stand for, in units of the scale.
    static Vec encode(Vec x, int place, Bits& words) {
        const Vec shifted = x + 0x1.8p23f;  // rounds to an integer, whose two's complement is in the low bits
        words |= (as_bits(shifted) & 0xff) << (8 * place);
        return shifted - 0x1.8p23f;
    }
    static Bits as_first(Bits words) { return words ^ 0x80808080; }

    // What the offset of the first adds to its products with the second.
    static Sum add_offset(Sum sum, Bits second) { return multiply_add(sum, Bits{} + 0x80808080, second); }
    static std::int32_t start(Sum offset) {
        std::int32_t total = 0;
        for (int lane = 0; lane < WIDTH; ++lane) total += offset[lane];
        return -total;
    }

    static Sum multiply_add(Sum sum, Bits first, Bits second) {
        return add_byte_products(sum, first, second);
    }
    static Vec value(Sum sum) { return __builtin_convertvector(sum, Vec); }
    static float rounding(std::int64_t, std::int64_t) { return 0; }
};

#if defined(__AVX512BF16__)
// The residual of bf16 is in proportion to each element: a single large one does not drown the others, as it does in int8.
struct BFloat16 {
    typedef Vec Sum;
    typedef float Start;
    static constexpr int PER_WORD = 2;
    static constexpr std::int64_t MAX_WORDS = INT64_MAX;

    static float scale(float) { return 1; }

    static Vec encode(Vec x, int place, Bits& words) {
        const Bits bits = as_bits(x);
        const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
        const Bits normal = (rounded & 0x7f800000) != 0 ? rounded : Bits{};  // the instruction takes a subnormal for 0
        words |= place == 0 ? normal >> 16 : normal;
        return as_floats(normal);
    }
    static Bits as_first(Bits words) { return words; }
    static Sum add_offset(Sum sum, Bits) { return sum; }
    static float start(Sum) { return 0; }

    static Sum multiply_add(Sum sum, Bits first, Bits second) {
        return add_bf16_products(sum, first, second);
    }
    static Vec value(Sum sum) { return sum; }

    // Of a sum of products of unit vectors: one a product and one a block, each at most 2^-23 however the instruction rounds.
    static float rounding(std::int64_t block_words, std::int64_t blocks) {
        return static_cast<float>(PER_WORD * block_words + blocks) * 0x1p-23f;
    }
};
#endif

}  // namespace VITSOM_ISA
}  // namespace vitsom

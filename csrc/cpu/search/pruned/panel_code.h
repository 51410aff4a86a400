// What the members of a panel and the samples are multiplied as: int8 where the processor has instructions for that, else fp32.
#pragma once

#include "cpu/simd/sixteen.h"

#if defined(__AVX512VNNI__)
#include "cpu/search/codec.h"
#endif

namespace vitsom {
namespace VITSOM_ISA {

#if defined(__AVX512VNNI__)

struct PanelCode : Int8 {
    static Sum multiply_add(Sum sum, std::uint32_t first, const std::uint32_t* second) {
        return Int8::multiply_add(sum, Bits{} + first, load_as<Bits>(second));
    }
    static float rounding(std::int64_t) { return 0; }
};

#else

// A word is a feature as it is: a code leaves nothing out, and products are rounded.
struct PanelCode {
    typedef Lanes Sum;
    static constexpr int PER_WORD = 1;

    static float scale(float) { return 1; }
    static Vec encode(Vec x, int, Bits& words) {
        words = as_bits(x);
        return x;
    }
    static Bits as_first(Bits words) { return words; }
    static Ints add_offset(Ints sum, Bits) { return sum; }
    static float start(Ints) { return 0; }

    static Sum multiply_add(const Sum& sum, std::uint32_t first, const std::uint32_t* second) {
        float z;
        std::memcpy(&z, &first, sizeof z);
        return sum + z * load_lanes(reinterpret_cast<const float*>(second));
    }
    static Lanes value(const Sum& sum) { return sum; }

    // Of a sum of so many products, one by one, in proportion to the lengths of both vectors.
    static float rounding(std::int64_t dim) { return static_cast<float>(dim) * 0x1.02p-24f; }
};

#endif

}  // namespace VITSOM_ISA
}  // namespace vitsom

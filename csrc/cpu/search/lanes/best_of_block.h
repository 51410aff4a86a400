// The two largest scores of each sample of a block, and which prototype the first is of: every prototype against all samples at once.
#pragma once

#include "cpu/search/lanes/sample_block.h"

namespace vitsom {
namespace VITSOM_ISA {

struct Packed {
    const float* prototypes;  // [groups][dim][AT_ONCE], as many groups as it takes
    const float* bias;        // [groups][AT_ONCE], what a score begins with; nullptr: 0
    std::int64_t num_prototypes, dim;  // of the features that are multiplied
};

// The two largest scores of each sample of a block.
struct BestOfBlock {
    Vec first[VECTORS], second[VECTORS];
    Ints unit[VECTORS];
};

inline BestOfBlock search_block(const Packed& packed, const float* z) {
    BestOfBlock best;
    for (int v = 0; v < VECTORS; ++v) {
        best.first[v] = best.second[v] = splat(-__builtin_inff());
        best.unit[v] = Ints{};
    }
    const float* w = packed.prototypes;
    for (std::int64_t start = 0; start < packed.num_prototypes; start += AT_ONCE, w += packed.dim * AT_ONCE) {
        Vec sums[AT_ONCE][VECTORS];
        for (int k = 0; k < AT_ONCE; ++k) {
            const Vec first = packed.bias ? splat(packed.bias[start + k]) : Vec{};
            for (int v = 0; v < VECTORS; ++v) sums[k][v] = first;
        }
        for (std::int64_t d = 0; d < packed.dim; ++d) {
            Vec x[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) x[v] = load(z + d * BLOCK_SAMPLES + v * WIDTH);
#pragma GCC unroll 6
            for (int k = 0; k < AT_ONCE; ++k) {
                const Vec element = splat(w[d * AT_ONCE + k]);
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v) sums[k][v] += x[v] * element;
            }
        }
#pragma GCC unroll 6
        for (int k = 0; k < AT_ONCE; ++k) {
            if (start + k >= packed.num_prototypes) break;
            const Ints unit = Ints{} + static_cast<std::int32_t>(start + k);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) {
                const Vec score = sums[k][v];
                best.unit[v] = score > best.first[v] ? unit : best.unit[v];
                best.second[v] = larger_of(score < best.first[v] ? score : best.first[v], best.second[v]);
                best.first[v] = larger_of(score, best.first[v]);
            }
        }
    }
    return best;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

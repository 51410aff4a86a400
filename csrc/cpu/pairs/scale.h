// Powers of two that take numbers to where their squares are numbers, too.
#pragma once

#include "cpu/pairs/distances.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/powers.h"
#include "cpu/simd/rows.h"

namespace vitsom {
namespace VITSOM_ISA {

// The largest magnitude of the elements that are finite.
__attribute__((noinline)) inline float largest_of_row(Row x, std::int64_t n) {
    Vec most{};
    with_elements(x, [&](const auto* elements) {
        for_each_vector(n, [&](std::int64_t d, auto load, auto) {
            const Vec size = magnitude(load(elements + d));
            most = larger_of(size <= splat(__FLT_MAX__) ? size : Vec{}, most);
        });
    });
    return largest(most);
}

// What latents and prototypes are multiplied with. Squared, the largest is then about 2^80, as is a sum of 2^40 of them, and a
// difference of 2^-100 of the largest is a number. Sums of magnitudes are left as they are but next to the ends of fp32. `rows` has
// room for a number of each of both.
inline float scale_of_pairs(const Problem& p, PairDistance distance, float* rows, [[maybe_unused]] int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < p.batch + p.num_prototypes; ++i) {
        rows[i] = largest_of_row(i < p.batch ? row(p.z, i) : row(p.prototypes, i - p.batch), p.dim);
    }
    float most = 0;
    for (std::int64_t i = 0; i < p.batch + p.num_prototypes; ++i) most = rows[i] > most ? rows[i] : most;
    const int exponent = exponent_of(most);
    if (distance == PairDistance::manhattan && exponent >= -80 && exponent <= 80) return 1.0f;
    return static_cast<float>(power_of_two(exponent < -80 ? 120 : 40 - exponent));
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

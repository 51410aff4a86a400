// The scores of candidates by squared Euclidean distance, and by either, as exact as it takes.
#pragma once

#include "cpu/search/rescore.h"

namespace vitsom {
namespace VITSOM_ISA {

// scores[c] = -|z - prototypes[c]|^2 / 2, of differences times a power of two.
template <int MOST, class T>
__attribute__((noinline)) void measure_candidates(
    std::int64_t dim, const T* z, float unit, const Row* prototypes, double* scores) {
    const T* prototype[MOST];
    for (int c = 0; c < MOST; ++c) prototype[c] = reinterpret_cast<const T*>(prototypes[c].data);
    Vec sums[MOST] = {};
    for_each_vector(dim, [&](std::int64_t d, auto load, auto) {
        const Vec x = load(z + d) * unit;
#pragma GCC unroll 16
        for (int c = 0; c < MOST; ++c) {
            const Vec difference = load(prototype[c] + d) * unit - x;
            sums[c] += difference * difference;
            if (d + FETCHED_AHEAD < dim) __builtin_prefetch(prototype[c] + d + FETCHED_AHEAD, 0, 2);
        }
    });
    for (int c = 0; c < MOST; ++c) scores[c] = -0.5 * static_cast<double>(sum(sums[c]));
}

// Up to MOST prototypes, of these indices, all different, under the squared Euclidean distance.
template <int MOST>
void rescore_by_distance(const Problem& p, Row z, const std::int64_t* candidates, std::int64_t n, Leader leader) {
    Row prototype[MOST];
    double close[MOST];
    for (std::int64_t c = 0; c < MOST; ++c) prototype[c] = row(p.prototypes, candidates[smaller(c, n - 1)]);
    with_dtype(z.dtype, [&](auto t) {
        using T = decltype(t);
        constexpr int COUNT = CANDIDATES<MOST, T>;
        const auto* elements = reinterpret_cast<const T*>(z.data);
        for (int c = 0; c < MOST; c += COUNT) measure_candidates<COUNT>(p.dim, elements, leader.unit, prototype + c, close + c);
    });
    // The roundings of a difference, twice, of a chain and of the sum over its lanes; and what is below all numbers.
    const double share = static_cast<double>(p.dim / WIDTH + 12) * 0x1p-24, lost = static_cast<double>(p.dim) * 0x1p-126;
    double first = -__builtin_inf(), second = first;
    std::int64_t best = 0;
    for (std::int64_t c = 0; c < n; ++c) {
        if (close[c] > second) second = close[c] > first ? first : close[c];
        if (close[c] > first) {
            first = close[c];
            best = c;
        }
    }
    leader.raise((leader.wanted == 1 ? first : second) * (1 + share) - lost - leader.offset - leader.slack);
    for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t c = i == 0 ? best : i <= best ? i - 1 : i;  // the best one first: it rules out others
        const bool is_behind = close[c] * (1 - share) + lost - leader.offset + leader.slack < leader.threshold;
        if (is_behind || leader.nearest.holds(candidates[c])) continue;
        leader.meet(-0.5 * exact_squared_distance(z, prototype[c], p.dim), candidates[c]);
    }
}

// Up to MOST prototypes, of these indices, all different, by the distance of the problem.
template <int MOST>
void rescore_by_either(
    const Problem& p, Row z, double inverse_z, const double* inverse, const std::int64_t* candidates, std::int64_t n,
    Leader leader) {
    if (p.distance == Distance::squared_euclidean) rescore_by_distance<MOST>(p, z, candidates, n, leader);
    else rescore<MOST>(p, z, inverse_z, inverse, candidates, n, leader);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// The scores of candidates, as exact as it takes: in fp32 at first, and in fp64 those that could still be the BMU.
#pragma once

#include "certificate.h"
#include "contenders.h"

namespace vitsom {
namespace VITSOM_ISA {

// Where the search of one sample stands.
struct Leader {
    float& threshold;  // a score that the BMU reaches, in units of the cosine less `offset`; UNDECIDED: nothing does
    double& best;      // the cosine of the best candidate so far
    std::int64_t& bmu;
    double offset;
    double slack;  // of a threshold in fp32

    void raise(double score) {
        if (score > threshold) threshold = static_cast<float>(score);
    }
};

// Features that are fetched ahead of so many rows at a time: half of a page.
constexpr std::int64_t FETCHED_AHEAD = 512;

// Up to MOST prototypes, of these indices.
template <int MOST, class T>
void rescore(
    const Problem& p, const T* z, double inverse_z, const double* inverse, const std::int64_t* candidates, std::int64_t n,
    Leader leader) {
    std::int64_t index[MOST];
    const T* prototype[MOST];
    for (std::int64_t c = 0; c < MOST; ++c) {
        index[c] = candidates[smaller(c, n - 1)];
        prototype[c] = row<T>(p.prototypes, index[c]);
    }
    const float factor = static_cast<float>(inverse_z * 0x1p32);
    Vec sums[MOST] = {};
    for_each_vector(p.dim, [&](std::int64_t d, auto load, auto) {
        const Vec unit = load(z + d) * 0x1p-64f * factor;  // of length 2^-32: no product overflows
#pragma GCC unroll 16
        for (int c = 0; c < MOST; ++c) {
            sums[c] += unit * load(prototype[c] + d);
            __builtin_prefetch(prototype[c] + d + FETCHED_AHEAD, 0, 2);
        }
    });
    // The roundings of a unit's elements, of a chain and of the sum over its lanes.
    const double bound = static_cast<double>(p.dim / WIDTH + 10) * 0x1p-24 + leader.slack;
    double close[MOST];
    for (std::int64_t c = 0; c < n; ++c) {
        close[c] = sum(sums[c]) * 0x1p32 * inverse[index[c]] - leader.offset;
        leader.raise(close[c] - bound);
    }
    for (std::int64_t c = 0; c < n; ++c) {
        if (!(close[c] + bound >= leader.threshold)) continue;
        const double exact = dot(z, prototype[c], p.dim) * inverse_z * inverse[index[c]];
        if (exact > leader.best || (exact == leader.best && index[c] < leader.bmu)) {
            leader.best = exact;
            leader.bmu = index[c];
            leader.raise(exact - leader.offset - leader.slack);
        }
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

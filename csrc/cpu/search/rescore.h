// The scores of candidates, as exact as it takes: in fp32 at first, and in fp64 those that could still be wanted.
#pragma once

#include "cpu/search/nearest.h"
#include "cpu/simd/packing.h"

namespace vitsom {
namespace VITSOM_ISA {

// A floor that no score reaches: of a sample that is left to another pass, or has its BMU.
constexpr float UNDECIDED = __builtin_inff();

// Where the search of one sample stands.
struct Leader {
    float& threshold;  // what every wanted unit reaches: a score, as `unit` has it, less `offset`; inf: nothing does
    Nearest& nearest;
    int wanted;
    double offset;
    double slack;    // of a threshold in fp32
    float unit = 0;  // under the squared Euclidean distance, a power of two that makes differences about 1

    void raise(double score) {
        if (score > threshold) threshold = static_cast<float>(score);
    }

    void meet(double score, std::int64_t index) {
        nearest.meet(score, index);
        const double least = nearest.score[wanted - 1];
        raise((unit == 0 ? least : less(least * unit * unit)) - offset - slack);
    }

    // A score below 0, and what fp32 may take off it: as a float, and of a sample far from the map what its elements are rounded by as
    // they are seen, 2^-24 |z|^2, of which |z - w|^2 is then nearly as much.
    static double less(double score) { return score * (1 + 0x1p-22); }
};

// Features that are fetched ahead of so many rows at a time: half of a page.
constexpr std::int64_t FETCHED_AHEAD = 512;

// Candidates at a time, of MOST: four in the dtypes that are rare, for the compiler's sake.
template <int MOST, class T>
constexpr int CANDIDATES = sizeof(T) == sizeof(float) || MOST < 4 ? MOST : 4;

// sums[c] = z . prototypes[c], less a factor: z is made 2^-32 long, for no product to overflow.
template <int MOST, class T>
__attribute__((noinline)) void multiply_candidates(
    std::int64_t dim, const T* z, float factor, const Row* prototypes, double* products) {
    const T* prototype[MOST];
    for (int c = 0; c < MOST; ++c) prototype[c] = reinterpret_cast<const T*>(prototypes[c].data);
    Vec sums[MOST] = {};
    for_each_vector(dim, [&](std::int64_t d, auto load, auto) {
        const Vec unit = load(z + d) * 0x1p-64f * factor;
#pragma GCC unroll 16
        for (int c = 0; c < MOST; ++c) {
            sums[c] += unit * load(prototype[c] + d);
            if (d + FETCHED_AHEAD < dim) __builtin_prefetch(prototype[c] + d + FETCHED_AHEAD, 0, 2);
        }
    });
    for (int c = 0; c < MOST; ++c) products[c] = sum(sums[c]);
}

// Up to MOST prototypes, of these indices, all different.
template <int MOST>
void rescore(
    const Problem& p, Row z, double inverse_z, const double* inverse, const std::int64_t* candidates, std::int64_t n,
    Leader leader) {
    std::int64_t index[MOST];
    Row prototype[MOST];
    double inverse_of[MOST], close[MOST];
    for (std::int64_t c = 0; c < MOST; ++c) {
        index[c] = candidates[smaller(c, n - 1)];
        prototype[c] = row(p.prototypes, index[c]);
        __atomic_load(inverse + index[c], inverse_of + c, __ATOMIC_RELAXED);  // another part may be writing the same number
    }
    const float factor = static_cast<float>(inverse_z * 0x1p32);
    with_dtype(z.dtype, [&](auto t) {
        using T = decltype(t);
        constexpr int COUNT = CANDIDATES<MOST, T>;
        const auto* elements = reinterpret_cast<const T*>(z.data);
        for (int c = 0; c < MOST; c += COUNT) multiply_candidates<COUNT>(p.dim, elements, factor, prototype + c, close + c);
    });
    // The roundings of a unit's elements, of a chain and of the sum over its lanes.
    const double bound = static_cast<double>(p.dim / WIDTH + 10) * 0x1p-24 + leader.slack;
    double first = -__builtin_inf(), second = first;
    for (std::int64_t c = 0; c < n; ++c) {
        close[c] = close[c] * 0x1p32 * inverse_of[c] - leader.offset;
        if (close[c] > second) second = close[c] > first ? first : close[c];
        if (close[c] > first) first = close[c];
    }
    leader.raise((leader.wanted == 1 ? first : second) - bound);
    for (std::int64_t c = 0; c < n; ++c) {
        if (!(close[c] + bound >= leader.threshold) || leader.nearest.holds(index[c])) continue;
        leader.meet(dot(z, prototype[c], p.dim) * inverse_z * inverse_of[c], index[c]);
    }
}

// The same of any number of them, in as many registers as there are.
inline void rescore_all(
    const Problem& p, Row z, double inverse_z, const double* inverse, const std::int64_t* candidates, std::int64_t n,
    Leader leader) {
    for (; n > 0 && n <= leader.wanted; ++candidates, --n) {  // none of which rules out another
        double inverse_of;
        __atomic_load(inverse + *candidates, &inverse_of, __ATOMIC_RELAXED);
        leader.meet(dot(z, row(p.prototypes, *candidates), p.dim) * inverse_z * inverse_of, *candidates);
    }
    for (; n > 4; candidates += 8, n -= 8) rescore<8>(p, z, inverse_z, inverse, candidates, smaller(n, 8), leader);
    if (n > 0) rescore<4>(p, z, inverse_z, inverse, candidates, n, leader);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

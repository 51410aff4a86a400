// The search among rows that lie in nearly one direction, as latents do that share a large offset: less than fp32 can tell apart by
// their cosines, which differ by the squares of small angles.
//
// Of rows of length 1, |z - w|^2 / 2 is 1 less the cosine, and it stays what it is where both are seen from a centre c: z - c and
// w - c are short, and fp32 holds them with as many digits as any. So this is the search by squared Euclidean distance, with all
// that rules out prototypes there, in the place of one in fp64 through all pairs.
#pragma once

#include "cpu/module/kernel_table.h"
#include "cpu/runtime/arena.h"
#include "cpu/runtime/golden_order.h"
#include "cpu/search/search.h"
#include "cpu/simd/packing.h"

namespace vitsom {
namespace VITSOM_ISA {

// Samples and prototypes below which all pairs in fp64 take less.
constexpr std::int64_t LEAST_NARROW_SAMPLES = 64, LEAST_NARROW_PROTOTYPES = 64;

// How far a row may be from the centre, squared, for its cosines to be too close for fp32; and what the roundings of rows may move two
// cosines by: those of a sample z at the distance d from its BMU, and of any nearer prototype w, by 2 d (|z| + |w|) 2^-24 at most.
constexpr double MOST_REACH_SQUARED = 0x1p-16, MOST_REGRET = 8e-13;

// And squared reaches below which all cosines are the same in fp64.
constexpr double LEAST_REACH_SQUARED = 1e-20;

// out = the row, of length 1, less the centre; returns its squared length in fp64, NaN for a row that is not finite.
inline double write_apart(Row x, double inverse, const double* centre, std::int64_t n, float* out) {
    double squared = 0;
    with_elements(x, [&](const auto* elements) {
        for_each_vector(n, [&](std::int64_t d, auto load, auto) {
            float part[WIDTH];
            store(part, load(elements + d));
            for (std::int64_t i = 0; i < smaller(WIDTH, n - d); ++i) {
                const double apart = static_cast<double>(part[i]) * inverse - centre[d + i];
                squared += apart * apart;
                out[d + i] = static_cast<float>(apart);
            }
        });
    });
    return squared;
}

// Whether a few prototypes lie in nearly one direction: all that most searches ask.
inline bool may_be_narrow(const Problem& p) {
    const Order order(p.num_prototypes);
    const Row first = row(p.prototypes, order(0));
    const double inverse = inverse_norm(first, p.dim);
    for (std::int64_t i = 1; i < 4; ++i) {
        const Row w = row(p.prototypes, order(i));
        if (1 - dot(first, w, p.dim) * inverse * inverse_norm(w, p.dim) > 2 * MOST_REACH_SQUARED) return false;
    }
    return true;
}

// The mean direction of some prototypes; returns whether any is finite.
inline bool find_direction(const Problem& p, double* centre) {
    const std::int64_t members = smaller(64, p.num_prototypes);
    const Order order(p.num_prototypes);
    double count = 0;
    for (std::int64_t d = 0; d < p.dim; ++d) centre[d] = 0;
    for (std::int64_t i = 0; i < members; ++i) {
        const Row w = row(p.prototypes, order(i));
        const double inverse = inverse_norm(w, p.dim);
        if (!(inverse == inverse)) continue;
        count += 1;
        with_elements(w, [&](const auto* elements) {
            for (std::int64_t d = 0; d < p.dim; ++d) centre[d] += static_cast<double>(load_partial(elements + d, 1)[0]) * inverse;
        });
    }
    for (std::int64_t d = 0; d < p.dim; ++d) centre[d] /= count > 0 ? count : 1;
    return count > 0;
}

// As a pass. `kernels` are those that search by squared Euclidean distance.
inline std::int64_t search_narrow(
    const Kernels& kernels, const Problem& p, std::int64_t* rows, std::int64_t batch, const SearchOutput& result,
    SearchCounts& counts) {
    if (p.lifted > 0 || p.distance != Distance::cosine || result.wanted != 1) return 0;
    if (batch < LEAST_NARROW_SAMPLES || p.num_prototypes < LEAST_NARROW_PROTOTYPES) return 0;
    if (!may_be_narrow(p)) return 0;
    const std::int64_t dim = p.dim;
    Arena arena;
    double* centre = nullptr;
    float *z = nullptr, *w = nullptr;
    std::int64_t* near = nullptr;  // samples in that direction
    SearchOutput found{};
    lay_out(arena, [&](Arena& a) {
        centre = a.take<double>(dim);
        z = a.take<float>(batch * dim);
        w = a.take<float>(p.num_prototypes * dim);
        near = a.take<std::int64_t>(batch);
        found.bmu = a.take<std::int64_t>(batch);
        found.inverse_z = a.take<double>(batch);
        found.inverse_prototype = a.take<double>(p.num_prototypes);
    });
    if (!find_direction(p, centre)) return 0;
    double most = 0;
    for (std::int64_t k = 0; k < p.num_prototypes; ++k) {
        const Row x = row(p.prototypes, k);
        const double inverse = result.inverse_prototype[k] = inverse_norm(x, dim);
        const double squared = write_apart(x, inverse, centre, dim, w + k * dim);
        if (squared > MOST_REACH_SQUARED) return 0;
        if (squared > most) most = squared;
    }
    if (most < LEAST_REACH_SQUARED) return 0;
    std::int64_t count = 0, left = 0;
    for (std::int64_t i = 0; i < batch; ++i) {
        const Row x = row(p.z, rows[i]);
        const double inverse = result.inverse_z[rows[i]] = inverse_norm(x, dim);
        if (write_apart(x, inverse, centre, dim, z + count * dim) <= MOST_REACH_SQUARED) near[count++] = rows[i];
        else rows[left++] = rows[i];
    }
    Problem apart = p;
    apart.z = {z, dim, DType::float32};
    apart.prototypes = {w, dim, DType::float32};
    apart.batch = count;
    apart.distance = Distance::squared_euclidean;
    const SearchCounts within = count > 0 ? search(kernels, apart, found) : SearchCounts{};
    counts.tiles += within.tiles;
    counts.candidates += within.candidates;
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t unit = found.bmu[i];
        double squared = 0, length = 0;
        for (std::int64_t d = 0; d < dim; ++d) {
            const auto x = static_cast<double>(z[i * dim + d]), difference = x - static_cast<double>(w[unit * dim + d]);
            squared += difference * difference;
            length += x * x;
        }
        if (!(2 * __builtin_sqrt(squared) * (__builtin_sqrt(length) + __builtin_sqrt(most)) * 0x1p-24 <= MOST_REGRET)) {
            rows[left++] = near[i];
            continue;
        }
        result.bmu[near[i]] = unit;
        if (!result.score) continue;
        const double product = dot(row(p.z, near[i]), row(p.prototypes, unit), dim);
        result.score[near[i]] = product * result.inverse_z[near[i]] * result.inverse_prototype[unit];
    }
    return batch - left;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// From where, and in which unit, rows are seen under the squared Euclidean distance.
//
// |z - w| stays what it is where both are seen from a centre c, and z - c and w - c are short: fp32 holds them with as many digits as
// any. A score is z . w - |w|^2 / 2 of rows so seen, which is (|z|^2 - |z - w|^2) / 2.
#pragma once

#include "cpu/search/centre.h"
#include "cpu/simd/powers.h"

namespace vitsom {
namespace VITSOM_ISA {

// Lengths of the longest prototype for which no square leaves fp32.
constexpr double SHORTEST_SEEN = 0x1p-100, LONGEST_SEEN = 0x1p100;

// Lengths beyond which a sample is left to others, in units of the map: roundings are in proportion to its square. A prototype as far
// as BEYOND is no unit of the others.
constexpr float FARTHEST = 0x1p12f, BEYOND = 0x1p20f;

struct Frame {
    float unit = 0;         // a power of two: what differences are multiplied with; 0 where there is no frame
    double far_square = 0;  // how far the centre is from the origin, squared
    double square = 0;      // of the distance of a prototype from the centre, a mean
};

// The centre [dim], which is the mean of some prototypes, and the unit of about the longest of them as seen from there. Any would be
// right; there is none where all are the same, or not two finite.
inline Frame find_frame(const Problem& p, float* centre) {
    const CentreMembers members(p);
    const float share = 1 / static_cast<float>(members.count);
    fill(centre, p.dim, 0.0f);
    Frame frame;
    std::int64_t finite = 0;
    double longest = 0;
    for (std::int64_t i = 0; i < members.count; ++i) {
        const Row w = row(p.prototypes, members[i]);
        if (!(squared_norm(w, p.dim) <= __DBL_MAX__)) continue;
        ++finite;
        with_elements(w, [&](const auto* x) {
            for_each_vector(p.dim, [&](std::int64_t d, auto load, auto store) {
                store(centre + d, load(centre + d) + load(x + d) * share);
            });
        });
    }
    const double all = finite > 0 ? static_cast<double>(members.count) / static_cast<double>(finite) : 1;
    for (std::int64_t d = 0; d < p.dim; ++d) centre[d] = static_cast<float>(centre[d] * all);
    frame.far_square = squared_norm(centre, p.dim);
    for (std::int64_t i = 0; i < members.count; ++i) {
        const Row w = row(p.prototypes, members[i]);
        const double square = with_elements(w, [&](const auto* x) { return exact_squared_distance(x, centre, p.dim); });
        if (!(square <= __DBL_MAX__)) continue;
        frame.square += square / static_cast<double>(finite);
        if (square > longest) longest = square;
    }
    longest = __builtin_sqrt(longest);
    if (finite >= 2 && longest >= SHORTEST_SEEN && longest <= LONGEST_SEEN) {
        frame.unit = static_cast<float>(1 / power_of_two_below(longest));
    }
    return frame;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

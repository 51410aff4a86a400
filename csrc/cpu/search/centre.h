// What the unit prototypes have in common. A number made of what is left once that is taken off has roundings in proportion to it:
// the bounds of a coded score are tighter, and the loss of a map that fits its data is not the small difference of large sums.
#pragma once

#include "cpu/runtime/golden_order.h"
#include "cpu/simd/packing.h"

namespace vitsom {
namespace VITSOM_ISA {

// Any centre serves; the mean of 64 prototypes is as good as that of all.
struct CentreMembers {
    std::int64_t count;
    Order order;

    explicit CentreMembers(const Problem& p) : count(smaller(64, p.num_prototypes)), order(p.num_prototypes) {}
    std::int64_t operator[](std::int64_t i) const { return order(i); }
};

// Features [begin, begin + count) of the centre, given 1 / |w| of its members.
inline void write_centre(const Problem& p, const double* inverse, std::int64_t begin, std::int64_t count, float* centre) {
    const CentreMembers members(p);
    fill(centre, count, 0.0f);
    for (std::int64_t i = 0; i < members.count; ++i) {
        const std::int64_t k = members[i];
        if (!(inverse[k] == inverse[k])) continue;
        const Scaling scaled = scaling(inverse[k] / static_cast<double>(members.count));
        with_elements(row(p.prototypes, k) + begin, [&](const auto* x) {
            for_each_vector(count, [&](std::int64_t d, auto load, auto store) {
                store(centre + d, load(centre + d) + scaled(load(x + d)));
            });
        });
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

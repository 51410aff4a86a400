// The loss of rows of few features, in fp64.
//
// A loss is what is left of the weight once z^ . S_b is taken from it. Over many features the roundings of S in fp32 even out; over up
// to 3 they do not, and opposite prototypes leave 3e-7 of the weight, where 1e-7 is promised; of 4, 1.2e-7 in one case of 15000.
#pragma once

#include "cpu/step/saved_for_backward.h"
#include "cpu/step/squared_euclidean.h"

namespace vitsom {
namespace VITSOM_ISA {

constexpr std::int64_t FEW_FEATURES = 6;

// The elements of a row of length 1.
inline void read_few(Row x, double inverse, std::int64_t dim, double (&unit)[FEW_FEATURES]) {
    with_elements(x, [&](const auto* elements) {
        for (std::int64_t d = 0; d < dim; ++d) unit[d] = load_partial(elements + d, 1)[0] * inverse;
    });
}

// Sum over i of n_b - z^_i . S_b; `feature` and `columns` [num_prototypes] and `at_bmu` [groups] are scratch.
inline double loss_of_few(
    const Problem& p, const Neighborhood& h, const BmuGroups& samples, const SavedForBackward<double>& saved, const double* weight,
    double* feature, double* columns, double* at_bmu) {
    double total = 0, unit[FEW_FEATURES];
    for (std::int64_t d = 0; d < p.dim; ++d) {
        for (std::int64_t k = 0; k < p.num_prototypes; ++k) {
            read_few(row(p.prototypes, k), saved.inverse_prototype[k], p.dim, unit);
            feature[k % h.cols * h.rows + k / h.cols] = unit[d];
        }
        smooth_at_bmus(h, samples, feature, p.threads, columns, at_bmu);
        for (std::int64_t g = 0; g < samples.groups; ++g) {
            for (std::int64_t s = samples.start[g]; s < samples.start[g + 1]; ++s) {
                const std::int64_t i = samples.order[s];
                read_few(row(p.z, i), saved.inverse_z[i], p.dim, unit);
                total += (d == 0 ? weight[g] : 0) - unit[d] * at_bmu[g];
            }
        }
    }
    return total;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

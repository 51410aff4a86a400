// The search for the BMUs: passes over the prototypes, each of which leaves the samples that it cannot decide to the next, slower one.
#pragma once

#include "cpu/module/kernel_table.h"

namespace vitsom {

SearchCounts search(const Kernels&, const Problem&, const SearchOutput&);

// BMU and distance of each sample, or with 2 wanted those of the nearest two units, the nearest first: [batch * wanted] each. `rooted`
// takes the root of a squared distance.
SearchCounts find_bmu(const Kernels&, const Problem&, int wanted, bool rooted, std::int64_t* bmu, float* distance);

}  // namespace vitsom

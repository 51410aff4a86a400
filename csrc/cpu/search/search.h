// The search for the BMUs: passes over the prototypes, each of which leaves the samples that it cannot decide to the next, slower one.
#pragma once

#include "cpu/module/kernel_table.h"

namespace vitsom {

SearchCounts search(const Kernels&, const Problem&, const SearchOutput&);

// BMU and distance of each sample, or with 2 wanted those of the nearest two units, the nearest first.
SearchCounts find_bmu(const Kernels&, const Problem&, int wanted, std::int64_t* bmu, float* distance);  // [batch * wanted] each

}  // namespace vitsom

// What a search finds.
#pragma once

#include <cstdint>

namespace vitsom {

struct SearchOutput {
    std::int64_t* bmu;          // [batch * wanted] of each sample the nearest first
    double* score;              // [batch * wanted] cosines, or -|z - w|^2 / 2; -inf where none is a number; nullptr: not asked for
    double* inverse_z;          // [batch] 1 / max(|z|, eps), or any number; NaN for a row that is not finite
    double* inverse_prototype;  // [num_prototypes]
    int wanted = 1;             // units of a sample: the BMU, or 2 for the second-best one as well
};

}  // namespace vitsom

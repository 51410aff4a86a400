// What a search finds.
#pragma once

#include <cstdint>

namespace vitsom {

struct SearchOutput {
    std::int64_t* bmu;          // [batch]
    double* score;              // [batch] cosine similarity of the BMU; -inf where none is a number; nullptr: not wanted
    double* inverse_z;          // [batch] 1 / max(|z|, eps); NaN for a row that is not finite
    double* inverse_prototype;  // [num_prototypes]
};

}  // namespace vitsom

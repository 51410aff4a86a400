// What a search finds.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace vitsom {
namespace VITSOM_ISA {

struct Search {
    std::int64_t* bmu;          // [batch]
    double* score;              // [batch] cosine similarity of the BMU; -inf where none is a number; nullptr: not wanted
    double* inverse_z;          // [batch] 1 / max(|z|, eps); NaN for a row that is not finite
    double* inverse_prototype;  // [num_prototypes]
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

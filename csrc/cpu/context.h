// What a forward pass keeps for its backward pass, in one block of fp32 words.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace vitsom {
namespace VITSOM_ISA {

struct Context {
    double* inverse_z;          // [batch] 1 / max(|z|, eps); NaN for a row that is not finite
    double* along;              // [batch] z . S_b
    double* inverse_prototype;  // [num_prototypes] 1 / max(|w|, eps); NaN for a row that is not finite

    Context(float* words, std::int64_t batch)
        : inverse_z(reinterpret_cast<double*>(words)), along(inverse_z + batch), inverse_prototype(along + batch) {}
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

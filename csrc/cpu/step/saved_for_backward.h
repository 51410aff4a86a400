// What a forward pass keeps for its backward pass, in one block.
#pragma once

#include <cstdint>

namespace vitsom {

// Doubles of each sample, and of each prototype.
constexpr std::int64_t SAVED_PER_SAMPLE = 2, SAVED_PER_PROTOTYPE = 1;

namespace VITSOM_ISA {

// Of const doubles where they are only read.
template <class Double>
struct SavedForBackward {
    Double* inverse_z;          // [batch] 1 / max(|z|, eps); NaN for a row that is not finite
    Double* z_dot_attraction;   // [batch] z . S_b
    Double* inverse_prototype;  // [num_prototypes] 1 / max(|w|, eps); NaN for a row that is not finite

    SavedForBackward(Double* context, std::int64_t batch)
        : inverse_z(context), z_dot_attraction(inverse_z + batch), inverse_prototype(z_dot_attraction + batch) {}

};

}  // namespace VITSOM_ISA
}  // namespace vitsom

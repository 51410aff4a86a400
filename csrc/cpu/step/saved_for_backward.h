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
    // Under the squared Euclidean distance, where all rows count as of length 1, in place of z . S_b: n_b, and before that what a
    // loss has without the squares of the prototypes.
    Double *total_weight, *loss_without_squares;

    SavedForBackward(Double* context, std::int64_t batch)
        : inverse_z(context), z_dot_attraction(inverse_z + batch), inverse_prototype(z_dot_attraction + batch),
          total_weight(z_dot_attraction), loss_without_squares(z_dot_attraction) {}
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

// A step of training: the loss of the latents and its gradients.
#pragma once

#include "cpu/module/kernel_table.h"

namespace vitsom {

// As Attract, the search included; bmu [batch] is written.
void som_forward(
    const Kernels&, const Problem&, const Neighborhood&, double scale, float* loss, std::int64_t* bmu, float* attraction,
    double* context);

void som_backward(
    const Kernels&, const Problem&, const Neighborhood&, double scale, const std::int64_t* bmu, const float* attraction,
    const double* context, void* grad_z, void* grad_prototypes);

// Under the squared Euclidean distance: Attract and Backward, the BMUs given.
bool squared_losses(
    const Kernels&, const Problem&, const Neighborhood&, const std::int64_t* bmu, float* attraction, double* context,
    double* losses);

void squared_gradients(
    const Kernels&, const Problem&, const Neighborhood&, const std::int64_t* bmu, const float* attraction, const double* context,
    const double* shares, void* grad_z, void* grad_prototypes);

}  // namespace vitsom

#include "cpu/step/step.h"

#include "cpu/search/search.h"
#include "cpu/step/saved_for_backward.h"

namespace vitsom {

using namespace VITSOM_ISA;

void som_forward(
    const Kernels& kernels, const Problem& p, const Neighborhood& h, double scale, float* loss, std::int64_t* bmu,
    float* attraction, double* context) {
    *loss = 0;
    if (p.batch == 0) return;
    const SavedForBackward saved(context, p.batch);
    Problem on_map = p;
    on_map.map_rows = h.rows;
    on_map.map_cols = h.cols;
    search(kernels, on_map, {bmu, nullptr, saved.inverse_z, saved.inverse_prototype});
    kernels.attract(p, h, scale, loss, bmu, attraction, context, nullptr);
}

void som_backward(
    const Kernels& kernels, const Problem& p, const Neighborhood& h, double scale, const std::int64_t* bmu,
    const float* attraction, const double* context, void* grad_z, void* grad_prototypes) {
    kernels.backward(p, h, scale, bmu, attraction, context, nullptr, grad_z, grad_prototypes);
}

static Problem under_squared_euclidean(Problem p) {
    p.distance = Distance::squared_euclidean;
    return p;
}

bool squared_losses(
    const Kernels& kernels, const Problem& p, const Neighborhood& h, const std::int64_t* bmu, float* attraction, double* context,
    double* losses) {
    return p.batch == 0 || kernels.attract(under_squared_euclidean(p), h, 1, nullptr, bmu, attraction, context, losses);
}

void squared_gradients(
    const Kernels& kernels, const Problem& p, const Neighborhood& h, const std::int64_t* bmu, const float* attraction,
    const double* context, const double* shares, void* grad_z, void* grad_prototypes) {
    kernels.backward(under_squared_euclidean(p), h, 1, bmu, attraction, context, shares, grad_z, grad_prototypes);
}

}  // namespace vitsom

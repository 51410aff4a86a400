// vitsom_fast._cuda: the kernels under Python, in plain addresses, so that one build serves every version of torch.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels.h"

#ifndef VITSOM_DEVICE_TYPE
#define VITSOM_DEVICE_TYPE "cuda"  // the host build of the tests takes tensors of the CPU
#endif

namespace py = pybind11;

namespace {

using vitsom::Matrix;
using vitsom::Neighborhood;
using vitsom::cuda::Execution;
using vitsom::cuda::Problem;

template <class T>
T* address(std::uintptr_t value) {
    return reinterpret_cast<T*>(value);
}

void check_counts(std::int64_t batch, std::int64_t num_prototypes, std::int64_t dim) {
    for (const std::int64_t count : {batch, num_prototypes, dim}) {
        if (count > 1 << 30) {  // offsets are 64-bit, counts are not
            throw std::invalid_argument(
                "z and prototypes must have at most 2^30 rows and features, got " + std::to_string(count));
        }
    }
}

Problem problem(
    std::uintptr_t z, std::int64_t z_stride, std::uintptr_t prototypes, std::int64_t prototype_stride, int dtype,
    std::int64_t batch, std::int64_t num_prototypes, std::int64_t dim) {
    check_counts(batch, num_prototypes, dim);
    const auto type = static_cast<vitsom::DType>(dtype);
    return {{address<void>(z), z_stride, type}, {address<void>(prototypes), prototype_stride, type}, batch, num_prototypes, dim};
}

Neighborhood neighborhood(
    std::int64_t rows, std::int64_t cols, std::int64_t terms, std::uintptr_t row_factors, std::uintptr_t col_factors) {
    return {rows, cols, terms, address<const float>(row_factors), address<const float>(col_factors)};
}

Execution execution(int device, std::uintptr_t stream, std::uintptr_t workspace) {
    return {device, address<void>(stream), address<void>(workspace)};
}

void gaussian_weights(
    const Execution& on, std::uintptr_t squared_offsets, std::int64_t count, double radius, std::uintptr_t temperature,
    std::uintptr_t weights) {
    vitsom::cuda::gaussian_weights(
        on, address<const float>(squared_offsets), count, radius, address<const float>(temperature), address<float>(weights));
}

void find_bmu(const Execution& on, const Problem& p, std::uintptr_t bmu, std::uintptr_t distance) {
    vitsom::cuda::find_bmu(on, p, address<std::int64_t>(bmu), address<float>(distance));
}

void som_forward(
    const Execution& on, const Problem& p, const Neighborhood& h, double scale, std::uintptr_t loss, std::uintptr_t bmu,
    std::uintptr_t attraction, std::uintptr_t context) {
    vitsom::cuda::som_forward(
        on, p, h, scale, address<float>(loss), address<std::int64_t>(bmu), address<float>(attraction), address<void>(context));
}

void som_backward(
    const Execution& on, const Problem& p, const Neighborhood& h, double scale, std::uintptr_t grad_loss,
    std::uintptr_t attraction, std::uintptr_t context, std::uintptr_t grad_z, std::uintptr_t grad_prototypes) {
    vitsom::cuda::som_backward(
        on, p, h, scale, address<const float>(grad_loss), address<const float>(attraction), address<const void>(context),
        address<void>(grad_z), address<void>(grad_prototypes));
}

void sum_by_bmu(
    const Execution& on, std::uintptr_t x, std::int64_t stride, int dtype, std::int64_t batch, std::int64_t dim,
    std::uintptr_t bmu, std::int64_t num_prototypes, std::uintptr_t sums, std::uintptr_t counts) {
    check_counts(batch, num_prototypes, dim);
    const Matrix rows{address<void>(x), stride, static_cast<vitsom::DType>(dtype)};
    vitsom::cuda::sum_by_bmu(
        on, rows, batch, dim, address<const std::int64_t>(bmu), num_prototypes, address<float>(sums), address<float>(counts));
}

void add_by_bmu(
    const Execution& on, std::uintptr_t x, std::int64_t stride, int dtype, std::int64_t batch, std::int64_t dim,
    std::uintptr_t bmu, std::int64_t num_prototypes, std::uintptr_t sums) {
    check_counts(batch, num_prototypes, dim);
    const Matrix rows{address<void>(x), stride, static_cast<vitsom::DType>(dtype)};
    vitsom::cuda::add_by_bmu(on, rows, batch, dim, address<const std::int64_t>(bmu), num_prototypes, address<double>(sums));
}

void smooth(
    const Execution& on, const Neighborhood& h, bool transposed, std::uintptr_t x, std::int64_t stride, std::int64_t dim,
    std::uintptr_t smoothed) {
    const Matrix rows{address<void>(x), stride, vitsom::DType::float32};
    vitsom::cuda::smooth(on, h, transposed, rows, dim, address<float>(smoothed));
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "CUDA kernels of vitsom_fast; the caller guarantees addresses, sizes and dtypes.";
    py::class_<Problem>(m, "Problem", py::module_local()).def(py::init(&problem));
    py::class_<Neighborhood>(m, "Neighborhood", py::module_local()).def(py::init(&neighborhood));
    py::class_<Execution>(m, "Execution", py::module_local()).def(py::init(&execution));
    m.def("find_bmu_workspace", &vitsom::cuda::find_bmu_workspace, "Bytes of workspace.");
    m.def("som_forward_workspace", &vitsom::cuda::som_forward_workspace, "Bytes of workspace.");
    m.def("som_backward_workspace", &vitsom::cuda::som_backward_workspace, "Bytes of workspace.");
    m.def("sums_workspace", &vitsom::cuda::sums_workspace, "Bytes of workspace.");
    m.def("smooth_workspace", &vitsom::cuda::smooth_workspace, "Bytes of workspace.");
    m.def("gaussian_weights", &gaussian_weights);
    m.def("find_bmu", &find_bmu);
    m.def("som_forward", &som_forward);
    m.def("som_backward", &som_backward);
    m.def("sum_by_bmu", &sum_by_bmu);
    m.def("add_by_bmu", &add_by_bmu);
    m.def("smooth", &smooth);
    m.def("driver_version", &vitsom::cuda::driver_version, "The newest CUDA that the driver serves; 0 without a driver.");
    m.def("runtime_version", &vitsom::cuda::runtime_version, "The CUDA that this module was built with.");
    m.def("lowest_architecture", &vitsom::cuda::lowest_architecture, "10 * major + minor of the oldest with kernels in here.");
    m.attr("DEVICE_TYPE") = VITSOM_DEVICE_TYPE;
}

// What the module offers, in plain pointers and sizes; all memory is the caller's, nothing here waits for the device.
//
// z is (batch, dim) and the prototypes (rows * cols, dim), both of one dtype, each row contiguous. Offsets are 64-bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/problem.h"

namespace vitsom::cuda {

struct Problem {
    Matrix z;           // [batch, dim]
    Matrix prototypes;  // [num_prototypes, dim], of the same dtype
    std::int64_t batch, num_prototypes, dim;
};

// Where the kernels run: the stream is a cudaStream_t, the workspace has the bytes that the functions below ask for.
struct Execution {
    int device;
    void* stream;
    void* workspace;
};

std::size_t find_bmu_workspace(const Problem&);
std::size_t som_forward_workspace(const Problem&, const Neighborhood&);
std::size_t som_backward_workspace(const Problem&);

// weights[i] = exp(-squared_offsets[i] / (2 T^2)), NaN where T is not positive; T is temperature[0] or, without it, the radius.
void gaussian_weights(
    const Execution&, const float* squared_offsets, std::int64_t count, double radius, const float* temperature,
    float* weights);

void find_bmu(const Execution&, const Problem&, std::int64_t* bmu, float* distance);  // [batch], [batch]

// loss = scale * sum over i of (n_b - z^_i . S_b); attraction[i] = S_b  [batch, dim]; the context, 5 * batch + 2 * cols + 1
// words of 4 bytes, is kept for the backward pass.
void som_forward(
    const Execution&, const Problem&, const Neighborhood&, double scale, float* loss, std::int64_t* bmu, float* attraction,
    void* context);

// Gradients of grad_loss[0] * loss in the dtype of the problem, each row contiguous; nullptr for one that is not wanted.
void som_backward(
    const Execution&, const Problem&, const Neighborhood&, double scale, const float* grad_loss, const float* attraction,
    const void* context, void* grad_z, void* grad_prototypes);

// Sums [num_prototypes, dim] and counts [num_prototypes] of the rows x [batch, dim] of every BMU [batch], set; or added to sums
// [num_prototypes, dim + 1], the counts in the last column.
std::size_t sums_workspace(std::int64_t batch, std::int64_t num_prototypes);
void sum_by_bmu(
    const Execution&, const Matrix& x, std::int64_t batch, std::int64_t dim, const std::int64_t* bmu,
    std::int64_t num_prototypes, float* sums, float* counts);
void add_by_bmu(
    const Execution&, const Matrix& x, std::int64_t batch, std::int64_t dim, const std::int64_t* bmu,
    std::int64_t num_prototypes, double* sums);

// smoothed = G x, or G' x where transposed  [rows * cols, dim], of x in fp32
std::size_t smooth_workspace(const Neighborhood&, std::int64_t dim);
void smooth(const Execution&, const Neighborhood&, bool transposed, const Matrix& x, std::int64_t dim, float* smoothed);

int driver_version();       // the newest CUDA that the driver serves, 1000 * major + 10 * minor; 0 without a driver
int runtime_version();      // the CUDA that this module was built with, likewise
int lowest_architecture();  // the oldest that it holds kernels for, 10 * major + minor

}  // namespace vitsom::cuda

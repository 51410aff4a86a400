// What is left of a forward pass once S is known at the BMUs: loss = scale * sum over i of (n_b - z^_i . S_b).
//
// The distance 1 - cos cancels where a map fits its data, so all of it is in fp64: n, the norm, the dot product and the sum.
#include "launch.h"
#include "steps.h"

namespace vitsom::cuda {
namespace {

constexpr int THREADS = 256;
constexpr int CENTRE_ROWS = 16, CENTRE_FEATURES = 4 * WARP;

// The mean of w^ over prototypes all over the map; those that are not finite are left out.
template <class T>
__device__ void find_centre(
    const Rows<const T>& prototypes, std::int64_t num_prototypes, const float* inverse, std::int64_t d, const Rows<float>& centre) {
    float4 sum{0, 0, 0, 0};
#pragma unroll
    for (int j = 0; j < CENTRE_ROWS; ++j) {
        const std::int64_t k = j * num_prototypes / CENTRE_ROWS;
        if (isfinite(inverse[k])) sum = sum + normalised(prototypes.load(k, d), inverse[k]);
    }
    centre.store(0, d, 1.0f / CENTRE_ROWS * sum);
}

// A warp a row of a factor; the warps after those take 128 features of the centre each.
template <class T>
__global__ void survey_map(
    Neighborhood h, Rows<const T> prototypes, const float* inverse, double* sums, Rows<float> centre) {
    const std::int64_t at = blockIdx.x, row_sums = h.terms * h.rows, all_sums = h.terms * (h.rows + h.cols);
    if (at >= all_sums) {
        find_centre(prototypes, h.rows * h.cols, inverse, (at - all_sums) * CENTRE_FEATURES + 4 * threadIdx.x, centre);
        return;
    }
    const std::int64_t length = at < row_sums ? h.rows : h.cols;
    const float* row = at < row_sums ? h.row_factors + at * length : h.col_factors + (at - row_sums) * length;
    double sum = 0;
    for (std::int64_t j = threadIdx.x; j < length; j += blockDim.x) sum += row[j];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[at] = sum;
}

__device__ double total_weight(const Neighborhood& h, const double* factor_sums, std::int64_t unit) {
    const double* col_sums = factor_sums + h.terms * h.rows;
    double weight = 0;
    for (std::int64_t t = 0; t < h.terms; ++t) {
        weight += factor_sums[t * h.rows + unit / h.cols] * col_sums[t * h.cols + unit % h.cols];
    }
    return weight;
}

// The threads of a sample also look at a share of the prototypes: one that is not finite makes the loss NaN, even where no sample
// is near enough for its weight to matter.
template <class T>
__global__ void __launch_bounds__(RowThreads::BLOCK) attract_samples(
    RowThreads threads, Rows<const T> z, Neighborhood h, const std::int64_t* bmu, Groups groups, const double* factor_sums,
    Rows<float> centre, Rows<float> combined, const float* prototype_inverse, Rows<float> attraction, double* losses) {
    const std::int64_t i = threads.row();
    if (i >= threads.rows) return;
    const std::int64_t g = group_of(groups, bmu[i], h.cols);
    const double weight = total_weight(h, factor_sums, bmu[i]);
    double squared = 0, along = 0, toward = 0;  // z . G (w^ - c) and z . c
    for (std::int64_t d = threads.first_feature(); d < z.dim; d += threads.apart) {
        const float4 x = z.load(i, d), c = centre.load(0, d), pull = combined.load(g, d);
        squared += dot(x, x);
        along += dot(x, pull);
        toward += dot(x, c);
        attraction.store(i, d, static_cast<float>(weight) * c + pull);
    }
    const std::int64_t first = i + threads.first_feature() / 4 * threads.rows, apart = threads.apart / 4 * threads.rows;
    for (std::int64_t k = first; k < h.rows * h.cols; k += apart) along += 0.0 * prototype_inverse[k];
    squared = threads.sum(squared);
    along = threads.sum(along + weight * toward);
    if (threads.first_feature() == 0) losses[i] = weight - along / clamped_norm(squared);
}

__global__ void sum_losses(const double* losses, std::int64_t batch, double scale, float* loss) {
    double sum = 0;
    for (std::int64_t i = threadIdx.x; i < batch; i += blockDim.x) sum += losses[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *loss = static_cast<float>(scale * sum);  // below zero where weights are
}

}  // namespace

void survey(
    const Problem& p, const Neighborhood& h, const float* prototype_inverse, double* factor_sums, const Features& centre,
    cudaStream_t stream) {
    const std::int64_t blocks = h.terms * (h.rows + h.cols) + ceil_div(p.dim, CENTRE_FEATURES);
    by_dtype(p.z.dtype, [&](auto zero) {
        using T = decltype(zero);
        launch(
            "survey_map", survey_map<T>, blocks, WARP, stream, h, make_rows<T>(p.prototypes, p.dim), prototype_inverse,
            factor_sums, centre);
    });
}

void attract(
    const Problem& p, const Neighborhood& h, const std::int64_t* bmu, const Groups& groups, const double* factor_sums,
    const Features& centre, const Features& combined, const float* prototype_inverse, double scale, float* attraction,
    double* losses, float* loss, cudaStream_t stream) {
    const RowThreads threads(p.batch, p.dim);
    by_dtype(p.z.dtype, [&](auto zero) {
        using T = decltype(zero);
        launch(
            "attract_samples", attract_samples<T>, threads.blocks(), RowThreads::BLOCK, stream, threads,
            make_rows<T>(p.z, p.dim), h, bmu, groups, factor_sums, centre, combined, prototype_inverse,
            make_rows(attraction, p.dim, p.dim), losses);
    });
    launch("sum_losses", sum_losses, 1, THREADS, stream, losses, p.batch, scale, loss);
}

}  // namespace vitsom::cuda

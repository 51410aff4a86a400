// The ends of a backward pass: the samples of every BMU summed up, and gradients taken through the normalisation.
#include "launch.h"
#include "steps.h"

namespace vitsom::cuda {
namespace {

constexpr int SUM_WARPS = 4, SUM_FEATURES = 4 * WARP;

// A block a distinct BMU and 128 features: its warps take turns at the samples. In fp64: before a map has spread out, thousands
// of samples share one BMU, and 20000 summed up in fp32 are wrong by 1.6e-4.
template <class T>
__global__ void __launch_bounds__(SUM_WARPS* WARP) sum_group(
    Rows<const T> z, Groups groups, const float* inverse, std::int64_t feature_tiles, Rows<float> sums) {
    const std::int64_t g = blockIdx.x / feature_tiles;
    const int size = groups.group_size[g], lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const std::int64_t d = blockIdx.x % feature_tiles * SUM_FEATURES + 4 * lane;
    if (size == 0) return;
    const int* samples = groups.order + groups.group_start[g];
    double sum[4] = {0, 0, 0, 0};
    for (int s = warp; s < size; s += SUM_WARPS) {
        const float4 v = normalised(z.load(samples[s], d), inverse[samples[s]]);
        sum[0] += v.x;
        sum[1] += v.y;
        sum[2] += v.z;
        sum[3] += v.w;
    }
    __shared__ double partial[SUM_WARPS][WARP][4];
    for (int j = 0; j < 4; ++j) partial[warp][lane][j] = sum[j];
    __syncthreads();
    if (warp > 0) return;
    for (int other = 1; other < SUM_WARPS; ++other) {
        for (int j = 0; j < 4; ++j) sum[j] += partial[other][lane][j];
    }
    const float4 total = {
        static_cast<float>(sum[0]), static_cast<float>(sum[1]), static_cast<float>(sum[2]), static_cast<float>(sum[3])};
    sums.store(g, d, total);
}

// A factor in two, each of half its exponent: what they multiply, one after the other, overflows or underflows only where the
// result does.
struct Factor {
    float first, second;

    __device__ explicit Factor(double factor) {
        const double half = factor != 0 && isfinite(factor) ? scalbn(1.0, ilogb(factor) / 2) : 1.0;
        first = static_cast<float>(factor / half);
        second = static_cast<float>(half);
    }
    __device__ float4 operator*(float4 v) const { return second * (first * v); }
};

// Below eps the normalisation is linear and nothing is projected away.
template <class T>
__global__ void __launch_bounds__(RowThreads::BLOCK) project_row(
    RowThreads threads, Rows<const T> x, Rows<const float> pull, double scale, const float* grad_loss, Rows<T> out) {
    const std::int64_t row = threads.row();
    if (row >= threads.rows) return;
    double squared = 0, along = 0;
    for (std::int64_t d = threads.first_feature(); d < x.dim; d += threads.apart) {
        const float4 v = x.load(row, d), p = pull.load(row, d);
        squared += dot(v, v);
        along += dot(v, p);
    }
    squared = threads.sum(squared);
    along = threads.sum(along);
    const double inverse = 1.0 / clamped_norm(squared);
    const float inner = squared < EPS * EPS ? 0.0f : static_cast<float>(-along * inverse), unit = lifted(inverse);
    const Factor outer(-scale * *grad_loss * inverse);
    for (std::int64_t d = threads.first_feature(); d < x.dim; d += threads.apart) {
        out.store(row, d, outer * (pull.load(row, d) + inner * normalised(x.load(row, d), unit)));
    }
}

}  // namespace

void sum_samples(
    const Problem& p, const Groups& groups, const float* inverse, const Features& sums, cudaStream_t stream) {
    const std::int64_t feature_tiles = ceil_div(p.dim, SUM_FEATURES);
    by_dtype(p.z.dtype, [&](auto zero) {
        using T = decltype(zero);
        launch(
            "sum_group", sum_group<T>, p.batch * feature_tiles, SUM_WARPS * WARP, stream, make_rows<T>(p.z, p.dim), groups,
            inverse, feature_tiles, sums);
    });
}

void project(
    const Matrix& x, std::int64_t rows, std::int64_t dim, const Rows<const float>& pull, double scale,
    const float* grad_loss, void* out, cudaStream_t stream) {
    const RowThreads threads(rows, dim);
    by_dtype(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        launch(
            "project_row", project_row<T>, threads.blocks(), RowThreads::BLOCK, stream, threads, make_rows<T>(x, dim), pull,
            scale, grad_loss, make_rows(static_cast<T*>(out), dim, dim));
    });
}

}  // namespace vitsom::cuda

// Rows summed up by their BMU: the normalised samples of the distinct BMUs, for a backward pass, and any rows for every unit.
#include "launch.h"
#include "steps.h"

namespace vitsom::cuda {
namespace {

constexpr int SUM_WARPS = 4, SUM_FEATURES = 4 * WARP;

// The sum of four features of some samples, by the warps of a block, which take turns at them; the first warp gets it. In fp64:
// before a map has spread out, thousands of samples share one BMU, and 20000 summed up in fp32 are wrong by 1.6e-4.
template <class Load>
__device__ void sum_samples_of_block(const int* samples, int size, const Load& load, double (&sum)[4]) {
    const int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
    for (int s = warp; s < size; s += SUM_WARPS) {
        const float4 v = load(samples[s]);
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
}

// The features that a block's first warp sums up: four a lane.
__device__ std::int64_t first_of_four(std::int64_t feature_tiles) {
    return blockIdx.x % feature_tiles * SUM_FEATURES + 4 * (threadIdx.x % WARP);
}

// A block a distinct BMU and 128 features.
template <class T>
__global__ void __launch_bounds__(SUM_WARPS* WARP) sum_group(
    Rows<const T> z, Groups groups, const float* inverse, std::int64_t feature_tiles, Rows<float> sums) {
    const std::int64_t g = blockIdx.x / feature_tiles, d = first_of_four(feature_tiles);
    const int size = groups.group_size[g];
    if (size == 0) return;
    double sum[4] = {0, 0, 0, 0};
    sum_samples_of_block(
        groups.order + groups.group_start[g], size, [&](int i) { return normalised(z.load(i, d), inverse[i]); }, sum);
    if (threadIdx.x >= WARP) return;
    const float4 total = {
        static_cast<float>(sum[0]), static_cast<float>(sum[1]), static_cast<float>(sum[2]), static_cast<float>(sum[3])};
    sums.store(g, d, total);
}

// A block a unit and 128 features. Sums in fp32 are set, those in fp64 are added to.
template <class T, class Sum>
__global__ void __launch_bounds__(SUM_WARPS* WARP) sum_unit(
    Rows<const T> x, Groups groups, std::int64_t cols, std::int64_t feature_tiles, Sums<Sum> sums) {
    constexpr bool ADDS = sizeof(Sum) == sizeof(double);
    const std::int64_t unit = blockIdx.x / feature_tiles, d = first_of_four(feature_tiles);
    int size = 0;
    const int* samples = groups.order;
    if (groups.column_groups[unit % cols] > 0) {
        const std::int64_t g = group_of(groups, unit, cols);
        if (groups.group_row[g] == unit / cols) {
            size = groups.group_size[g];
            samples += groups.group_start[g];
        }
    }
    if (ADDS && size == 0) return;
    double sum[4] = {0, 0, 0, 0};
    sum_samples_of_block(samples, size, [&](int i) { return x.load(i, d); }, sum);
    if (threadIdx.x >= WARP) return;
    Sum* to = sums.data + unit * sums.pitch + d;
    for (int j = 0; j < 4 && d + j < x.dim; ++j) to[j] = static_cast<Sum>(ADDS ? to[j] + sum[j] : sum[j]);
    if (d == 0) {
        Sum& count = sums.counts[unit * sums.counts_apart];
        count = ADDS ? count + size : size;
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

template <class Sum>
void sum_units(
    const Matrix& x, std::int64_t dim, const Groups& groups, std::int64_t num_prototypes, std::int64_t cols,
    const Sums<Sum>& sums, cudaStream_t stream) {
    const std::int64_t feature_tiles = ceil_div(dim, SUM_FEATURES);
    by_dtype(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        launch(
            "sum_unit", sum_unit<T, Sum>, num_prototypes * feature_tiles, SUM_WARPS * WARP, stream, make_rows<T>(x, dim),
            groups, cols, feature_tiles, sums);
    });
}

template void sum_units(
    const Matrix&, std::int64_t, const Groups&, std::int64_t, std::int64_t, const Sums<float>&, cudaStream_t);
template void sum_units(
    const Matrix&, std::int64_t, const Groups&, std::int64_t, std::int64_t, const Sums<double>&, cudaStream_t);

}  // namespace vitsom::cuda

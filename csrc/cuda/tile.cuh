// The product of a small matrix of weights and rows of features in fp32: every step along an axis of the grid is one of these.
#pragma once

#include "rows.cuh"

namespace vitsom::cuda {

constexpr int PRODUCT_ROWS = 64, PRODUCT_FEATURES = 64, PRODUCT_DEPTH = 16, PRODUCT_THREADS = 128;
constexpr int PRODUCT_BLOCKS = 3;  // on a multiprocessor, of 168 registers a thread

// Which index of the weights is contiguous in memory: it runs along the threads.
enum class Weights { by_depth, by_row };

// From where to where along k a weight of these rows matters; a NaN does.
struct Band {
    int begin, end;
};

// What does not matter. Where rows are summed up for the attraction of a BMU: weights below 2^-24, which fp32 does not see beside
// the 1 of the BMU itself. Where latents are summed up for a prototype: zeros only, for its gradient is divided by its length. The
// shortest prototype may have the largest gradient of all, however far it is from every BMU.
constexpr float BESIDE_ONE = 0x1p-24f, NOTHING = 0.0f;

template <Weights ORDER, class Weight>
__device__ Band find_band(int row, int rows, int depth, float negligible, const Weight& weight) {
    constexpr int ROWS_APART = ORDER == Weights::by_row ? PRODUCT_ROWS : 1, DEPTHS_APART = PRODUCT_THREADS / ROWS_APART;
    __shared__ int begin, end;
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
        begin = depth;
        end = 0;
    }
    // The loads of 16 weights are on their way together: one after another they took as long as the product.
    int first_found = depth, end_found = 0;
#pragma unroll (ORDER == Weights::by_row ? 16 : 1)
    for (int k = thread / ROWS_APART; k < depth; k += DEPTHS_APART) {
        bool matters = false;
#pragma unroll 16
        for (int j = 0; j < PRODUCT_ROWS / ROWS_APART; ++j) {
            const int m = row + thread % ROWS_APART + j * ROWS_APART;
            matters |= !(fabsf(weight(m < rows ? m : rows - 1, k)) <= negligible);
        }
        first_found = matters && end_found == 0 ? k : first_found;
        end_found = matters ? k + 1 : end_found;
    }
    __syncthreads();
    if (end_found > 0) {
        atomicMin(&begin, first_found);
        atomicMax(&end, end_found);
    }
    __syncthreads();
    return {begin, end};
}

// out(m, d) = sum over k < depth of weight(m, k) * features(k, d), for the 64 rows m from `row` on and 64 features d from
// `feature` on. weight gives a float, features four of them from d on, and store takes four.
//
// Each of 128 threads owns 8 x 4 sums: 3 16-byte reads of shared memory for 32 multiply-adds. What the next 16 of k need is
// on its way from memory meanwhile, to shared memory of its own: one barrier a step. 16 of k are added up before they join the
// sum: on a map that fits its data all features round alike, and one chain of additions was 9e-7 off along 1024 units, and 4e-7
// off a Gaussian that lost its tail.
template <Weights ORDER, class Weight, class Features, class Store>
__device__ void product_tile(
    int row, int rows, int feature, int depth, float negligible, const Weight& weight, const Features& features,
    const Store& store) {
    constexpr int WEIGHTS = PRODUCT_ROWS * PRODUCT_DEPTH / PRODUCT_THREADS;
    constexpr int QUADS = PRODUCT_FEATURES * PRODUCT_DEPTH / 4 / PRODUCT_THREADS;
    __shared__ __align__(16) float lefts[2][PRODUCT_DEPTH][PRODUCT_ROWS + 4];
    __shared__ __align__(16) float rights[2][PRODUCT_DEPTH][PRODUCT_FEATURES];
    const int thread = static_cast<int>(threadIdx.x);
    const auto left_row = [&](int j) {
        const int at = thread + j * PRODUCT_THREADS;
        return ORDER == Weights::by_depth ? at / PRODUCT_DEPTH : at % PRODUCT_ROWS;
    };
    const auto left_depth = [&](int j) {
        const int at = thread + j * PRODUCT_THREADS;
        return ORDER == Weights::by_depth ? at % PRODUCT_DEPTH : at / PRODUCT_ROWS;
    };
    const int right_depth = thread / (PRODUCT_FEATURES / 4), right_feature = thread % (PRODUCT_FEATURES / 4) * 4;
    constexpr int DEPTH_APART = PRODUCT_DEPTH / QUADS;

    float next_left[WEIGHTS];
    float4 next_right[QUADS];
    const auto fetch = [&](int k) {
#pragma unroll
        for (int j = 0; j < WEIGHTS; ++j) {
            const int m = row + left_row(j), at = k + left_depth(j);
            next_left[j] = m < rows && at < depth ? weight(m, at) : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < QUADS; ++j) {
            const int at = k + right_depth + j * DEPTH_APART;
            next_right[j] = at < depth ? features(at, feature + right_feature) : float4{0, 0, 0, 0};
        }
    };

    const int first_row = thread / 16 * 8, first_feature = thread % 16 * 4;
    float4 sum[8] = {};
    const Band band = find_band<ORDER>(row, rows, depth, negligible, weight);
    if (band.begin < band.end) fetch(band.begin);
    int turn = 0;
    for (int k = band.begin; k < band.end; k += PRODUCT_DEPTH, turn ^= 1) {
        auto& left = lefts[turn];  // the tiles before these may still be read, those before them have been
        auto& right = rights[turn];
#pragma unroll
        for (int j = 0; j < WEIGHTS; ++j) left[left_depth(j)][left_row(j)] = next_left[j];
#pragma unroll
        for (int j = 0; j < QUADS; ++j) {
            *reinterpret_cast<float4*>(&right[right_depth + j * DEPTH_APART][right_feature]) = next_right[j];
        }
        __syncthreads();
        if (k + PRODUCT_DEPTH < band.end) fetch(k + PRODUCT_DEPTH);
        float4 few[8] = {};
#pragma unroll
        for (int step = 0; step < PRODUCT_DEPTH; ++step) {
            const float4 x = *reinterpret_cast<const float4*>(&right[step][first_feature]);
            const float4 a = *reinterpret_cast<const float4*>(&left[step][first_row]);
            const float4 b = *reinterpret_cast<const float4*>(&left[step][first_row + 4]);
            const float w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
            for (int j = 0; j < 8; ++j) few[j] = few[j] + w[j] * x;
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[j] = sum[j] + few[j];
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        if (row + first_row + j < rows) store(row + first_row + j, feature + first_feature, sum[j]);
    }
}

// Blocks of one product: tiles of features run fastest, then tiles of rows, then whatever the product is repeated over.
struct Tiling {
    std::int64_t feature_tiles, row_tiles, repeats;

    Tiling(std::int64_t rows, std::int64_t dim, std::int64_t repeats)
        : feature_tiles(ceil_div(dim, PRODUCT_FEATURES)), row_tiles(ceil_div(rows, PRODUCT_ROWS)), repeats(repeats) {}

    std::int64_t blocks() const { return feature_tiles * row_tiles * repeats; }
    __device__ int feature() const { return static_cast<int>(blockIdx.x % feature_tiles) * PRODUCT_FEATURES; }
    __device__ int row() const { return static_cast<int>(blockIdx.x / feature_tiles % row_tiles) * PRODUCT_ROWS; }
    __device__ std::int64_t repeat() const { return blockIdx.x / feature_tiles / row_tiles; }
};

}  // namespace vitsom::cuda

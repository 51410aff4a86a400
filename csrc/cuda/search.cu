// The search: argmax over k of z . w_k / |w_k| on the tensor cores, a matrix product with an argmax for an epilogue.
//
// fp32 rows come as hi + lo and take three products, hi hi + hi lo + lo hi; 16-bit rows take one. A tensor core truncates what
// it adds to, by up to 2^-23 a time: its sums are added up in fp32 before that shows, every `chunk` tiles of 32 features.
#include <mma.h>

#include "launch.h"
#include "steps.h"

namespace vitsom::cuda {
namespace {

using namespace nvcuda;

// A block of 8 warps scores 128 samples against 128 prototypes, each warp 64 x 32 of them.
constexpr int TILE = 128, DEPTH = PACKED_DEPTH, THREADS = 256, WARPS = THREADS / WARP;
constexpr int FRAGMENT = 16, WARP_ROWS = 64, WARP_COLS = 32;
constexpr int ROW_FRAGMENTS = WARP_ROWS / FRAGMENT, COL_FRAGMENTS = WARP_COLS / FRAGMENT;
constexpr int PITCH = DEPTH + 8;  // 80 bytes: the eight rows of a matrix load are in different banks
constexpr int SCORE_PITCH = WARP_COLS + 4;
constexpr int VECTOR = 8;  // halves in 16 bytes
constexpr int COPIES = TILE * DEPTH / VECTOR / THREADS;

template <int PLANES>
union Shared {
    struct {
        __half samples[PLANES][TILE][PITCH], prototypes[PLANES][TILE][PITCH];
    } tile;
    float scores[WARPS][FRAGMENT][SCORE_PITCH];
};

using Sums = wmma::fragment<wmma::accumulator, FRAGMENT, FRAGMENT, FRAGMENT, float>;
using SampleFragment = wmma::fragment<wmma::matrix_a, FRAGMENT, FRAGMENT, FRAGMENT, __half, wmma::row_major>;
using PrototypeFragment = wmma::fragment<wmma::matrix_b, FRAGMENT, FRAGMENT, FRAGMENT, __half, wmma::col_major>;

// What a thread carries from global to shared memory for the next tile.
template <int PLANES>
struct Copies {
    uint4 data[PLANES][COPIES];

    __device__ void fetch(const Packed& x, std::int64_t first, std::int64_t last, std::int64_t d) {
#pragma unroll
        for (int j = 0; j < COPIES; ++j) {
            const int at = static_cast<int>(threadIdx.x) + j * THREADS;
            const std::int64_t row = first + at / (DEPTH / VECTOR);
            const std::int64_t offset = row * x.pitch + d + at % (DEPTH / VECTOR) * VECTOR;
            const uint4 zeros{0, 0, 0, 0};
            data[0][j] = row < last ? *reinterpret_cast<const uint4*>(x.hi + offset) : zeros;
            if (PLANES > 1) data[PLANES - 1][j] = row < last ? *reinterpret_cast<const uint4*>(x.lo + offset) : zeros;
        }
    }

    __device__ void store(__half (&tile)[PLANES][TILE][PITCH]) const {
#pragma unroll
        for (int j = 0; j < COPIES; ++j) {
            const int at = static_cast<int>(threadIdx.x) + j * THREADS;
#pragma unroll
            for (int plane = 0; plane < PLANES; ++plane) {
                __half* to = &tile[plane][at / (DEPTH / VECTOR)][at % (DEPTH / VECTOR) * VECTOR];
                *reinterpret_cast<uint4*>(to) = data[plane][j];
            }
        }
    }
};

template <int PLANES>
__device__ void multiply(const Shared<PLANES>& shared, int warp_row, int warp_col, Sums (&sums)[ROW_FRAGMENTS][COL_FRAGMENTS]) {
#pragma unroll
    for (int d = 0; d < DEPTH; d += FRAGMENT) {
        PrototypeFragment prototypes[PLANES][COL_FRAGMENTS];
#pragma unroll
        for (int plane = 0; plane < PLANES; ++plane) {
#pragma unroll
            for (int n = 0; n < COL_FRAGMENTS; ++n) {
                wmma::load_matrix_sync(
                    prototypes[plane][n], &shared.tile.prototypes[plane][warp_col + n * FRAGMENT][d], PITCH);
            }
        }
#pragma unroll
        for (int m = 0; m < ROW_FRAGMENTS; ++m) {
            SampleFragment samples[PLANES];
#pragma unroll
            for (int plane = 0; plane < PLANES; ++plane) {
                wmma::load_matrix_sync(samples[plane], &shared.tile.samples[plane][warp_row + m * FRAGMENT][d], PITCH);
            }
#pragma unroll
            for (int n = 0; n < COL_FRAGMENTS; ++n) {
                if (PLANES > 1) {  // the small products first
                    wmma::mma_sync(sums[m][n], samples[PLANES - 1], prototypes[0][n], sums[m][n]);
                    wmma::mma_sync(sums[m][n], samples[0], prototypes[PLANES - 1][n], sums[m][n]);
                }
                wmma::mma_sync(sums[m][n], samples[0], prototypes[0][n], sums[m][n]);
            }
        }
    }
}

__device__ void clear(Sums (&sums)[ROW_FRAGMENTS][COL_FRAGMENTS]) {
#pragma unroll
    for (int m = 0; m < ROW_FRAGMENTS; ++m) {
#pragma unroll
        for (int n = 0; n < COL_FRAGMENTS; ++n) wmma::fill_fragment(sums[m][n], 0.0f);
    }
}

__device__ void add(
    Sums (&total)[ROW_FRAGMENTS][COL_FRAGMENTS], const Sums (&sums)[ROW_FRAGMENTS][COL_FRAGMENTS]) {
#pragma unroll
    for (int m = 0; m < ROW_FRAGMENTS; ++m) {
#pragma unroll
        for (int n = 0; n < COL_FRAGMENTS; ++n) {
#pragma unroll
            for (int e = 0; e < total[m][n].num_elements; ++e) total[m][n].x[e] += sums[m][n].x[e];
        }
    }
}

// More is better, as for the scores; -0 counts as 0.
__device__ unsigned ordered(float score) {
    const unsigned bits = __float_as_uint(score + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ float score_of(unsigned ordered) {
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

// The best score that a lane has seen for one sample; NaN is never better.
struct Candidate {
    float score;
    int index;  // -1 for none

    __device__ void meet(float other, int at) {
        if (other > score) {
            score = other;
            index = at;
        }
    }
};

// Two lanes a row of a fragment, half the columns each.
__device__ void find_best(
    const Sums (&sums)[COL_FRAGMENTS], float (&scores)[FRAGMENT][SCORE_PITCH], const float* packed_inverse,
    std::int64_t first, std::int64_t num_prototypes, Candidate& best) {
    constexpr int COLS = WARP_COLS / 2;
    const int lane = static_cast<int>(threadIdx.x) % WARP, row = lane / 2, col = lane % 2 * COLS;
    __syncwarp();  // the scores before these have been read
#pragma unroll
    for (int n = 0; n < COL_FRAGMENTS; ++n) {
        wmma::store_matrix_sync(&scores[0][n * FRAGMENT], sums[n], SCORE_PITCH, wmma::mem_row_major);
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < COLS; ++j) {
        const std::int64_t k = first + col + j;
        if (k < num_prototypes) best.meet(scores[row][col + j] * packed_inverse[k], static_cast<int>(k));
    }
}

// Blocks of one sample tile are `splits` apart: each takes its share of the prototypes.
template <int PLANES>
__global__ void __launch_bounds__(THREADS) search_tiles(
    Packed z, Packed prototypes, std::int64_t batch, std::int64_t num_prototypes, std::int64_t splits, int chunk, Best* found) {
    __shared__ __align__(128) Shared<PLANES> shared;
    const std::int64_t first_sample = blockIdx.x / splits * TILE, split = blockIdx.x % splits;
    const std::int64_t tiles = ceil_div(num_prototypes, TILE);
    const int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
    const int warp_row = warp % (TILE / WARP_ROWS) * WARP_ROWS, warp_col = warp / (TILE / WARP_ROWS) * WARP_COLS;
    Candidate best[ROW_FRAGMENTS];
    for (Candidate& candidate : best) candidate = {-INFINITY, -1};

    for (std::int64_t tile = tiles * split / splits; tile < tiles * (split + 1) / splits; ++tile) {
        Sums total[ROW_FRAGMENTS][COL_FRAGMENTS], sums[ROW_FRAGMENTS][COL_FRAGMENTS];
        Copies<PLANES> next_samples, next_prototypes;
        clear(total);
        clear(sums);
        next_samples.fetch(z, first_sample, batch, 0);
        next_prototypes.fetch(prototypes, tile * TILE, num_prototypes, 0);
        int left = chunk;
        for (std::int64_t d = 0; d < z.pitch; d += DEPTH) {
            __syncthreads();  // what was in shared memory has been read
            next_samples.store(shared.tile.samples);
            next_prototypes.store(shared.tile.prototypes);
            __syncthreads();
            if (d + DEPTH < z.pitch) {
                next_samples.fetch(z, first_sample, batch, d + DEPTH);
                next_prototypes.fetch(prototypes, tile * TILE, num_prototypes, d + DEPTH);
            }
            multiply<PLANES>(shared, warp_row, warp_col, sums);
            if (--left == 0) {
                add(total, sums);
                clear(sums);
                left = chunk;
            }
        }
        add(total, sums);
        __syncthreads();  // the scores take the place of the tiles
        for (int m = 0; m < ROW_FRAGMENTS; ++m) {
            find_best(
                total[m], shared.scores[warp], prototypes.packed_inverse, tile * TILE + warp_col, num_prototypes, best[m]);
        }
    }

    for (int m = 0; m < ROW_FRAGMENTS; ++m) {
        const std::int64_t sample = first_sample + warp_row + m * FRAGMENT + lane / 2;
        if (sample < batch && best[m].index >= 0) {
            atomicMax(&found[sample], static_cast<Best>(ordered(best[m].score)) << 32 | ~static_cast<unsigned>(best[m].index));
        }
    }
}

__global__ void decode_best(const Best* found, Packed z, std::int64_t batch, std::int64_t* bmu, float* distance) {
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= batch) return;
    const Best best = found[i];
    bmu[i] = best ? static_cast<std::int64_t>(~static_cast<unsigned>(best)) : 0;
    if (distance) distance[i] = best ? 1.0f - score_of(static_cast<unsigned>(best >> 32)) * z.packed_inverse[i] : nanf("");
}

}  // namespace

void search(
    const Packed& z, const Packed& prototypes, std::int64_t batch, std::int64_t num_prototypes, Best* best,
    cudaStream_t stream) {
    int device = 0, processors = 0;
    check("cudaGetDevice", cudaGetDevice(&device));
    check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    // One block fills a processor; eight in turn for each even out their ends.
    const std::int64_t sample_tiles = ceil_div(batch, TILE), tiles = ceil_div(num_prototypes, TILE);
    const std::int64_t wanted = sample_tiles ? ceil_div(8 * processors, sample_tiles) : 1;
    const std::int64_t splits = wanted < tiles ? wanted : tiles;
    // As many tiles a chunk as chunks: of 49152 features 39 truncated sums are added up 39 times.
    std::int64_t chunk = 1;
    while (4 * chunk * chunk < z.pitch / DEPTH) ++chunk;
    const auto kernel = z.lo ? search_tiles<2> : search_tiles<1>;
    launch(
        "search_tiles", kernel, sample_tiles * splits, THREADS, stream, z, prototypes, batch, num_prototypes, splits,
        static_cast<int>(chunk), best);
}

void decode(
    const Best* best, const Packed& z, std::int64_t batch, std::int64_t* bmu, float* distance, cudaStream_t stream) {
    launch("decode_best", decode_best, ceil_div(batch, THREADS), THREADS, stream, best, z, batch, bmu, distance);
}

}  // namespace vitsom::cuda

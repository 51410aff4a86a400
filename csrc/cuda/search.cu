// The search: argmax over k of z . w_k / |w_k| on the tensor cores, a matrix product with an argmax for an epilogue.
//
// fp32 rows come as hi + lo and take three products, hi hi + hi lo + lo hi; 16-bit rows take one. A tensor core truncates what
// it adds to, by up to 2^-23 a time, and always towards zero: left to itself it was 5e-6 off the sum of 49152 products. So it
// adds up 16 features only, and what it makes of them is added up in fp32, in chunks, and these again.
#include <mma.h>

#include "launch.h"
#include "steps.h"

namespace vitsom::cuda {
namespace {

using namespace nvcuda;

// A block of 8 warps scores 96 samples against 128 prototypes, each warp 48 x 32 of them: 64 x 32 would spill.
constexpr int TILE_SAMPLES = 96, TILE_PROTOTYPES = 128, DEPTH = PACKED_DEPTH, THREADS = 256, WARPS = THREADS / WARP;
constexpr int FRAGMENT = 16, WARP_ROWS = 48, WARP_COLS = 32;
constexpr int ROW_FRAGMENTS = WARP_ROWS / FRAGMENT, COL_FRAGMENTS = WARP_COLS / FRAGMENT;
constexpr int PITCH = DEPTH + 8;  // 80 bytes: the eight rows of a matrix load are in different banks
constexpr int SCORE_PITCH = WARP_COLS + 4;
constexpr int VECTOR = 8;  // halves in 16 bytes

template <int PLANES>
union Shared {
    struct {
        __half samples[PLANES][TILE_SAMPLES][PITCH], prototypes[PLANES][TILE_PROTOTYPES][PITCH];
    } tile;
    float scores[WARPS][FRAGMENT][SCORE_PITCH];
};

using Sums = wmma::fragment<wmma::accumulator, FRAGMENT, FRAGMENT, FRAGMENT, float>;
using SampleFragment = wmma::fragment<wmma::matrix_a, FRAGMENT, FRAGMENT, FRAGMENT, __half, wmma::row_major>;
using PrototypeFragment = wmma::fragment<wmma::matrix_b, FRAGMENT, FRAGMENT, FRAGMENT, __half, wmma::col_major>;

// What a thread carries from global to shared memory for the next tile: 16 bytes of every 64th row.
template <int PLANES, int TILE_ROWS>
struct Copies {
    static constexpr int THREADS_A_ROW = DEPTH / VECTOR, ROWS_APART = THREADS / THREADS_A_ROW;
    static constexpr int COPIES = (TILE_ROWS + ROWS_APART - 1) / ROWS_APART;

    uint4 data[PLANES][COPIES];

    // Zeros beyond the last row.
    __device__ void fetch(const Packed& x, int first, int rows, int d) {
        const int thread = static_cast<int>(threadIdx.x), row = first + thread / THREADS_A_ROW;
        const int last = first + TILE_ROWS < rows ? first + TILE_ROWS : rows;
        const std::int64_t offset = row * x.pitch + d + thread % THREADS_A_ROW * VECTOR;
#pragma unroll
        for (int plane = 0; plane < PLANES; ++plane) {
            const __half* from = (plane == 0 ? x.hi : x.lo) + offset;
#pragma unroll
            for (int j = 0; j < COPIES; ++j, from += ROWS_APART * x.pitch) {
                const bool is_there = row + j * ROWS_APART < last;
                data[plane][j] = is_there ? *reinterpret_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
            }
        }
    }

    __device__ void store(__half (&tile)[PLANES][TILE_ROWS][PITCH]) const {
        const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
        for (int j = 0; j < COPIES; ++j) {
            if (thread / THREADS_A_ROW + j * ROWS_APART >= TILE_ROWS) continue;
#pragma unroll
            for (int plane = 0; plane < PLANES; ++plane) {
                __half* to = &tile[plane][thread / THREADS_A_ROW + j * ROWS_APART][thread % THREADS_A_ROW * VECTOR];
                *reinterpret_cast<uint4*>(to) = data[plane][j];
            }
        }
    }
};

__device__ void add(Sums& total, const Sums& sums) {
#pragma unroll
    for (int e = 0; e < total.num_elements; ++e) total.x[e] += sums.x[e];
}

template <int PLANES>
__device__ void multiply(const Shared<PLANES>& shared, int warp_row, int warp_col, Sums (&sums)[ROW_FRAGMENTS][COL_FRAGMENTS]) {
#pragma unroll 1  // the loads of two rounds at once would spill
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
                Sums few;
                wmma::fill_fragment(few, 0.0f);
                if (PLANES > 1) {  // first the small products, of which nothing is lost
                    wmma::mma_sync(few, samples[PLANES - 1], prototypes[0][n], few);
                    wmma::mma_sync(few, samples[0], prototypes[PLANES - 1][n], few);
                }
                wmma::mma_sync(few, samples[0], prototypes[0][n], few);
                add(sums[m][n], few);
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
        for (int n = 0; n < COL_FRAGMENTS; ++n) add(total[m][n], sums[m][n]);
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

// Two lanes a row of a fragment, half the columns each.
__device__ void find_best(
    const Sums (&sums)[COL_FRAGMENTS], float (&scores)[FRAGMENT][SCORE_PITCH], const float* packed_inverse, int first,
    int num_prototypes, Best* best) {
    constexpr int COLS = WARP_COLS / 2;
    const int lane = static_cast<int>(threadIdx.x) % WARP, row = lane / 2, col = lane % 2 * COLS;
    __syncwarp();  // the scores before these have been read
#pragma unroll
    for (int n = 0; n < COL_FRAGMENTS; ++n) {
        wmma::store_matrix_sync(&scores[0][n * FRAGMENT], sums[n], SCORE_PITCH, wmma::mem_row_major);
    }
    __syncwarp();
    float highest = -INFINITY;
    int nearest = -1;
    for (int j = 0; j < COLS && first + col + j < num_prototypes; ++j) {
        const float score = scores[row][col + j] * packed_inverse[first + col + j];
        if (score > highest) {  // which NaN is not
            highest = score;
            nearest = first + col + j;
        }
    }
    if (nearest >= 0) atomicMax(&best[row], static_cast<Best>(ordered(highest)) << 32 | ~static_cast<unsigned>(nearest));
}

// Every `splits` blocks share a tile of samples and divide the prototypes. Counts are 32-bit: registers are short.
template <int PLANES>
__global__ void __launch_bounds__(THREADS) search_tiles(
    Packed z, Packed prototypes, int batch, int num_prototypes, int splits, int chunk, Best* found) {
    __shared__ __align__(128) Shared<PLANES> shared;
    __shared__ Best best[TILE_SAMPLES];
    const int first_sample = static_cast<int>(blockIdx.x) / splits * TILE_SAMPLES;
    const std::int64_t tiles = ceil_div(num_prototypes, TILE_PROTOTYPES), split = static_cast<int>(blockIdx.x) % splits;
    const int first_tile = static_cast<int>(tiles * split / splits), last_tile = static_cast<int>(tiles * (split + 1) / splits);
    const int thread = static_cast<int>(threadIdx.x), warp = thread / WARP;
    constexpr int WARPS_DOWN = TILE_SAMPLES / WARP_ROWS;
    const int warp_row = warp % WARPS_DOWN * WARP_ROWS, warp_col = warp / WARPS_DOWN * WARP_COLS;
    const int depth = static_cast<int>(z.pitch);
    if (thread < TILE_SAMPLES) best[thread] = 0;

    for (int tile = first_tile; tile < last_tile; ++tile) {
        Sums total[ROW_FRAGMENTS][COL_FRAGMENTS], sums[ROW_FRAGMENTS][COL_FRAGMENTS];
        Copies<PLANES, TILE_SAMPLES> next_samples;
        Copies<PLANES, TILE_PROTOTYPES> next_prototypes;
        const int first_prototype = tile * TILE_PROTOTYPES;
        clear(total);
        clear(sums);
        next_samples.fetch(z, first_sample, batch, 0);
        next_prototypes.fetch(prototypes, first_prototype, num_prototypes, 0);
        int left = chunk;
        for (int d = 0; d < depth; d += DEPTH) {
            __syncthreads();  // what was in shared memory has been read
            next_samples.store(shared.tile.samples);
            next_prototypes.store(shared.tile.prototypes);
            __syncthreads();
            if (d + DEPTH < depth) {
                next_samples.fetch(z, first_sample, batch, d + DEPTH);
                next_prototypes.fetch(prototypes, first_prototype, num_prototypes, d + DEPTH);
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
                total[m], shared.scores[warp], prototypes.packed_inverse, first_prototype + warp_col, num_prototypes,
                best + warp_row + m * FRAGMENT);
        }
    }

    __syncthreads();
    if (thread < TILE_SAMPLES && first_sample + thread < batch) atomicMax(&found[first_sample + thread], best[thread]);
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
    const std::int64_t sample_tiles = ceil_div(batch, TILE_SAMPLES), tiles = ceil_div(num_prototypes, TILE_PROTOTYPES);
    const std::int64_t wanted = sample_tiles ? ceil_div(8 * processors, sample_tiles) : 1;
    const std::int64_t splits = wanted < tiles ? wanted : tiles;
    // As many sums a chunk as chunks: of 49152 features 55 times 56.
    std::int64_t chunk = 1;
    while (2 * chunk * chunk < z.pitch / DEPTH) ++chunk;
    const auto kernel = z.lo ? search_tiles<2> : search_tiles<1>;
    launch(
        "search_tiles", kernel, sample_tiles * splits, THREADS, stream, z, prototypes, static_cast<int>(batch),
        static_cast<int>(num_prototypes), static_cast<int>(splits), static_cast<int>(chunk), best);
}

void decode(
    const Best* best, const Packed& z, std::int64_t batch, std::int64_t* bmu, float* distance, cudaStream_t stream) {
    launch("decode_best", decode_best, ceil_div(batch, THREADS), THREADS, stream, best, z, batch, bmu, distance);
}

}  // namespace vitsom::cuda

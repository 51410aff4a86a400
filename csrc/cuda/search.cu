// The search: argmax over k of z . w_k / |w_k| on the tensor cores, a matrix product with an argmax for an epilogue.
//
// fp32 rows come as hi + lo and take three products, hi hi + hi lo + lo hi; 16-bit rows take one. A tensor core truncates what
// it adds to, by up to 2^-23 a time, and always towards zero: left to itself it was 5e-6 off the sum of 49152 products. So it
// adds up one step only, 16 features of fp32 or 32 of 16 bits, and what it makes of them is added up in fp32. Scores are
// cosines and so are sums of parts of them: all truncation is at most 4.8e-7 of 1, an addition in fp32 at most 6e-8.
#include <cuda_pipeline_primitives.h>

#include <matrix.cuh>

#include "launch.h"
#include "steps.h"

namespace vitsom::cuda {
namespace {

constexpr int VECTOR = 8, VECTORS = PACKED_STEP / VECTOR;  // halves in 16 bytes, and such vectors in a step of a row
constexpr int SHALLOW = 16;                                // steps whose sums follow one another: 15 additions, 9e-7
constexpr int DECODE_THREADS = 256;

// A block of DOWN x ACROSS warps, every one of which scores ROWS samples against COLS prototypes, with STAGES - 1 steps on their
// way from memory. Here a million products of fp32 take 52 KB from the L2, half of what the narrow one needs; 64 x 64 would spill.
struct Wide {
    static constexpr int ROWS = 64, COLS = 48, DOWN = 2, ACROSS = 4, STAGES = 2;
    static constexpr int SAMPLES = ROWS * DOWN, PROTOTYPES = COLS * ACROSS, THREADS = DOWN * ACROSS * WARP;
    static constexpr int BLOCKS = 1;  // on a multiprocessor
    static constexpr bool HAS_CHUNKS = false;
};

// Six times as many blocks, where wide ones would leave multiprocessors idle; and for many features, whose sums are added up in
// chunks, and these again, in twice the registers.
struct Narrow {
    static constexpr int ROWS = 32, COLS = 32, DOWN = 2, ACROSS = 2, STAGES = 4;
    static constexpr int SAMPLES = ROWS * DOWN, PROTOTYPES = COLS * ACROSS, THREADS = DOWN * ACROSS * WARP;
    static constexpr int BLOCKS = 3;
    static constexpr bool HAS_CHUNKS = true;
};

// A step of some rows. The vectors of a row are swapped such that eight rows of one, a matrix load, are in different banks.
template <int ROWS, int THREADS>
struct Tile {
    __half halves[ROWS][VECTORS][VECTOR];

    // Row `row` of those from `first` on, a multiple of eight: the swap is the same for all of them.
    __device__ __half* at(int first, int row, int vector) { return halves[first + row][vector ^ row / 2 % VECTORS]; }

    // Beyond the last of these rows it stays as it is: what is made of that is never looked at.
    __device__ void fetch(const __half* from, std::int64_t pitch, int rows) {
        constexpr int ROWS_APART = THREADS / VECTORS;
        const int thread = static_cast<int>(threadIdx.x), vector = thread % VECTORS, row = thread / VECTORS;
        from += row * pitch + vector * VECTOR;
#pragma unroll
        for (int j = 0; j < ROWS; j += ROWS_APART, from += ROWS_APART * pitch) {
            if (row + j < rows) __pipeline_memcpy_async(at(j, row, vector), from, VECTOR * sizeof(__half));
        }
    }
};

// Of a warp: 16 x 8 scores an accumulator, four of them in each lane.
template <class Shape>
using Sums = float[Shape::ROWS / 16][Shape::COLS / 8][4];

template <class Shape>
__device__ void clear(Sums<Shape>& sums) {
#pragma unroll
    for (auto& row : sums) {
#pragma unroll
        for (auto& part : row) part[0] = part[1] = part[2] = part[3] = 0;
    }
}

template <class Shape>
__device__ void add(Sums<Shape>& total, const Sums<Shape>& sums) {
#pragma unroll
    for (int m = 0; m < Shape::ROWS / 16; ++m) {
#pragma unroll
        for (int n = 0; n < Shape::COLS / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) total[m][n][e] += sums[m][n][e];
        }
    }
}

// The two halves of a step are hi and lo of 16 features, or 32 features.
template <int PLANES, class Shape, class Samples, class Prototypes>
__device__ void multiply(Samples& samples, Prototypes& prototypes, int warp_row, int warp_col, Sums<Shape>& sums) {
    constexpr int ROWS = Shape::ROWS, COLS = Shape::COLS;
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    unsigned right[2][COLS / 16][4];
#pragma unroll
    for (int n = 0; n < COLS / 16; ++n) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = lane / 16 * 8 + lane % 8;
            load_matrices(right[half][n], prototypes.at(warp_col + n * 16, row, 2 * half + lane / 8 % 2));
        }
    }
#pragma unroll
    for (int m = 0; m < ROWS / 16; ++m) {
        unsigned left[2][4];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            load_matrices(left[half], samples.at(warp_row + m * 16, lane % 16, 2 * half + lane / 16));
        }
        float few[COLS / 8][4] = {};
        const auto multiply_row = [&](int a, int b) {
#pragma unroll
            for (int n = 0; n < COLS / 8; ++n) multiply_add(few[n], left[a], &right[b][n / 2][n % 2 * 2]);
        };
        if (PLANES > 1) {  // first the small products, of which nothing is lost
            multiply_row(1, 0);
            multiply_row(0, 1);
        } else {
            multiply_row(1, 1);
        }
        multiply_row(0, 0);
#pragma unroll
        for (int n = 0; n < COLS / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[m][n][e] += few[n][e];
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

// Four lanes hold a row of the scores; each of them keeps the best of every fourth row.
template <class Shape>
__device__ void find_best(
    const Sums<Shape>& sums, const float* packed_inverse, int first, int num_prototypes, Best (&best)[Shape::ROWS]) {
    constexpr int ROWS = Shape::ROWS / 8, COLS = Shape::COLS / 4;  // of a lane
    const int lane = static_cast<int>(threadIdx.x) % WARP, quarter = lane % 4;
    float inverse[COLS];
#pragma unroll
    for (int j = 0; j < COLS; ++j) {
        const int k = first + 2 * quarter + j / 2 * 8 + j % 2;
        inverse[j] = k < num_prototypes ? packed_inverse[k] : nanf("");
    }
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
        float highest = -INFINITY;
        int nearest = -1;
#pragma unroll
        for (int j = 0; j < COLS; ++j) {
            const float score = sums[row / 2][j / 2][row % 2 * 2 + j % 2] * inverse[j];
            if (score > highest) {  // which NaN is not
                highest = score;
                nearest = j / 2 * 8 + j % 2;
            }
        }
        const auto index = static_cast<unsigned>(first + 2 * quarter + nearest);
        Best mine = nearest < 0 ? 0 : static_cast<Best>(ordered(highest)) << 32 | ~index;
        for (int apart = 1; apart < 4; apart *= 2) {
            const Best other = __shfl_xor_sync(FULL_WARP, mine, apart);
            mine = other > mine ? other : mine;
        }
        Best& before = best[row * 8 + lane / 4];
        if (row % 4 == quarter && mine > before) before = mine;
    }
}

// Every `splits` blocks share a tile of samples and divide the prototypes. Counts are 32-bit: registers are short.
template <int PLANES, class Shape>
__global__ void __launch_bounds__(Shape::THREADS, Shape::BLOCKS) search_tiles(
    Packed z, Packed prototypes, int batch, int num_prototypes, int splits, int chunk, Best* found) {
    constexpr int STAGES = Shape::STAGES;
    __shared__ __align__(128) Tile<Shape::SAMPLES, Shape::THREADS> sample_tiles[STAGES];
    __shared__ __align__(128) Tile<Shape::PROTOTYPES, Shape::THREADS> prototype_tiles[STAGES];
    __shared__ Best best[Shape::THREADS / WARP][Shape::ROWS];
    const int first_sample = static_cast<int>(blockIdx.x) / splits * Shape::SAMPLES;
    const std::int64_t tiles = ceil_div(num_prototypes, Shape::PROTOTYPES), split = static_cast<int>(blockIdx.x) % splits;
    const int first_tile = static_cast<int>(tiles * split / splits), last_tile = static_cast<int>(tiles * (split + 1) / splits);
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = __shfl_sync(FULL_WARP, static_cast<int>(threadIdx.x) / WARP, 0);  // seen to be one in all lanes
    const int warp_row = warp % Shape::DOWN * Shape::ROWS, warp_col = warp / Shape::DOWN * Shape::COLS;
    const int steps = static_cast<int>(z.pitch / PACKED_STEP);
    const auto fetch = [&](int tile, int step, int stage) {
        for (; step >= steps; step -= steps) ++tile;
        if (tile < last_tile) {
            const int first = tile * Shape::PROTOTYPES;
            const __half *samples = z.halves + first_sample * z.pitch, *rows = prototypes.halves + first * z.pitch;
            sample_tiles[stage].fetch(samples + step * PACKED_STEP, z.pitch, batch - first_sample);
            prototype_tiles[stage].fetch(rows + step * PACKED_STEP, z.pitch, num_prototypes - first);
        }
        __pipeline_commit();
    };

    for (int row = lane; row < Shape::ROWS; row += WARP) best[warp][row] = 0;
    __syncwarp();
    for (int stage = 0; stage < STAGES - 1; ++stage) fetch(first_tile, stage, stage);
    int stage = 0;
    for (int tile = first_tile; tile < last_tile; ++tile) {
        Sums<Shape> sums, chunks;
        clear<Shape>(sums);
        if (Shape::HAS_CHUNKS) clear<Shape>(chunks);
        int left = chunk;
        for (int step = 0; step < steps; ++step) {
            __pipeline_wait_prior(STAGES - 2);
            __syncthreads();  // the copies of all threads are there, and the stage before has been read
            fetch(tile, step + STAGES - 1, (stage + STAGES - 1) % STAGES);
            multiply<PLANES, Shape>(sample_tiles[stage], prototype_tiles[stage], warp_row, warp_col, sums);
            stage = (stage + 1) % STAGES;
            if (Shape::HAS_CHUNKS && --left == 0) {
                add<Shape>(chunks, sums);
                clear<Shape>(sums);
                left = chunk;
            }
        }
        if (Shape::HAS_CHUNKS) add<Shape>(sums, chunks);
        find_best<Shape>(
            sums, prototypes.packed_inverse, tile * Shape::PROTOTYPES + warp_col, num_prototypes, best[warp]);
    }
    __syncwarp();
    for (int row = lane; row < Shape::ROWS && first_sample + warp_row + row < batch; row += WARP) {
        atomicMax(&found[first_sample + warp_row + row], best[warp][row]);
    }
}

// Rounding leaves a cosine beyond 1; NaN stays.
__device__ float distance_of(float cosine) {
    const float distance = 1.0f - cosine;
    return distance < 0.0f ? 0.0f : distance > 2.0f ? 2.0f : distance;
}

__global__ void decode_best(const Best* found, Packed z, std::int64_t batch, std::int64_t* bmu, float* distance) {
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= batch) return;
    const Best best = found[i];
    bmu[i] = best ? static_cast<std::int64_t>(~static_cast<unsigned>(best)) : 0;
    if (distance) distance[i] = best ? distance_of(score_of(static_cast<unsigned>(best >> 32)) * z.packed_inverse[i]) : nanf("");
}

template <int PLANES, class Shape>
void search_with(
    const Packed& z, const Packed& prototypes, std::int64_t batch, std::int64_t num_prototypes, int processors, Best* best,
    cudaStream_t stream) {
    // Eight blocks in turn, where so many run at once, even out their ends.
    const std::int64_t samples = ceil_div(batch, Shape::SAMPLES), tiles = ceil_div(num_prototypes, Shape::PROTOTYPES);
    const std::int64_t wanted = samples ? ceil_div(8 * Shape::BLOCKS * processors, samples) : 1;
    const std::int64_t splits = wanted < tiles ? wanted : tiles;
    // As many sums a chunk as chunks: of 49152 features 55 times 56.
    int chunk = 1;
    while (chunk * chunk < z.pitch / PACKED_STEP) ++chunk;
    launch(
        "search_tiles", search_tiles<PLANES, Shape>, samples * splits, Shape::THREADS, stream, z, prototypes,
        static_cast<int>(batch), static_cast<int>(num_prototypes), static_cast<int>(splits), chunk, best);
}

}  // namespace

void search(
    const Packed& z, const Packed& prototypes, std::int64_t batch, std::int64_t num_prototypes, Best* best,
    cudaStream_t stream) {
    int device = 0, processors = 0;
    check("cudaGetDevice", cudaGetDevice(&device));
    check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    const std::int64_t wide_blocks = ceil_div(batch, Wide::SAMPLES) * ceil_div(num_prototypes, Wide::PROTOTYPES);
    const bool is_wide = z.pitch <= SHALLOW * PACKED_STEP && wide_blocks > processors;
    const auto run = z.planes > 1 ? is_wide ? search_with<2, Wide> : search_with<2, Narrow>
                                  : is_wide ? search_with<1, Wide> : search_with<1, Narrow>;
    run(z, prototypes, batch, num_prototypes, processors, best, stream);
}

void decode(
    const Best* best, const Packed& z, std::int64_t batch, std::int64_t* bmu, float* distance, cudaStream_t stream) {
    launch(
        "decode_best", decode_best, ceil_div(batch, DECODE_THREADS), DECODE_THREADS, stream, best, z, batch, bmu, distance);
}

}  // namespace vitsom::cuda

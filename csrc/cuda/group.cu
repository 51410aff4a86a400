// The samples sorted by their BMU: what is done for one BMU is done once for all its samples, and in the same order every time.
#include "launch.h"
#include "steps.h"

namespace vitsom::cuda {
namespace {

constexpr int THREADS = 256, WARPS = THREADS / WARP;

// The sum of a value over the threads before this one, and over all of the block.
struct Scan {
    int before, total;
};

__device__ Scan block_scan(int value) {
    __shared__ int partial[WARPS];
    const int lane = static_cast<int>(threadIdx.x) % WARP, warp = static_cast<int>(threadIdx.x) / WARP;
    int sum = value;
    for (int apart = 1; apart < WARP; apart *= 2) {
        const int other = __shfl_up_sync(FULL_WARP, sum, apart);
        if (lane >= apart) sum += other;
    }
    __syncthreads();  // an earlier scan has been read
    if (lane == WARP - 1) partial[warp] = sum;
    __syncthreads();
    Scan scan{sum - value, 0};
    for (int other = 0; other < WARPS; ++other) {
        if (other < warp) scan.before += partial[other];
        scan.total += partial[other];
    }
    return scan;
}

// A block a column of the grid. It looks at all samples, which are few against the prototypes that the search looked at.
// `next` [cols, rows] is scratch.
__global__ void __launch_bounds__(THREADS) group_column(
    const std::int64_t* bmu, std::int64_t batch, std::int64_t rows, std::int64_t cols, Groups groups, int* next) {
    const int thread = static_cast<int>(threadIdx.x);
    const auto column = blockIdx.x, width = static_cast<unsigned>(cols);  // 32 bits: a division by 64 takes four times as long
    const auto unit = [&](std::int64_t i) { return static_cast<unsigned>(bmu[i]); };
    next += column * rows;
    for (std::int64_t r = thread; r < rows; r += THREADS) next[r] = 0;

    // Every thread looks at a run of samples.
    const std::int64_t run = ceil_div(batch, THREADS), first = thread * run, last = first + run < batch ? first + run : batch;
    int before = 0, within = 0;
#pragma unroll 8
    for (std::int64_t i = first; i < last; ++i) {
        const unsigned c = unit(i) % width;
        before += c < column;
        within += c == column;
    }
    const int start = block_scan(before).total;
    const Scan found = block_scan(within);

    // The column's samples, by index for now.
    int* mine = groups.group_start + start;
    const int count = found.total;
    int* to = mine + found.before;
    for (std::int64_t i = first; i < last; ++i) {
        if (unit(i) % width != column) continue;
        *to++ = static_cast<int>(i);
        atomicAdd(&next[unit(i) / width], 1);
    }
    __syncthreads();

    // Counts become positions; distinct BMUs are listed.
    int position = 0, distinct = 0;
    int* sizes = groups.group_size + start;
    for (std::int64_t some = 0; some < rows; some += THREADS) {
        const std::int64_t r = some + thread;
        const int size = r < rows ? next[r] : 0;
        const Scan samples = block_scan(size), bmus = block_scan(size > 0);
        if (r < rows) next[r] = position + samples.before;
        if (size > 0) {
            groups.group_row[start + distinct + bmus.before] = static_cast<int>(r);
            sizes[distinct + bmus.before] = size;
        }
        position += samples.total;
        distinct += bmus.total;
    }
    for (int g = distinct + thread; g < count; g += THREADS) sizes[g] = groups.group_row[start + g] = 0;
    __syncthreads();

    // One warp deals the samples out, 32 at a time, in their order.
    if (thread < WARP) {
        for (int some = 0; some < count; some += WARP) {
            const bool is_there = some + thread < count;
            const int i = is_there ? mine[some + thread] : -1;
            const int row = is_there ? static_cast<int>(unit(i) / width) : -1;
            const unsigned peers = __match_any_sync(FULL_WARP, row);
            const int rank = __popc(peers & ((1u << thread) - 1));
            const int at = is_there ? next[row] + rank : 0;
            __syncwarp();
            if (is_there) {
                groups.order[start + at] = i;
                if (rank == 0) next[row] += __popc(peers);
            }
            __syncwarp();
        }
    }
    __syncthreads();
    for (int g = thread; g < distinct; g += THREADS) {
        mine[g] = start + next[groups.group_row[start + g]] - sizes[g];
    }
    if (thread == 0) {
        groups.column_start[column] = start;
        groups.column_groups[column] = distinct;
        if (column == cols - 1) groups.column_start[cols] = static_cast<int>(batch);
    }
}

}  // namespace

void group(
    const std::int64_t* bmu, std::int64_t batch, std::int64_t rows, std::int64_t cols, const Groups& groups, int* next,
    cudaStream_t stream) {
    launch("group_column", group_column, cols, THREADS, stream, bmu, batch, rows, cols, groups, next);
}

}  // namespace vitsom::cuda

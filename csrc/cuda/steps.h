// What som.cu launches, in that order, and what the kernels leave for one another in the workspace. One idea a file.
#pragma once

#include "rows.cuh"

namespace vitsom::cuda {

// Rows in halves for the tensor cores, each scaled by a power of two to a norm in [2^11, 2^12): those of 16-bit numbers as they
// are, those of fp32 in two planes, hi and lo, with row = (hi + lo) / scale to 22 bits. hi of a few features, then lo of them.
struct Packed {
    __half* halves;         // [rows, pitch], zero beyond the end of a row
    std::int64_t pitch;     // a multiple of PACKED_STEP
    int planes;
    float* inverse;         // [rows] LIFT / max(|x|, eps), NaN for a row that is not finite
    float* inverse_rest;    // [rows] what fp32 rounds away of it
    float* packed_inverse;  // [rows] the same of the packed row
};

constexpr int PACKED_STEP = 32;  // halves of all planes of a few features

// fp32 rows in the workspace, aligned, and zero from dim to their end.
using Features = Rows<float>;

// The best prototype of a sample so far: its score in an order-preserving pattern of bits, then ~index; 0 is none. The largest
// is the nearest, on ties the one of the lowest index, whatever the order in which blocks arrive.
using Best = unsigned long long;

// The samples sorted by their BMU, column by column of the grid. A column's samples and its distinct BMUs both begin at
// column_start, so that no column waits for the count of another; what lies between its last BMU and the next column is unused.
struct Groups {
    int* column_start;   // [cols + 1] into the four below
    int* column_groups;  // [cols] distinct BMUs
    int* order;          // [batch] sample indices by (column, row, index)
    int* group_row;      // [batch] grid row of a distinct BMU
    int* group_start;    // [batch] its first sample in order
    int* group_size;     // [batch] its samples, 0 where unused
};

// Where in the groups a BMU is: those of a column are sorted by their row. Of a unit that is none it is another's place, where its
// column has any.
__device__ inline std::int64_t group_of(const Groups& groups, std::int64_t unit, std::int64_t cols) {
    const std::int64_t start = groups.column_start[unit % cols], row = unit / cols;
    std::int64_t low = 0, high = groups.column_groups[unit % cols] - 1;
    while (low < high) {
        const std::int64_t middle = (low + high) / 2;
        if (groups.group_row[start + middle] < row) low = middle + 1;
        else high = middle;
    }
    return start + low;
}

// Sums of all units and the numbers of their rows, in fp32 or fp64.
template <class Sum>
struct Sums {
    Sum* data;            // [num_prototypes, pitch], the first dim of each row
    std::int64_t pitch;
    Sum* counts;          // [num_prototypes], counts_apart from one another
    std::int64_t counts_apart;
};

// `best`, where given, is set to none.
void pack(const Matrix&, std::int64_t rows, std::int64_t dim, const Packed&, Best* best, cudaStream_t);
void search(const Packed& z, const Packed& prototypes, std::int64_t batch, std::int64_t num_prototypes, Best*, cudaStream_t);
// `distance` may be nullptr.
void decode(const Best*, const Packed& z, std::int64_t batch, std::int64_t* bmu, float* distance, cudaStream_t);

// `next` [rows * cols] is scratch.
void group(
    const std::int64_t* bmu, std::int64_t batch, std::int64_t rows, std::int64_t cols, const Groups&, int* next, cudaStream_t);

// Forward: the prototypes, as seen from the centre, smoothed along columns by one term, then its rows combined at the distinct
// BMUs, set or added to.
void smooth_prototypes(
    const Problem&, const Neighborhood&, std::int64_t term, const Packed& prototypes, const Features& centre,
    const Features& smoothed, cudaStream_t);
void combine_rows(
    const Problem&, const Neighborhood&, std::int64_t term, const Features& smoothed, const Groups&, const Features& combined,
    cudaStream_t);

// What the rest of a forward pass takes from all of the map. Sums of the factors' rows in fp64, [terms, rows] then [terms, cols]:
// n = G 1 is a sum over terms of their products. And the centre c [1, dim], the mean of some of the w^: S = n c + G (w^ - c), and
// all that is rounded on the way to S is in proportion to w^ - c, which is next to nothing in a map that has collapsed.
void survey(
    const Problem&, const Neighborhood&, const float* prototype_inverse, double* factor_sums, const Features& centre,
    cudaStream_t);

// attraction[i] = S_b, and the loss.
void attract(
    const Problem&, const Neighborhood&, const std::int64_t* bmu, const Groups&, const double* factor_sums,
    const Features& centre, const Features& combined, const float* prototype_inverse, double scale, float* attraction,
    double* losses, float* loss, cudaStream_t);

// Backward: the normalised samples of a distinct BMU summed up, spread along rows by one term, then smoothed along columns as below.
void sum_samples(const Problem&, const Groups&, const float* inverse, const Features& sums, cudaStream_t);
void spread_rows(
    const Problem&, const Neighborhood&, std::int64_t term, const Features& sums, const Groups&, const Features& spread,
    cudaStream_t);

// The primitives: rows of any kind summed up for every unit of a grid of so many columns, set in fp32 or added to in fp64; and one
// term applied to rows of any kind along one axis, by its factor or the transpose of that, set or added to.
template <class Sum>
void sum_units(
    const Matrix& x, std::int64_t dim, const Groups&, std::int64_t num_prototypes, std::int64_t cols, const Sums<Sum>&,
    cudaStream_t);
enum class Axis { rows, cols };
void smooth_along(
    Axis, const Neighborhood&, std::int64_t term, bool transposed, const Rows<const float>& x, const Features& smoothed,
    bool is_first, cudaStream_t);

// out = -scale * grad_loss[0] * (pull - x^ (x^ . pull)) / max(|x|, eps)
void project(
    const Matrix& x, std::int64_t rows, std::int64_t dim, const Rows<const float>& pull, double scale,
    const float* grad_loss, void* out, cudaStream_t);

}  // namespace vitsom::cuda

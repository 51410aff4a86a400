// The kernels of one instruction set, and which there are. Every set is a table of the same functions; a wider one takes from the
// narrower what it does not do better.
#pragma once

#include "cpu/problem.h"
#include "cpu/search/search_output.h"

namespace vitsom {

// A pass of the search, over the samples that `rows` lists. Those that it cannot decide it leaves at the front of the list; returns
// how many it has decided.
using SearchPass = std::int64_t(
    const Problem&, std::int64_t* rows, std::int64_t batch, const SearchOutput&, SearchCounts&);

// loss = scale * sum over i of (n_b - z^_i . S_b), given the BMUs; attraction [min(batch, num_prototypes), dim] is S_b of each
// distinct BMU, column by column of the grid, then zeros; context is what the search found and what the backward pass will want.
//
// Under the squared Euclidean distance `losses` [batch], the sums over all prototypes, take the place of the loss, the attraction
// is that of rows as seen from the centre, and the context is written. Returns whether fp32 was precise enough for them.
using Attract = bool(
    const Problem&, const Neighborhood&, double scale, float* loss, const std::int64_t* bmu, float* attraction, double* context,
    double* losses);

// Gradients in the dtype of the problem, each row contiguous; nullptr for one that is not wanted. `shares` [batch] are the gradients
// of `losses`, in place of the scale.
using Backward = void(
    const Problem&, const Neighborhood&, double scale, const std::int64_t* bmu, const float* attraction, const double* context,
    const double* shares, void* grad_z, void* grad_prototypes);

// sums [num_units, dim] and counts [num_units] of the rows x [batch, dim] by their units.
using SumByBmu = void(
    const Matrix& x, std::int64_t batch, std::int64_t dim, const std::int64_t* bmu, std::int64_t num_units, int threads,
    float* sums, float* counts);

// Adds to sums [num_units, dim + 1] the rows x [batch, dim] by their units, and a 1 for each in the last column.
using AddByBmu = void(
    const Matrix& x, std::int64_t batch, std::int64_t dim, const std::int64_t* bmu, std::int64_t num_units, int threads,
    double* sums);

// Rows as they are seen, (z - centre) * unit, each with its nearest prototype by Euclidean distance: adds them to sums
// [num_prototypes, dim + 1] as AddByBmu does, and gives the sum of their distances, squared or not. Those that it cannot decide are
// in neither: their places are the first of left [batch]; returns how many there are. fp32, of at most 64 features. The same for
// as many threads.
using AddNearest = std::int64_t(
    const Problem&, const float* centre, float unit, bool squared, double* sums, double* distance, std::int64_t* left);

// Features that lifted rows have more than given ones.
constexpr int LIFTED = 6;

// z [batch, dim + LIFTED] and prototypes [num_prototypes, dim + LIFTED], `stride` apart: the cosine of one of each is largest where
// the two given rows are nearest.
using Lift = void(const Problem&, float* z, float* prototypes, std::int64_t stride);

// squared [batch] = |z - w|^2 of each sample and a unit; NaN for a sample that is not finite.
using SquaredDistances = void(const Problem&, const std::int64_t* units, double* squared);

// out = G x for x and out [rows * cols, dim].
using Smooth = void(const float* x, std::int64_t dim, const Neighborhood&, int threads, float* out);

// losses [batch]: of each sample, the sum of its weights times distances.
using PairLosses = void(const Problem&, const Neighborhood&, PairDistance, const std::int64_t* bmu, double* losses);

// Gradients of the sum of these times grad_losses [batch], as Backward has them.
using PairGradients = void(
    const Problem&, const Neighborhood&, PairDistance, const double* grad_losses, const std::int64_t* bmu, void* grad_z,
    void* grad_prototypes);

// The nearest prototype of each latent by Manhattan distance, as fp64 has it, and how far it is.
using SearchManhattan = void(const Problem&, std::int64_t* bmu, float* distance);

struct Kernels {
    const char* name;
    SearchPass* search_pruned;
    SearchPass *search_int8, *search_bf16;  // nullptr where the set has no such pass
    SearchPass *search_grouped, *search_small, *search_fp32, *search_fp64;  // the last decides all
    Attract* attract;
    Backward* backward;
    SumByBmu* sum_by_bmu;
    AddByBmu* add_by_bmu;
    AddNearest* add_nearest;
    Smooth* smooth;
    PairLosses* pair_losses;
    PairGradients* pair_gradients;
    SearchManhattan* search_manhattan;
    Lift* lift;
    SquaredDistances* squared_distances;
};

// What each set is compiled to have: everything in a namespace of its name, since an inline function shared between builds could be
// taken from the wider one by the linker, and fault on a processor that has only the narrower. For the same reason nothing of the
// standard library with code of its own is used there.
#define VITSOM_DECLARE(set)                    \
    namespace set {                            \
    SearchPass search_pruned;                  \
    SearchPass search_grouped, search_small;   \
    SearchPass search_fp32, search_fp64;       \
    Attract attract;                           \
    Backward backward;                         \
    SumByBmu sum_by_bmu;                       \
    AddByBmu add_by_bmu;                       \
    AddNearest add_nearest;                    \
    Smooth smooth;                             \
    PairLosses pair_losses;                    \
    PairGradients pair_gradients;              \
    SearchManhattan search_manhattan;          \
    Lift lift;                                 \
    SquaredDistances squared_distances;        \
    }
VITSOM_DECLARE(baseline)
VITSOM_DECLARE(avx2)
VITSOM_DECLARE(avx512)
#undef VITSOM_DECLARE
namespace avx512vnni {
SearchPass search_pruned, search_int8;
}
namespace avx512bf16 {
SearchPass search_bf16;
}

inline const Kernels* kernels_baseline() {
    using namespace baseline;
    static constexpr Kernels table{
        "baseline", search_pruned, nullptr, nullptr,
        search_grouped, search_small, search_fp32, search_fp64, attract, backward, sum_by_bmu, add_by_bmu, add_nearest, smooth,
        pair_losses, pair_gradients, search_manhattan, lift, squared_distances};
    return &table;
}

inline const Kernels* kernels_avx2() {
    using namespace avx2;
    static constexpr Kernels table{
        "avx2", search_pruned, nullptr, nullptr,
        search_grouped, search_small, search_fp32, search_fp64, attract, backward, sum_by_bmu, add_by_bmu, add_nearest, smooth,
        pair_losses, pair_gradients, search_manhattan, lift, squared_distances};
    return &table;
}

inline const Kernels* kernels_avx512() {
    using namespace avx512;
    static constexpr Kernels table{
        "avx512", search_pruned, nullptr, nullptr,
        search_grouped, search_small, search_fp32, search_fp64, attract, backward, sum_by_bmu, add_by_bmu, add_nearest, smooth,
        pair_losses, pair_gradients, search_manhattan, lift, squared_distances};
    return &table;
}

inline const Kernels* kernels_avx512vnni() {
    using namespace avx512;
    static constexpr Kernels table{
        "avx512vnni", avx512vnni::search_pruned, avx512vnni::search_int8, nullptr,
        search_grouped, search_small, search_fp32, search_fp64, attract, backward, sum_by_bmu, add_by_bmu, add_nearest, smooth,
        pair_losses, pair_gradients, search_manhattan, lift, squared_distances};
    return &table;
}

inline const Kernels* kernels_avx512bf16() {
    using namespace avx512;
    static constexpr Kernels table{
        "avx512bf16", avx512vnni::search_pruned, avx512vnni::search_int8, avx512bf16::search_bf16,
        search_grouped, search_small, search_fp32, search_fp64, attract, backward, sum_by_bmu, add_by_bmu, add_nearest, smooth,
        pair_losses, pair_gradients, search_manhattan, lift, squared_distances};
    return &table;
}

}  // namespace vitsom

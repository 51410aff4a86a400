// The sum of the rows of every unit, and their number.
//
// Rows are summed up in fp64, 20000 of one unit in fp32 are wrong by 6e-6, and in their order: sums never change from run to run.
#include "cpu/module/kernel_table.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/packing.h"
#include "cpu/step/rows_by_unit.h"

namespace vitsom {
namespace VITSOM_ISA {

// Features that are summed up together: as many sums as stay in the first-level cache.
constexpr std::int64_t SUMMED_FEATURES = 1024;

// Features [first, first + count) of the rows order[begin, end), added up.
inline void sum_rows_of_unit(
    const Matrix& x, const std::int64_t* order, std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t count,
    float* sums) {
    DoublePair total[SUMMED_FEATURES / WIDTH];
    for (std::int64_t v = 0; v < ceil_div(count, WIDTH); ++v) total[v] = DoublePair{};
    for (std::int64_t i = begin; i < end; ++i) {
        with_elements(row(x, order[i]) + first, [&](const auto* elements) {
            for_each_vector(count, [&](std::int64_t d, auto load, auto) {
                const DoublePair wide = widen(load(elements + d));
                total[d / WIDTH].low += wide.low;
                total[d / WIDTH].high += wide.high;
            });
        });
    }
    for_each_vector(count, [&](std::int64_t d, auto, auto store) { store(sums + d, narrow(total[d / WIDTH])); });
}

void sum_by_bmu(
    const Matrix& x, std::int64_t batch, std::int64_t dim, const std::int64_t* bmu, std::int64_t num_units, int threads,
    float* sums, float* counts) {
    RowsByUnit rows{};
    Arena arena;
    lay_out(arena, [&](Arena& a) { rows.take(a, batch, num_units); });
    rows.sort(bmu, batch, num_units);
    const std::int64_t blocks = ceil_div(dim, SUMMED_FEATURES);
    const int used = useful_threads(4 * (batch + num_units) * dim, threads);
#pragma omp parallel for schedule(dynamic, 16) num_threads(used) if (used > 1)
    for (std::int64_t task = 0; task < num_units * blocks; ++task) {
        const std::int64_t k = task / blocks, first = task % blocks * SUMMED_FEATURES;
        const std::int64_t begin = rows.begin[k], end = rows.begin[k + 1];
        if (first == 0) counts[k] = static_cast<float>(end - begin);
        sum_rows_of_unit(x, rows.order, begin, end, first, smaller(SUMMED_FEATURES, dim - first), sums + k * dim + first);
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

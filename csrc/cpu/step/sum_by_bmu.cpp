// The sum of the rows of every unit, and their number.
//
// Rows are summed up in fp64 (20000 of one unit in fp32 are wrong by 6e-6) and in their order: sums never change from run to run.
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

template <class T>
inline __attribute__((always_inline)) void add_row(const T* x, std::int64_t dim, double* sums) {
    const auto add = [](double* to, Doubles terms) {
        terms += load_as<Doubles>(to);
        std::memcpy(to, &terms, sizeof terms);
    };
    std::int64_t d = 0;
    for (; d + WIDTH <= dim; d += WIDTH) {
        const DoublePair wide = load_wide(x + d);
        add(sums + d, wide.low);
        add(sums + d + WIDTH / 2, wide.high);
    }
    if (d < dim) {
        float rest[WIDTH];
        store(rest, load_partial(x + d, dim - d));
        for (std::int64_t lane = 0; d < dim; ++d, ++lane) sums[d] += static_cast<double>(rest[lane]);
    }
    sums[dim] += 1;
}

// Each thread adds the rows of units of its own, in their order: the sums are the same by any number of threads. To read the list of
// units as often as there are threads costs less than to sort it.
void add_by_bmu(
    const Matrix& x, std::int64_t batch, std::int64_t dim, const std::int64_t* bmu, std::int64_t num_units, int threads,
    double* sums) {
    const int parts = useful_threads(4 * batch * dim, threads);
#pragma omp parallel for schedule(static) num_threads(parts) if (parts > 1)
    for (int part = 0; part < parts; ++part) {
        const std::int64_t first = num_units * part / parts, last = num_units * (part + 1) / parts;
        with_dtype(x.dtype, [&](auto t) {
            for (std::int64_t i = 0; i < batch; ++i) {
                if (bmu[i] >= first && bmu[i] < last) add_row(typed_row<decltype(t)>(x, i), dim, sums + bmu[i] * (dim + 1));
            }
        });
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

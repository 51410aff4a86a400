#include "cpu/search/search.h"

#include "cpu/runtime/arena.h"
#include "cpu/search/lifted.h"
#include "cpu/search/narrow.h"

namespace vitsom {

using namespace VITSOM_ISA;

SearchCounts search(const Kernels& kernels, const Problem& p, const SearchOutput& output) {
    Arena arena;
    std::int64_t* rows = nullptr;  // samples without a BMU as yet
    lay_out(arena, [&](Arena& a) { rows = a.take<std::int64_t>(p.batch); });
    for (std::int64_t i = 0; i < p.batch; ++i) rows[i] = i;
    SearchCounts counts{};
    std::int64_t left = p.batch;
    const auto pass = [&](SearchPass* over, std::int64_t& decided) {
        if (!over || left == 0) return;
        decided = over(p, rows, left, output, counts);
        left -= decided;
    };
    counts.narrow = search_narrow(kernels, p, rows, left, output, counts);
    left -= counts.narrow;
    if (p.lifted == 0) {
        pass(kernels.search_pruned, counts.pruned);
        pass(kernels.search_int8, counts.int8);
        pass(kernels.search_bf16, counts.bf16);
    }
    if (p.distance == Distance::squared_euclidean) {
        search_lifted(kernels, p, rows, left, output, counts);
        return counts;
    }
    pass(kernels.search_grouped, counts.grouped);
    pass(kernels.search_small, counts.small);
    pass(kernels.search_fp32, counts.fp32);
    pass(kernels.search_fp64, counts.fp64);
    return counts;
}

SearchCounts find_bmu(const Kernels& kernels, const Problem& p, int wanted, bool rooted, std::int64_t* bmu, float* distance) {
    SearchOutput found{bmu, nullptr, nullptr, nullptr, wanted};
    Arena arena;
    lay_out(arena, [&](Arena& a) {
        found.inverse_z = a.take<double>(p.batch);
        found.inverse_prototype = a.take<double>(p.num_prototypes);
        found.score = a.take<double>(p.batch * wanted);
    });
    const SearchCounts counts = search(kernels, p, found);
    for (std::int64_t i = 0; i < p.batch * wanted; ++i) {
        if (p.distance == Distance::squared_euclidean) {
            const double d = -2 * found.score[i];
            distance[i] = !(d <= __DBL_MAX__) ? __builtin_nanf("") : static_cast<float>(rooted ? __builtin_sqrt(d) : d);
            continue;
        }
        // Of rows that are the same, or opposite, roundings leave 1e-16 below 0, or above 2.
        const double d = 1 - found.score[i];
        distance[i] = !(d <= 3) ? __builtin_nanf("") : d < 0 ? 0 : d > 2 ? 2 : static_cast<float>(d);
    }
    return counts;
}

}  // namespace vitsom

// The search for the BMUs: passes over the prototypes, each of which leaves the samples that it cannot decide to the next,
// slower one. The last decides all.
#pragma once

#include "search_fp32.h"
#include "search_fp64.h"
#if defined(__AVX512VNNI__)
#include "search_coded.h"
#include "search_pruned.h"
#endif

namespace vitsom {
namespace VITSOM_ISA {

inline SearchCounts search(const Problem& p, const Search& result) {
    Arena arena;
    std::int64_t* rows = nullptr;  // samples without a BMU as yet
    lay_out(arena, [&](Arena& a) { rows = a.take<std::int64_t>(p.batch); });
    for (std::int64_t i = 0; i < p.batch; ++i) rows[i] = i;
    SearchCounts counts{};
    std::int64_t left = p.batch;
#if defined(__AVX512VNNI__)
    counts.pruned = search_pruned(p, rows, left, result, counts);
    left -= counts.pruned;
    if (left > 0) counts.int8 = search_coded<Int8>(p, rows, left, result, counts.candidates);
    left -= counts.int8;
#endif
#if defined(__AVX512BF16__)
    if (left > 0) counts.bf16 = search_coded<BFloat16>(p, rows, left, result, counts.candidates);
    left -= counts.bf16;
#endif
    if (left > 0) counts.fp32 = search_fp32(p, rows, left, result);
    left -= counts.fp32;
    if (left > 0) search_fp64(p, rows, left, result);
    counts.fp64 = left;
    return counts;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

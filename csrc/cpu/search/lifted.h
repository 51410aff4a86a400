// The search by squared Euclidean distance that the passes for cosines make, over rows that are lifted.
#pragma once

#include "cpu/module/kernel_table.h"
#include "cpu/runtime/arena.h"
#include "cpu/search/search.h"
#include "cpu/simd/packing.h"

namespace vitsom {
namespace VITSOM_ISA {

// Two units of a sample and -|z - w|^2 / 2 of them: lifted rows are not of exactly the same length, so that those that are as near may
// have come in either order.
inline void put_in_order(double (&score)[2], std::int64_t (&unit)[2]) {
    if (score[0] > score[1] || (score[0] == score[1] && unit[0] < unit[1]) || !(score[1] > -__builtin_inf())) return;
    const double first = score[1];
    const std::int64_t first_unit = unit[1];
    score[1] = score[0];
    unit[1] = unit[0];
    score[0] = first;
    unit[0] = first_unit;
}

// The samples that `rows` lists, `count` of them, all of which are decided.
inline void search_lifted(
    const Kernels& kernels, const Problem& p, const std::int64_t* rows, std::int64_t count, const SearchOutput& result,
    SearchCounts& counts) {
    if (count == 0) return;
    const int wanted = result.wanted;
    const std::int64_t stride = ceil_div(p.dim + LIFTED, 16) * 16;  // whole vectors, which are written past the cache
    const std::int64_t bytes = p.dim * row(p.z, 0).element_bytes();
    const bool is_all = count == p.batch;
    Arena arena;
    char* given = nullptr;
    float *lifted_z = nullptr, *lifted_w = nullptr;
    std::int64_t* units = nullptr;
    double* squared = nullptr;
    SearchOutput found{};
    lay_out(arena, [&](Arena& a) {
        given = a.take<char>(is_all ? 0 : count * bytes);
        lifted_z = a.take<float>(count * stride);
        lifted_w = a.take<float>(p.num_prototypes * stride);
        units = a.take<std::int64_t>(count);
        squared = a.take<double>(count * wanted);
        found.bmu = a.take<std::int64_t>(count * wanted);
        found.score = a.take<double>(count * wanted);
        found.inverse_z = a.take<double>(count);
        found.inverse_prototype = a.take<double>(p.num_prototypes);
        found.wanted = wanted;
    });
    Problem left = p;
    left.batch = count;
    if (!is_all) {
        const auto size = static_cast<std::size_t>(bytes);
        for (std::int64_t i = 0; i < count; ++i) std::memcpy(given + i * bytes, row(p.z, rows[i]).data, size);
        left.z = {given, p.dim, p.z.dtype};
    }
    kernels.lift(left, lifted_z, lifted_w, stride);
    Problem lifted = left;
    lifted.z = {lifted_z, stride, DType::float32};
    lifted.prototypes = {lifted_w, stride, DType::float32};
    lifted.dim = p.dim + LIFTED;
    lifted.lifted = LIFTED;
    lifted.distance = Distance::cosine;
    const SearchCounts within = search(kernels, lifted, found);
    counts.grouped += within.grouped;
    counts.small += within.small;
    counts.fp32 += within.fp32;
    counts.fp64 += within.fp64;
    counts.candidates += within.candidates;
    counts.tiles += within.tiles;
    for (int place = 0; place < wanted; ++place) {
        for (std::int64_t i = 0; i < count; ++i) units[i] = found.bmu[i * wanted + place];
        kernels.squared_distances(left, units, squared + place * count);
    }
    for (std::int64_t i = 0; i < count; ++i) {
        std::int64_t unit[2] = {};
        double score[2] = {};
        for (int place = 0; place < wanted; ++place) {
            unit[place] = found.bmu[i * wanted + place];
            const bool is_there = found.score[i * wanted + place] > -__builtin_inf();
            score[place] = is_there ? -0.5 * squared[place * count + i] : -__builtin_inf();
        }
        if (wanted == 2) put_in_order(score, unit);
        for (int place = 0; place < wanted; ++place) {
            result.bmu[rows[i] * wanted + place] = unit[place];
            if (result.score) result.score[rows[i] * wanted + place] = score[place];
        }
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// The search in fp32 where samples are many, and units and features few: samples in the lanes, each prototype against all of them.
//
// What search_fp32 spends on a sample before and after its scores (it is packed, its contenders are listed, then decided upon) is
// several times what the scores of 100 prototypes of 20 features take. Here the two largest scores of a sample are kept, and which
// the first is of. A sample whose two largest scores may be those of either is left to the next pass, and so are all where these
// are many.
#include <cstdint>

#include "cpu/module/kernel_table.h"
#include "cpu/runtime/arena.h"
#include "cpu/runtime/interruption.h"
#include "cpu/search/lanes/best_of_block.h"

namespace vitsom {
namespace VITSOM_ISA {

// Beyond these, search_fp32 takes less: what it spends on a sample once is little beside the scores. On AVX2, of its time, 400 units
// of 26 features take 0.89, 1024 of 10 features 0.75, 1024 of 20 features 1.13.
constexpr std::int64_t MOST_ELEMENTS = 1 << 14;

// Elements of the prototypes that there may be for each sample: to pack them takes the time of some of the samples. 128 samples on 256
// units of 64 features take 1.2 times as long as in search_fp32, on 100 of 20 features 0.9.
constexpr std::int64_t MOST_ELEMENTS_A_SAMPLE = 16;

// Samples a thread looks at before it is known whether most can be decided, and the share of them that must be.
constexpr std::int64_t PROBED = 1024;
constexpr double LEAST_DECIDED = 0.75;

// Blocks between two questions whether to go on: a few milliseconds.
constexpr std::int64_t BLOCKS_A_QUESTION = 256;

// How far a score can be from the true one, in lengths of the sample: a rounding of 2^-24 a product, one of the prototype's elements,
// two of the sum of three.
inline float error_in_lengths(std::int64_t dim) { return static_cast<float>(dim + 4) * 0x1.02p-24f; }

// Features that are multiplied. What was added to a lifted sample is one number, three times, and zeros: of all that, one product with
// the sum of what the prototype has for the three.
inline std::int64_t multiplied_features(const Problem& p) { return p.lifted > 0 ? p.dim - p.lifted + 1 : p.dim; }

// Which samples of a block have but one unit that can be the nearest, a bit each.
inline std::uint64_t decided_of(const BestOfBlock& best, const float* z, std::int64_t dim) {
    const float error = 2 * error_in_lengths(dim);
    std::uint64_t decided = 0;
    for (int v = 0; v < VECTORS; ++v) {
        const Vec squared = squares_of(z, dim, v);
        const Vec margin = best.first[v] - best.second[v], needed = square_root(squared) * (1.01f * error);
        const std::uint64_t lanes = lanes_reaching(margin, needed) & lanes_in_range(squared);
        decided |= lanes << (v * WIDTH);
    }
    return decided;
}

// One that is not finite has scores that are NaN, which are no sample's largest.
inline void pack_prototypes(const Problem& p, std::int64_t dim, const SearchOutput& result, float* out) {
    for (std::int64_t k = 0; k < p.num_prototypes; ++k) {
        const Row w = row(p.prototypes, k);
        const double inverse = inverse_norm(w, p.dim);
        result.inverse_prototype[k] = inverse;
        float unit[MOST_FEATURES + LIFTED];
        write_exact_unit(w, inverse, p.dim, unit);
        if (p.lifted > 0) unit[dim - 1] = unit[dim - 1] + unit[dim] + unit[dim + 1];
        float* to = out + k / AT_ONCE * AT_ONCE * dim + k % AT_ONCE;
        for (std::int64_t d = 0; d < dim; ++d) to[d * AT_ONCE] = unit[d];
    }
}

std::int64_t search_small(
    const Problem& p, std::int64_t* rows, std::int64_t batch, const SearchOutput& result, SearchCounts&) {
    const std::int64_t dim = multiplied_features(p);
    const std::int64_t most = smaller(MOST_ELEMENTS, MOST_ELEMENTS_A_SAMPLE * batch);
    if (result.wanted != 1 || dim > MOST_FEATURES || p.num_prototypes * dim > most) return 0;
    const std::int64_t groups = ceil_div(p.num_prototypes, AT_ONCE), blocks = ceil_div(batch, BLOCK_SAMPLES);
    Arena arena;
    float* prototypes = nullptr;
    bool* decided = nullptr;
    lay_out(arena, [&](Arena& a) {
        prototypes = a.take<float>(groups * dim * AT_ONCE);
        decided = a.take<bool>(batch);
    });
    for (std::int64_t i = 0; i < groups * dim * AT_ONCE; ++i) prototypes[i] = 0;
    pack_prototypes(p, dim, result, prototypes);
    const Packed packed{prototypes, nullptr, p.num_prototypes, dim};
    const int threads = useful_threads(batch * p.num_prototypes * dim, p.threads);
    Interruption interruption(p);
    std::int64_t done = 0, known = 0;
    for (std::int64_t end = smaller(blocks, threads * PROBED / BLOCK_SAMPLES); done < blocks; end = blocks) {
        std::int64_t of_all = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : of_all) if (threads > 1)
        for (std::int64_t block = done; block < end; ++block) {
            if (block % BLOCKS_A_QUESTION == 0 ? interruption.is_wanted() : interruption.has_come()) continue;
            const std::int64_t first = block * BLOCK_SAMPLES, count = smaller(BLOCK_SAMPLES, batch - first);
            float z[MOST_FEATURES * BLOCK_SAMPLES];
            with_dtype(p.z.dtype, [&](auto t) { pack_block<decltype(t)>(p.z, rows + first, count, dim, z); });
            const BestOfBlock best = search_block(packed, z);
            const std::uint64_t lanes = decided_of(best, z, dim);
            for (std::int64_t lane = 0; lane < count; ++lane) {
                decided[first + lane] = lanes >> lane & 1;
                if (!decided[first + lane]) continue;
                decide(p, rows[first + lane], best.unit[lane / WIDTH][lane % WIDTH], result);
                ++of_all;
            }
        }
        interruption.end_here();
        known += of_all;
        done = end;
        if (known < LEAST_DECIDED * smaller(batch, done * BLOCK_SAMPLES)) break;
    }
    std::int64_t left = 0;
    for (std::int64_t i = 0; i < batch; ++i) {
        if (i >= done * BLOCK_SAMPLES || !decided[i]) rows[left++] = rows[i];
    }
    return batch - left;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

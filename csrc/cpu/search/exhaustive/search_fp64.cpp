// The search in fp64, for samples whose nearest prototypes are nearer to one another than fp32 can tell: a collapsed map, copies of
// prototypes, a map at the start of its training. It decides all.
//
// A block of prototypes that stays in the cache meets all samples of a thread, a few at a time, their features side by side in a
// vector: every pair of a sample and a prototype is summed up in the same order, so that what is equal gets equal scores.
#include "cpu/runtime/interruption.h"
#include "cpu/runtime/arena.h"
#include "cpu/search/nearest.h"
#include "cpu/simd/packing.h"
#include "cpu/module/kernel_table.h"
#include "cpu/runtime/threads.h"

namespace vitsom {
namespace VITSOM_ISA {

// Bytes of the prototypes of a block: half of the second-level cache.
constexpr std::int64_t EXACT_BLOCK_BYTES = 256 << 10;

// Samples and prototypes whose products are summed up together, in as many registers as there are.
constexpr int EXACT_ROWS = 4, EXACT_COLS = TILE_ROWS > 6 ? 4 : 2;

// products[r][c] = z[r] . w[c]
template <class T>
void multiply_pairs(
    const T* const (&z)[EXACT_ROWS], const T* const (&w)[EXACT_COLS], std::int64_t n, double (&products)[EXACT_ROWS][EXACT_COLS]) {
    Doubles sums[EXACT_ROWS][EXACT_COLS] = {};
    for_each_vector(n, [&](std::int64_t d, auto load, auto) {
        DoublePair column[EXACT_COLS];
#pragma GCC unroll 4
        for (int c = 0; c < EXACT_COLS; ++c) column[c] = widen(load(w[c] + d));
#pragma GCC unroll 4
        for (int r = 0; r < EXACT_ROWS; ++r) {
            const DoublePair x = widen(load(z[r] + d));
#pragma GCC unroll 4
            for (int c = 0; c < EXACT_COLS; ++c) {
                sums[r][c] += x.low * column[c].low;
                sums[r][c] += x.high * column[c].high;
            }
        }
    });
    for (int r = 0; r < EXACT_ROWS; ++r) {
        for (int c = 0; c < EXACT_COLS; ++c) products[r][c] = sum(sums[r][c]);
    }
}

// Shows some prototypes to each of up to EXACT_ROWS samples, if they are nearer than the wanted units so far.
template <class T>
void search_pairs(
    const Problem& p, const std::int64_t* rows, std::int64_t count, std::int64_t first, std::int64_t last, const double* inverse,
    int wanted, Nearest* nearest) {
    const T* z[EXACT_ROWS];
    for (int r = 0; r < EXACT_ROWS; ++r) z[r] = typed_row<T>(p.z, rows[smaller(r, count - 1)]);
    for (std::int64_t k = first; k < last; k += EXACT_COLS) {
        const T* w[EXACT_COLS];
        for (int c = 0; c < EXACT_COLS; ++c) w[c] = typed_row<T>(p.prototypes, smaller(k + c, last - 1));
        double products[EXACT_ROWS][EXACT_COLS];
        multiply_pairs(z, w, p.dim, products);
        for (std::int64_t r = 0; r < count; ++r) {
            for (std::int64_t c = 0; c < smaller(EXACT_COLS, last - k); ++c) {
                const double score = products[r][c] * inverse[k + c];
                if (score > nearest[r].score[wanted - 1]) nearest[r].meet(score, k + c);
            }
        }
    }
}

// The factors that make lengths 1 are known.
std::int64_t search_fp64(
    const Problem& p, std::int64_t* rows, std::int64_t batch, const SearchOutput& result, SearchCounts&) {
    const std::int64_t block = larger(EXACT_COLS, EXACT_BLOCK_BYTES / (p.dim * row(p.prototypes, 0).element_bytes()));
    const std::int64_t groups = ceil_div(batch, EXACT_ROWS);
    const int threads = useful_threads(4 * batch * p.num_prototypes * p.dim, p.threads);
    Arena arena;
    Nearest* nearest = nullptr;
    lay_out(arena, [&](Arena& a) { nearest = a.take<Nearest>(batch); });
    for (std::int64_t i = 0; i < batch; ++i) nearest[i] = Nearest::none();
    Interruption interruption(p);
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (std::int64_t first = 0; first < p.num_prototypes; first += block) {
#pragma omp for schedule(static) nowait
        for (std::int64_t group = 0; group < groups; ++group) {
            if (interruption.is_wanted()) continue;
            const std::int64_t i = group * EXACT_ROWS;
            with_dtype(p.z.dtype, [&](auto t) {
                search_pairs<decltype(t)>(
                    p, rows + i, smaller(EXACT_ROWS, batch - i), first, smaller(p.num_prototypes, first + block),
                    result.inverse_prototype, result.wanted, nearest + i);
            });
        }
    }
    interruption.end_here();
    for (std::int64_t i = 0; i < batch; ++i) {
        for (double& score : nearest[i].score) score *= result.inverse_z[rows[i]];
        nearest[i].write(result, rows[i]);
    }
    return batch;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

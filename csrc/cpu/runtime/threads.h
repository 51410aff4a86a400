// How many threads a piece of work is worth, and its scratch memory allows.
//
// A team may turn out smaller than what is asked for (OMP_THREAD_LIMIT, OMP_DYNAMIC, a region within a region): whatever is indexed
// by thread and read by all has to be complete without those that never run.
#pragma once

#include <cstdint>

#include "cpu/problem.h"

#if defined(_OPENMP)
#include <omp.h>
#else
static inline int omp_get_thread_num() { return 0; }
#endif

namespace vitsom {
namespace VITSOM_ISA {

// Multiply-adds below which another thread costs more than it saves (about 20 us).
constexpr std::int64_t GRAIN = 1 << 20;

inline int useful_threads(std::int64_t multiply_adds, int threads) {
    const std::int64_t useful = 1 + multiply_adds / GRAIN;
    return useful < threads ? static_cast<int>(useful) : threads;
}

// Scratch memory beyond which there must not be more of it than of the inputs, however many threads there are.
constexpr std::int64_t FREE_BYTES = 16 << 20;

// How many pieces of scratch memory of this size there may be, one at least.
inline std::int64_t affordable_pieces(const Problem& p, std::int64_t bytes) {
    const std::int64_t inputs = (p.batch + p.num_prototypes) * p.dim * static_cast<std::int64_t>(sizeof(float));
    const std::int64_t pieces = (inputs > FREE_BYTES ? inputs : FREE_BYTES) / (bytes > 0 ? bytes : 1);
    return pieces > 1 ? pieces : 1;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

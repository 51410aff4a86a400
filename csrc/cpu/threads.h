// How many threads a piece of work is worth.
#pragma once

#include <cstdint>

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

}  // namespace VITSOM_ISA
}  // namespace vitsom

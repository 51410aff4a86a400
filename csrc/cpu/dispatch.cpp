#include "dispatch.h"

#include <cstdlib>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace vitsom {

std::vector<const Kernels*> supported_kernels() {
    std::vector<const Kernels*> found;
#if defined(VITSOM_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        found.push_back(kernels_avx512());
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(kernels_avx2());
#endif
    found.push_back(kernels_baseline());
    return found;
}

const Kernels& select_kernels() {
    const auto supported = supported_kernels();
    const char* wanted = std::getenv("VITSOM_CPU_ISA");
    if (!wanted || !*wanted) return *supported.front();
    std::string names;
    for (const Kernels* kernels : supported) {
        if (std::string(wanted) == kernels->name) return *kernels;
        names += std::string(names.empty() ? "" : ", ") + kernels->name;
    }
    throw std::runtime_error("VITSOM_CPU_ISA must be one of " + names + " on this processor, got '" + wanted + "'");
}

void* allocate(std::size_t bytes) {
    constexpr std::size_t huge_page = std::size_t{2} << 20;
    const std::size_t alignment = bytes >= 2 * huge_page ? huge_page : 64;
    void* memory = std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
    if (!memory) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == huge_page) madvise(memory, bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
    return memory;
}

void release(void* memory) { std::free(memory); }

}  // namespace vitsom

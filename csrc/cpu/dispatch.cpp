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
        if (__builtin_cpu_supports("avx512vnni")) {
            if (__builtin_cpu_supports("avx512bf16")) found.push_back(kernels_avx512bf16());
            found.push_back(kernels_avx512vnni());
        }
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

// Large workspaces are fresh from the system each time: in pages of 4 KB, 70 MB of them took 40 ms to map.
void* allocate(std::size_t bytes) {
    void* memory = ::operator new(bytes ? bytes : 1, std::align_val_t{64});
#if defined(__linux__)
    constexpr std::uintptr_t page = 1 << 21;
    const std::uintptr_t begin = (reinterpret_cast<std::uintptr_t>(memory) + page - 1) / page * page;
    const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(memory) + bytes) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
    return memory;
}

void release(void* memory) {
    if (memory) ::operator delete(memory, std::align_val_t{64});
}

}  // namespace vitsom

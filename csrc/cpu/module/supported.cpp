#include "cpu/module/dispatch.h"

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

}  // namespace vitsom

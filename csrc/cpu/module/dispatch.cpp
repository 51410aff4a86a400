#include "cpu/module/dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace vitsom {

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

Pruning select_pruning() {
    const char* wanted = std::getenv("VITSOM_CPU_PRUNING");
    if (!wanted || !*wanted) return Pruning::automatic;
    const std::string name = wanted;
    if (name == "auto") return Pruning::automatic;
    if (name == "always") return Pruning::always;
    if (name == "never") return Pruning::never;
    throw std::invalid_argument("VITSOM_CPU_PRUNING must be one of ('auto', 'always', 'never'), got '" + name + "'");
}

}  // namespace vitsom

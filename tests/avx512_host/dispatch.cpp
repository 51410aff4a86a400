// In place of csrc/cpu/dispatch.cpp: the kernels of this build run on every processor.
#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace vitsom {

std::vector<const Kernels*> supported_kernels() { return {VITSOM_EMULATED}; }

const Kernels& select_kernels() {
    const auto supported = supported_kernels();
    const char* wanted = std::getenv("VITSOM_CPU_ISA");
    if (!wanted || !*wanted) return *supported.front();
    for (const Kernels* kernels : supported) {
        if (std::string(wanted) == kernels->name) return *kernels;
    }
    throw std::runtime_error("VITSOM_CPU_ISA names what is not emulated: " + std::string(wanted));
}

}  // namespace vitsom

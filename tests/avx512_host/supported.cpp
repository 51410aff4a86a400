// In place of csrc/cpu/module/supported.cpp: the kernels of this build run on every processor.
#include "cpu/module/dispatch.h"

namespace vitsom {

std::vector<const Kernels*> supported_kernels() { return {VITSOM_EMULATED}; }

}  // namespace vitsom

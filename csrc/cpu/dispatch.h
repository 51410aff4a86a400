// Which build of the kernels this processor runs.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace vitsom {

// The builds that this processor can run, the widest first; the last one runs everywhere.
std::vector<const Kernels*> supported_kernels();

// The widest of them, or the one that VITSOM_CPU_ISA names. Throws std::runtime_error if that one cannot run.
const Kernels& select_kernels();

}  // namespace vitsom

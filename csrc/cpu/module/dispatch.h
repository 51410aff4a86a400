// Which build of the kernels this processor runs, and what the environment says of it.
#pragma once

#include <string>
#include <vector>

#include "cpu/module/kernel_table.h"

namespace vitsom {

// The builds that this processor can run, the widest first; the last one runs everywhere.
std::vector<const Kernels*> supported_kernels();

// The widest of them, or the one that VITSOM_CPU_ISA names. Throws std::runtime_error if that one cannot run.
const Kernels& select_kernels();

// What VITSOM_CPU_PRUNING says at this moment, for comparisons and for tests that insist. Throws std::invalid_argument if that is
// none of its choices. Asked here, since Python's os.environ takes 4 us: a tenth of a search of a small map.
Pruning select_pruning();

}  // namespace vitsom

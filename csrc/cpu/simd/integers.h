// Small sums of sizes.
#pragma once

#include <cstdint>

namespace vitsom {
namespace VITSOM_ISA {

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

}  // namespace VITSOM_ISA
}  // namespace vitsom

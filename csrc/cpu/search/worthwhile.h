// The sizes from which codes, and what is made of them, pay.
#pragma once

#include <cstdint>

namespace vitsom {
namespace VITSOM_ISA {

// Below these, coding takes longer than it saves: 128 x 256 x 64 breaks even, 4096 x 256 x 32 takes 1.3 times as long as fp32.
constexpr std::int64_t LEAST_SAMPLES = 64, LEAST_PROTOTYPES = 256, LEAST_DIM = 64, LEAST_PRODUCTS = 1 << 21;

}  // namespace VITSOM_ISA
}  // namespace vitsom

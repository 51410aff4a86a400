// The instructions that multiply short numbers: four int8 or two bf16 of a 32-bit word at a time.
#pragma once

#include <immintrin.h>

#include "cpu/simd/vector.h"

namespace vitsom {
namespace VITSOM_ISA {

// Adds the products of four unsigned and four signed bytes of each word.
inline Ints add_byte_products(Ints sum, Bits unsigned_bytes, Bits signed_bytes) {
    return reinterpret_cast<Ints>(_mm512_dpbusd_epi32(
        reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(unsigned_bytes), reinterpret_cast<__m512i>(signed_bytes)));
}

#if defined(__AVX512BF16__)
// Adds the products of two bf16 numbers of each word; a subnormal counts as 0.
inline Vec add_bf16_products(Vec sum, Bits a, Bits b) {
    return reinterpret_cast<Vec>(_mm512_dpbf16_ps(
        reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
}
#endif

}  // namespace VITSOM_ISA
}  // namespace vitsom

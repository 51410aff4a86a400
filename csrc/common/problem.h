// What every module of kernels is asked about, in plain pointers and sizes. All offsets are 64-bit.
#pragma once

#include <cstdint>

namespace vitsom {

enum class DType : int { float32 = 0, bfloat16 = 1, float16 = 2 };

// Rows of so many elements, each contiguous.
struct Matrix {
    const void* data;
    std::int64_t stride;  // elements from one row to the next; may be 0 (an expanded row)
    DType dtype;
};

// h[(r, c), (s, d)] = sum over t of row_factors[t, r, s] * col_factors[t, c, d]; unit k = r * cols + c
struct Neighborhood {
    std::int64_t rows, cols, terms;
    const float* row_factors;  // [terms, rows, rows]
    const float* col_factors;  // [terms, cols, cols]
};

}  // namespace vitsom

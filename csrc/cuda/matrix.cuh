// The matrix instructions that CUDA C++ has no function for: wmma hides which lane holds what, so that an epilogue would have to
// take its scores through shared memory.
//
// In all of them lane l holds the pair of columns 2 (l % 4) of row l / 4 of an 8 x 8 matrix.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace vitsom::cuda {

// Four matrices of 8 x 8 halves; lane l says where row l % 8 of matrix l / 8 is, 16 bytes in shared memory.
__device__ inline void load_matrices(unsigned (&to)[4], const __half* row) {
#if __CUDA_ARCH__ < 800
    __syncwarp();  // nothing is loaded earlier than here: without asynchronous copies registers are short
#endif
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

// sum += left right of 16 x 16 times 16 x 8. left: its upper and lower rows, of the first eight columns and then of the last;
// right, by column: its first eight rows, its last; sum: two numbers of the upper rows, two of the lower.
__device__ inline void multiply_add(float (&sum)[4], const unsigned (&left)[4], const unsigned* right) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
#else
    for (int half = 0; half < 2; ++half) {
        asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(left[2 * half]), "r"(left[2 * half + 1]), "r"(right[half]));
    }
#endif
}

}  // namespace vitsom::cuda

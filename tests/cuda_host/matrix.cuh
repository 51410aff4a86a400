// The matrix instructions on the host: the lanes hold what they hold on the device.
#pragma once

#include "cuda_fp16.h"

namespace vitsom::cuda {

inline void load_matrices(unsigned (&to)[4], const __half* row) {
    struct Brought {
        unsigned (&to)[4];
        const __half* row;
    } mine{to, row};
    if (reinterpret_cast<std::uintptr_t>(row) % 16) __builtin_trap();
    host::warp_operation(0xffffffffu, &mine, [](void* const (&all)[32], unsigned) {
        for (int lane = 0; lane < 32; ++lane) {
            for (int matrix = 0; matrix < 4; ++matrix) {
                const __half* from = static_cast<const Brought*>(all[matrix * 8 + lane / 4])->row + lane % 4 * 2;
                std::memcpy(&static_cast<Brought*>(all[lane])->to[matrix], from, sizeof(unsigned));
            }
        }
    });
}

namespace emulated {

// A tensor core cuts off what does not fit when it adds, here after every eight products: the worst that is known of one.
inline float truncated(double exact) {
    const float rounded = static_cast<float>(exact);
    const bool is_beyond = std::fabs(static_cast<double>(rounded)) > std::fabs(exact);
    return __uint_as_float(__float_as_uint(rounded) - is_beyond);  // the next one towards zero
}

// sum [m][n] += left [m][k] * right [k][n], and truncated on the way.
__attribute__((optimize("O3"), target_clones("avx2", "default"))) inline void multiply(
    float (&sum)[16][8], const float (&left)[16][16], const double (&right)[16][8]) {
    for (int m = 0; m < 16; ++m) {
        double row[8];
        for (int n = 0; n < 8; ++n) row[n] = sum[m][n];
        for (int half = 0; half < 2; ++half) {
            for (int k = 8 * half; k < 8 * half + 8; ++k) {
                for (int n = 0; n < 8; ++n) row[n] += left[m][k] * right[k][n];
            }
            for (int n = 0; n < 8; ++n) row[n] = truncated(row[n]);
        }
        for (int n = 0; n < 8; ++n) sum[m][n] = static_cast<float>(row[n]);
    }
}

inline float half_of(unsigned pair, int index) {
    return __half2float({static_cast<std::uint16_t>(pair >> 16 * index)});
}

}  // namespace emulated

inline void multiply_add(float (&sum)[4], const unsigned (&left)[4], const unsigned* right) {
    struct Brought {
        float* sum;
        const unsigned *left, *right;
    } mine{sum, left, right};
    host::warp_operation(0xffffffffu, &mine, [](void* const (&all)[32], unsigned) {
        unsigned any_left = 0, any_right = 0;
        for (void* one : all) {
            const auto* of = static_cast<const Brought*>(one);
            for (int j = 0; j < 4; ++j) any_left |= of->left[j];
            for (int j = 0; j < 2; ++j) any_right |= of->right[j];
        }
        if (any_left == 0 || any_right == 0) return;  // of a small case, most of a tile is zero
        float sums[16][8], lefts[16][16];
        double rights[16][8];
        for (int lane = 0; lane < 32; ++lane) {
            const auto* of = static_cast<const Brought*>(all[lane]);
            const int row = lane / 4, pair = lane % 4 * 2;
            for (int j = 0; j < 2; ++j) {
                for (int quarter = 0; quarter < 4; ++quarter) {
                    lefts[row + quarter % 2 * 8][pair + quarter / 2 * 8 + j] = emulated::half_of(of->left[quarter], j);
                }
                for (int half = 0; half < 2; ++half) {
                    rights[pair + half * 8 + j][row] = emulated::half_of(of->right[half], j);
                    sums[row + half * 8][pair + j] = of->sum[half * 2 + j];
                }
            }
        }
        emulated::multiply(sums, lefts, rights);
        for (int lane = 0; lane < 32; ++lane) {
            for (int e = 0; e < 4; ++e) {
                static_cast<const Brought*>(all[lane])->sum[e] = sums[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2];
            }
        }
    });
}

}  // namespace vitsom::cuda

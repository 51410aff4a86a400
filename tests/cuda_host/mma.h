// wmma on the host: a fragment is spread over the lanes of a warp, eight of its numbers each, half a row.
#pragma once

#include "cuda_fp16.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
    static_assert(M == 16 && N == 16 && K == 16);
    static constexpr int num_elements = 8;
    float x[num_elements];
};

template <class F>
void fill_fragment(F& fragment, float value) {
    for (float& x : fragment.x) x = value;
}

// The tile must be aligned to 32 bytes and its pitch to 16, as on the device.
template <class T>
void check_tile(const T* tile, unsigned pitch) {
    if (reinterpret_cast<std::uintptr_t>(tile) % 32 || pitch * sizeof(T) % 16) __builtin_trap();
}

template <class Use, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, __half, Layout>& to, const __half* tile, unsigned pitch) {
    check_tile(tile, pitch);
    const int row = host::lane() / 2, first = host::lane() % 2 * 8;
    for (int j = 0; j < 8; ++j) to.x[j] = __half2float(tile[row * pitch + first + j]);
}

inline void store_matrix_sync(
    float* tile, const fragment<accumulator, 16, 16, 16, float>& from, unsigned pitch, layout_t) {
    check_tile(tile, pitch);
    const int row = host::lane() / 2, first = host::lane() % 2 * 8;
    for (int j = 0; j < 8; ++j) tile[row * pitch + first + j] = from.x[j];
}

// A tensor core cuts off what does not fit when it adds, here after every eight products: the worst that is known of one.
inline float truncated(double exact) {
    const float rounded = static_cast<float>(exact);
    const bool is_beyond = std::fabs(static_cast<double>(rounded)) > std::fabs(exact);
    return __uint_as_float(__float_as_uint(rounded) - is_beyond);  // the next one towards zero
}

using A = fragment<matrix_a, 16, 16, 16, __half, row_major>;
using B = fragment<matrix_b, 16, 16, 16, __half, col_major>;
using C = fragment<accumulator, 16, 16, 16, float>;

// sum [m][n] += left [m][k] * right [k][n], and truncated on the way.
__attribute__((optimize("O3"), target_clones("avx2", "default"))) inline void multiply(
    float (&sum)[16][16], const float (&left)[16][16], const double (&right)[16][16]) {
    for (int m = 0; m < 16; ++m) {
        double row[16];
        for (int n = 0; n < 16; ++n) row[n] = sum[m][n];
        for (int half = 0; half < 2; ++half) {
            for (int k = 8 * half; k < 8 * half + 8; ++k) {
                for (int n = 0; n < 16; ++n) row[n] += left[m][k] * right[k][n];
            }
            for (int n = 0; n < 16; ++n) row[n] = truncated(row[n]);
        }
        for (int n = 0; n < 16; ++n) sum[m][n] = static_cast<float>(row[n]);
    }
}

inline void mma_sync(C& d, const A& a, const B& b, const C& c) {
    struct Brought {
        C* d;
        const A* a;
        const B* b;
        const C* c;
    } mine{&d, &a, &b, &c};
    host::warp_operation(0xffffffffu, &mine, [](void* const (&all)[32], unsigned) {
        float sum[16][16], left[16][16];
        double right[16][16];
        bool is_left_zero = true, is_right_zero = true;
        for (int lane = 0; lane < 32; ++lane) {
            const auto* of = static_cast<const Brought*>(all[lane]);
            for (int j = 0; j < 8; ++j) {
                sum[lane / 2][lane % 2 * 8 + j] = of->c->x[j];
                left[lane / 2][lane % 2 * 8 + j] = of->a->x[j];
                right[lane % 2 * 8 + j][lane / 2] = of->b->x[j];  // a column of b is a row in memory
                is_left_zero = is_left_zero && of->a->x[j] == 0;
                is_right_zero = is_right_zero && of->b->x[j] == 0;
            }
        }
        if (!is_left_zero && !is_right_zero) multiply(sum, left, right);  // of a small case, most of a tile is zero
        for (int lane = 0; lane < 32; ++lane) {
            const auto* of = static_cast<const Brought*>(all[lane]);
            for (int j = 0; j < 8; ++j) of->d->x[j] = sum[lane / 2][lane % 2 * 8 + j];
        }
    });
}

}  // namespace nvcuda::wmma

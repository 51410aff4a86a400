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
    if (std::fabs(static_cast<double>(rounded)) <= std::fabs(exact)) return rounded;
    return __uint_as_float(__float_as_uint(rounded) - 1);  // the next one towards zero
}

using A = fragment<matrix_a, 16, 16, 16, __half, row_major>;
using B = fragment<matrix_b, 16, 16, 16, __half, col_major>;
using C = fragment<accumulator, 16, 16, 16, float>;

inline void mma_sync(C& d, const A& a, const B& b, const C& c) {
    struct Brought {
        C* d;
        const A* a;
        const B* b;
        const C* c;
    } mine{&d, &a, &b, &c};
    host::warp_operation(0xffffffffu, &mine, [](void* const (&all)[32], unsigned) {
        const auto of = [&](int lane) { return static_cast<const Brought*>(all[lane]); };
        double right[16][16];  // [k][n]
        for (int n = 0; n < 16; ++n) {
            for (int k = 0; k < 16; ++k) right[k][n] = of(2 * n + k / 8)->b->x[k % 8];
        }
        for (int m = 0; m < 16; ++m) {
            double sum[16];
            for (int n = 0; n < 16; ++n) sum[n] = of(2 * m + n / 8)->c->x[n % 8];
            for (int k = 0; k < 16; ++k) {
                const double left = of(2 * m + k / 8)->a->x[k % 8];
                for (int n = 0; n < 16; ++n) sum[n] += left * right[k][n];
                if (k % 8 == 7) {
                    for (int n = 0; n < 16; ++n) sum[n] = truncated(sum[n]);
                }
            }
            for (int n = 0; n < 16; ++n) of(2 * m + n / 8)->d->x[n % 8] = static_cast<float>(sum[n]);
        }
    });
}

}  // namespace nvcuda::wmma

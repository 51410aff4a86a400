// Rows of a matrix, four features at a time: 16-byte loads of fp32 where the addresses allow it, and fp64 sums over a block.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels.h"

namespace vitsom::cuda {

constexpr double EPS = 1e-12;  // of torch.nn.functional.normalize
constexpr int WARP = 32;
constexpr unsigned FULL_WARP = 0xffffffffu;

__host__ __device__ inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }

template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) { return x; }
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <>
__device__ inline __half from_float<__half>(float x) { return __float2half_rn(x); }

// Four features in the dtype of their row, moved as one.
template <class T>
struct alignas(4 * sizeof(T)) Quad {
    T x, y, z, w;
};

template <class T>
struct Rows {
    T* data;
    std::int64_t stride, dim;
    bool aligned;  // every quad of every row lies whole in memory, at an address that is a multiple of its size

    using Element = std::remove_const_t<T>;

    // Zeros beyond the end of the row.
    __device__ float4 load(std::int64_t row, std::int64_t d) const {
        const Element* x = data + row * stride + d;
        if (aligned) {
            if (d >= dim) return {0, 0, 0, 0};
            const Quad<Element> q = *reinterpret_cast<const Quad<Element>*>(x);
            return {to_float(q.x), to_float(q.y), to_float(q.z), to_float(q.w)};
        }
        const auto at = [&](int j) { return d + j < dim ? to_float(x[j]) : 0.0f; };
        return {at(0), at(1), at(2), at(3)};
    }

    __device__ void store(std::int64_t row, std::int64_t d, float4 v) const {
        T* x = data + row * stride + d;
        if (aligned) {
            if (d >= dim) return;
            const Quad<T> q{from_float<T>(v.x), from_float<T>(v.y), from_float<T>(v.z), from_float<T>(v.w)};
            *reinterpret_cast<Quad<T>*>(x) = q;
            return;
        }
        if (d < dim) x[0] = from_float<T>(v.x);
        if (d + 1 < dim) x[1] = from_float<T>(v.y);
        if (d + 2 < dim) x[2] = from_float<T>(v.z);
        if (d + 3 < dim) x[3] = from_float<T>(v.w);
    }
};

template <class T>
Rows<T> make_rows(T* data, std::int64_t stride, std::int64_t dim) {
    const bool aligned =
        reinterpret_cast<std::uintptr_t>(data) % (4 * sizeof(T)) == 0 && stride % 4 == 0 && dim % 4 == 0;
    return {data, stride, dim, aligned};
}

template <class T>
Rows<const T> make_rows(const Matrix& matrix, std::int64_t dim) {
    return make_rows(static_cast<const T*>(matrix.data), matrix.stride, dim);
}

// Calls f with a zero of the type that the dtype names.
template <class F>
void by_dtype(DType dtype, const F& f) {
    switch (dtype) {
        case DType::float32: return f(float{});
        case DType::bfloat16: return f(__nv_bfloat16{});
        case DType::float16: return f(__half{});
    }
}

__device__ inline float4 operator*(float a, float4 v) { return {a * v.x, a * v.y, a * v.z, a * v.w}; }
__device__ inline float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

// In fp64: the squares of values near 1e30 are beyond fp32, and where 1 - cos cancels the rounding of a sum would show.
__device__ inline double dot(float4 a, float4 b) {
    return static_cast<double>(a.x) * b.x + static_cast<double>(a.y) * b.y + static_cast<double>(a.z) * b.z +
           static_cast<double>(a.w) * b.w;
}

// The sum over a warp or a block of whole warps, in an order that never changes; every thread gets it.
__device__ inline double warp_sum(double value) {
    for (int apart = WARP / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(FULL_WARP, value, apart);
    return value;
}

__device__ inline double block_sum(double value) {
    __shared__ double partial[WARP];
    value = warp_sum(value);
    __syncthreads();  // an earlier sum has been read
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = value;
    __syncthreads();
    double total = 0;
    for (unsigned warp = 0; warp < blockDim.x / WARP; ++warp) total += partial[warp];
    return total;
}

// How rows are dealt out to blocks: short ones to a warp each, for what is done once a row is then done by one warp and not by
// all; long ones to a block each. Every thread takes four features at a time.
struct RowThreads {
    static constexpr int BLOCK = 256, SHORT = 512;

    std::int64_t rows;
    int apart;  // features between two that a thread takes

    RowThreads(std::int64_t rows, std::int64_t dim) : rows(rows), apart(4 * (dim <= SHORT ? WARP : BLOCK)) {}

    std::int64_t blocks() const { return ceil_div(rows * (apart / 4), BLOCK); }

    __device__ std::int64_t row() const {
        return apart == 4 * WARP ? blockIdx.x * static_cast<std::int64_t>(BLOCK / WARP) + threadIdx.x / WARP : blockIdx.x;
    }
    __device__ int first_feature() const { return static_cast<int>(4 * threadIdx.x) % apart; }
    __device__ double sum(double value) const { return apart == 4 * WARP ? warp_sum(value) : block_sum(value); }
};

// max(|x|, eps) of a row with this squared norm, NaN where the row is not finite.
__device__ inline double clamped_norm(double squared) {
    if (!isfinite(squared)) return nan("");
    return squared < EPS * EPS ? EPS : sqrt(squared);
}

// Rows may be longer than any fp32 number, and 1 / |x| then less than what fp32 has all bits for: it is kept LIFT times as large.
// A feature times that is at most LIFT, and never loses bits either.
constexpr float LIFT = 0x1p50f, DROP = 0x1p-50f;

__device__ inline float lifted(double inverse) { return static_cast<float>(inverse * LIFT); }
__device__ inline float4 normalised(float4 x, float lifted_inverse) { return DROP * (lifted_inverse * x); }

}  // namespace vitsom::cuda

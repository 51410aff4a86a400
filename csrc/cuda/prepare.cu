// Norms of the rows, and the rows as the tensor cores take them.
#include "launch.h"
#include "steps.h"

namespace vitsom::cuda {
namespace {

constexpr int NORM_EXPONENT = 11;

__device__ void store_halves(__half* to, const __half (&v)[4]) {
    *reinterpret_cast<Quad<__half>*>(to) = {v[0], v[1], v[2], v[3]};
}

// A block a row. Scaled by a power of two nothing is rounded but the parts below 2^-36 of the norm: the products of 16-bit
// inputs stay exact, and those of fp32 inputs are exact to the lo * lo that the search leaves out, 2^-22.
template <class T>
__global__ void pack_rows(Rows<const T> x, Packed out, Best* best) {
    const std::int64_t row = blockIdx.x;
    double squared = 0;
    for (std::int64_t d = 4 * threadIdx.x; d < x.dim; d += 4 * blockDim.x) {
        const float4 v = x.load(row, d);
        squared += dot(v, v);
    }
    squared = block_sum(squared);
    const bool is_usable = squared > 0 && isfinite(squared);
    const double scale = is_usable ? scalbn(1.0, NORM_EXPONENT - ilogb(sqrt(squared))) : 1.0;
    const int features = PACKED_STEP / out.planes;
    for (std::int64_t d = 4 * threadIdx.x; d < out.pitch / out.planes; d += 4 * blockDim.x) {
        const float4 v = x.load(row, d);
        const float values[4] = {v.x, v.y, v.z, v.w};
        __half hi[4], lo[4];
        for (int j = 0; j < 4; ++j) {
            const float scaled = is_usable ? static_cast<float>(values[j] * scale) : 0.0f;
            hi[j] = __float2half_rn(scaled);
            lo[j] = __float2half_rn(scaled - __half2float(hi[j]));
        }
        __half* to = out.halves + row * out.pitch + d / features * PACKED_STEP + d % features;
        store_halves(to, hi);
        if (out.planes == 2) store_halves(to + features, lo);
    }
    if (threadIdx.x == 0) {
        const double norm = clamped_norm(squared);
        out.inverse[row] = static_cast<float>(1.0 / norm);
        out.packed_inverse[row] = static_cast<float>(1.0 / (norm * scale));
        if (best) best[row] = 0;
    }
}

template <class T>
void pack_as(
    const Matrix& x, std::int64_t rows, std::int64_t dim, const Packed& out, Best* best, cudaStream_t stream) {
    launch("pack_rows", pack_rows<T>, rows, threads_for(dim), stream, make_rows<T>(x, dim), out, best);
}

}  // namespace

void pack(
    const Matrix& x, DType dtype, std::int64_t rows, std::int64_t dim, const Packed& out, Best* best, cudaStream_t stream) {
    by_dtype(dtype, [&](auto zero) { pack_as<decltype(zero)>(x, rows, dim, out, best, stream); });
}

}  // namespace vitsom::cuda

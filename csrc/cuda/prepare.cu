// Norms of the rows, and the rows as the tensor cores take them.
#include "launch.h"
#include "steps.h"

namespace vitsom::cuda {
namespace {

constexpr int NORM_EXPONENT = 11;

__device__ void store_halves(__half* to, const __half (&v)[4]) {
    *reinterpret_cast<Quad<__half>*>(to) = {v[0], v[1], v[2], v[3]};
}

// Scaled by a power of two nothing is rounded but the parts below 2^-36 of the norm: the products of 16-bit inputs stay exact,
// and those of fp32 inputs are exact to the lo * lo that the search leaves out, 2^-22.
template <class T>
__global__ void __launch_bounds__(RowThreads::BLOCK) pack_rows(RowThreads threads, Rows<const T> x, Packed out, Best* best) {
    constexpr int PLANES = sizeof(T) == sizeof(float) ? 2 : 1, FEATURES = PACKED_STEP / PLANES;
    const std::int64_t row = threads.row();
    if (row >= threads.rows) return;
    double squared = 0;
    for (std::int64_t d = threads.first_feature(); d < x.dim; d += threads.apart) {
        const float4 v = x.load(row, d);
        squared += dot(v, v);
    }
    squared = threads.sum(squared);
    const bool is_usable = squared > 0 && isfinite(squared);
    const int exponent = is_usable ? NORM_EXPONENT - (ilogb(squared) >> 1) : 0;
    const double scale = scalbn(1.0, exponent);
    for (std::int64_t d = threads.first_feature(); d < out.pitch / PLANES; d += threads.apart) {
        const float4 v = x.load(row, d);
        const float values[4] = {v.x, v.y, v.z, v.w};
        __half hi[4], lo[4];
        for (int j = 0; j < 4; ++j) {
            const float scaled = is_usable ? static_cast<float>(values[j] * scale) : 0.0f;
            hi[j] = __float2half_rn(scaled);
            lo[j] = __float2half_rn(scaled - __half2float(hi[j]));
        }
        __half* to = out.halves + row * out.pitch + d / FEATURES * PACKED_STEP + d % FEATURES;
        store_halves(to, hi);
        if (PLANES == 2) store_halves(to + FEATURES, lo);
    }
    if (threads.first_feature() == 0) {
        const double inverse = 1.0 / clamped_norm(squared);
        out.inverse[row] = lifted(inverse);
        if (out.inverse_rest) out.inverse_rest[row] = static_cast<float>(inverse * LIFT - lifted(inverse));
        out.packed_inverse[row] = static_cast<float>(scalbn(inverse, -exponent));
        if (best) best[row] = 0;
    }
}

}  // namespace

void pack(
    const Matrix& x, std::int64_t rows, std::int64_t dim, const Packed& out, Best* best, cudaStream_t stream) {
    const RowThreads threads(rows, dim);
    by_dtype(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        launch(
            "pack_rows", pack_rows<T>, threads.blocks(), RowThreads::BLOCK, stream, threads, make_rows<T>(x, dim), out, best);
    });
}

}  // namespace vitsom::cuda

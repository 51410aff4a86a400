// The end of a backward pass: gradients taken through the normalisation.
#include "launch.h"
#include "steps.h"

namespace vitsom::cuda {
namespace {

// A factor in two, each of half its exponent: what they multiply, one after the other, overflows or underflows only where the
// result does.
struct Factor {
    float first, second;

    __device__ explicit Factor(double factor) {
        const double half = factor != 0 && isfinite(factor) ? scalbn(1.0, ilogb(factor) / 2) : 1.0;
        first = static_cast<float>(factor / half);
        second = static_cast<float>(half);
    }
    __device__ float4 operator*(float4 v) const { return second * (first * v); }
};

// Below eps the normalisation is linear and nothing is projected away.
template <class T>
__global__ void __launch_bounds__(RowThreads::BLOCK) project_row(
    RowThreads threads, Rows<const T> x, Rows<const float> pull, double scale, const float* grad_loss, Rows<T> out) {
    const std::int64_t row = threads.row();
    if (row >= threads.rows) return;
    double squared = 0, along = 0;
    for (std::int64_t d = threads.first_feature(); d < x.dim; d += threads.apart) {
        const float4 v = x.load(row, d), p = pull.load(row, d);
        squared += dot(v, v);
        along += dot(v, p);
    }
    squared = threads.sum(squared);
    along = threads.sum(along);
    const double inverse = 1.0 / clamped_norm(squared);
    const float inner = squared < EPS * EPS ? 0.0f : static_cast<float>(-along * inverse), unit = lifted(inverse);
    const Factor outer(-scale * *grad_loss * inverse);
    for (std::int64_t d = threads.first_feature(); d < x.dim; d += threads.apart) {
        out.store(row, d, outer * (pull.load(row, d) + inner * normalised(x.load(row, d), unit)));
    }
}

}  // namespace

void project(
    const Matrix& x, std::int64_t rows, std::int64_t dim, const Rows<const float>& pull, double scale,
    const float* grad_loss, void* out, cudaStream_t stream) {
    const RowThreads threads(rows, dim);
    by_dtype(x.dtype, [&](auto zero) {
        using T = decltype(zero);
        launch(
            "project_row", project_row<T>, threads.blocks(), RowThreads::BLOCK, stream, threads, make_rows<T>(x, dim), pull,
            scale, grad_loss, make_rows(static_cast<T*>(out), dim, dim));
    });
}

}  // namespace vitsom::cuda

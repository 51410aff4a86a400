// The Gaussian of the neighborhood in one launch; PyTorch's operations take nine where the temperature is on the device.
#include "launch.h"
#include "steps.h"

namespace vitsom::cuda {
namespace {

constexpr int THREADS = 256;

// 1 / T^2 is neither 0 nor infinite; so narrow or wide a Gaussian is a delta or a constant already.
constexpr double SMALLEST_TEMPERATURE = 1e-18, LARGEST_TEMPERATURE = 1e18;

__global__ void weigh_offsets(
    const float* squared_offsets, std::int64_t count, double radius, const float* temperature, float* weights) {
    const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= count) return;
    if (temperature) radius = *temperature;
    const double clamped = fmin(fmax(radius, SMALLEST_TEMPERATURE), LARGEST_TEMPERATURE);
    const double exponent = squared_offsets[i] * (-0.5 / (clamped * clamped));
    weights[i] = radius > 0 ? expf(static_cast<float>(exponent)) : nanf("");
}

}  // namespace

void gaussian_weights(
    const Execution& on, const float* squared_offsets, std::int64_t count, double radius, const float* temperature,
    float* weights) {
    const DeviceGuard guard(on.device);
    launch(
        "weigh_offsets", weigh_offsets, ceil_div(count, THREADS), THREADS, static_cast<cudaStream_t>(on.stream),
        squared_offsets, count, radius, temperature, weights);
}

}  // namespace vitsom::cuda

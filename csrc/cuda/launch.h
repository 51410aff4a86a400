// Launching a kernel on the caller's stream, and saying which one failed.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

namespace vitsom::cuda {

inline void check(const char* what, cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// A grid of one dimension, the only one that reaches 2^31 - 1 blocks; no blocks are no launch.
template <class... Parameters, class... Arguments>
void launch(
    const char* name, void (*kernel)(Parameters...), std::int64_t blocks, int threads, cudaStream_t stream,
    const Arguments&... arguments) {
    if (blocks == 0) return;
    if (blocks > std::numeric_limits<std::int32_t>::max()) {
        throw std::invalid_argument(std::string(name) + ": a grid of " + std::to_string(blocks) + " blocks is beyond CUDA's");
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = stream;
    check(name, cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

// Makes a device current for the life of the guard.
class DeviceGuard {
public:
    explicit DeviceGuard(int device) {
        check("cudaGetDevice", cudaGetDevice(&before_));
        if (device != before_) check("cudaSetDevice", cudaSetDevice(device));
        else before_ = -1;
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;
    ~DeviceGuard() {
        if (before_ >= 0) cudaSetDevice(before_);
    }

private:
    int before_ = -1;
};

}  // namespace vitsom::cuda

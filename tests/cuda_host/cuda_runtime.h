// CUDA's language and runtime as far as csrc/cuda uses them, on the host: a block runs its threads as fibers, one at a time.
//
// A fiber runs until it meets a barrier or a warp operation, and waits there for the others: what one thread reads before a
// barrier that another writes before the same barrier depends on the order of the threads, which alternates (threads.cpp).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define CUDART_VERSION 13000
#define __CUDA_ARCH_LIST__ 750

#define __global__
#define __device__
#define __host__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static  // the sanitizer puts guards around these, but not around thread-local variables
#else
#define __shared__ static thread_local  // the thread-local memory of the module is all shared memory, and poisoned as such
#endif

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline dim3 threadIdx(0, 0, 0), blockIdx(0, 0, 0), blockDim, gridDim;

using std::isfinite;
using std::nanf;

namespace host {

// Throws where threads wait for each other for good.
using Run = void (*)(const void* kernel);
void run_grid(unsigned blocks, unsigned threads, Run run, const void* kernel);

void block_barrier();

// Waits for all lanes of the mask; the last to come calls `act` with what each lane of the warp brought.
using Act = void (*)(void* const (&brought)[32], unsigned mask);
void warp_operation(unsigned mask, void* brought, Act act);

template <class T, class From>
T shuffle(unsigned mask, T value, int lane, From from) {
    struct Brought {
        T in, out;
        int from;
    } mine{value, value, from(lane)};
    warp_operation(mask, &mine, [](void* const (&all)[32], unsigned mask) {
        for (int lane = 0; lane < 32; ++lane) {
            if (!(mask >> lane & 1)) continue;
            auto* to = static_cast<Brought*>(all[lane]);
            if (to->from >= 0 && to->from < 32 && (mask >> to->from & 1)) to->out = static_cast<Brought*>(all[to->from])->in;
        }
    });
    return mine.out;
}

inline int lane() { return static_cast<int>(threadIdx.x % 32); }

}  // namespace host

inline void __syncthreads() { host::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    host::warp_operation(mask, nullptr, [](void* const (&)[32], unsigned) {});
}

template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
    return host::shuffle(mask, value, host::lane(), [from](int) { return from; });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return host::shuffle(mask, value, host::lane(), [bits](int lane) { return lane ^ bits; });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int apart) {
    return host::shuffle(mask, value, host::lane(), [apart](int lane) { return lane - apart; });
}
inline unsigned __match_any_sync(unsigned mask, int value) {
    struct Brought {
        int value;
        unsigned peers;
    } mine{value, 0};
    host::warp_operation(mask, &mine, [](void* const (&all)[32], unsigned mask) {
        for (int lane = 0; lane < 32; ++lane) {
            for (int other = 0; other < 32; ++other) {
                if (!(mask >> lane & 1) || !(mask >> other & 1)) continue;
                auto* to = static_cast<Brought*>(all[lane]);
                if (to->value == static_cast<Brought*>(all[other])->value) to->peers |= 1u << other;
            }
        }
    });
    return mine.peers;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

template <class T>
T atomicAdd(T* address, T value) {
    const T before = *address;
    *address = before + value;
    return before;
}
template <class T>
T atomicMin(T* address, T value) {
    const T before = *address;
    if (value < before) *address = value;
    return before;
}
template <class T>
T atomicMax(T* address, T value) {
    const T before = *address;
    if (value > before) *address = value;
    return before;
}

// The runtime: one device of one processor, where every launch has finished when it returns.
enum cudaError_t { cudaSuccess };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
using cudaStream_t = void*;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    cudaStream_t stream;
};

inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 1, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }

template <class... Parameters>
cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), std::common_type_t<Parameters>... arguments) {
    const auto call = [&] { kernel(arguments...); };
    host::run_grid(
        config->gridDim.x, config->blockDim.x, [](const void* kernel) { (*static_cast<decltype(&call)>(kernel))(); }, &call);
    return cudaSuccess;
}

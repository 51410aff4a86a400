// Results too large to be in cache when they are read next are written past it: memory that is not fetched only to be
// overwritten takes a third of the traffic away.
#pragma once

#include <cstdint>

#include "cpu/problem.h"
#include "cpu/simd/vector.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace vitsom {
namespace VITSOM_ISA {

// Bytes of a result that are not expected to stay in cache.
constexpr std::int64_t STREAMED_BYTES = 8 << 20;

// Whether rows of `count` elements each, `total` in all, can be written past the cache and are better so.
inline bool is_streamed(const void* out, DType dtype, std::int64_t count, std::int64_t total) {
    return dtype == DType::float32 && total * static_cast<std::int64_t>(sizeof(float)) >= STREAMED_BYTES && count % WIDTH == 0 &&
           reinterpret_cast<std::uintptr_t>(out) % sizeof(Vec) == 0;
}

// `out` is aligned to a vector. Other threads see it once `finish_stream` has run.
template <class T>
void stream(T* out, Vec v) {
    store(out, v);
}

inline void stream(float* out, Vec v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(out, v);
#elif defined(__AVX__)
    _mm256_stream_ps(out, v);
#elif defined(__SSE2__)
    _mm_stream_ps(out, v);
#else
    store(out, v);
#endif
}

inline void finish_stream() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

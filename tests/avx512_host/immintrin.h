// The AVX-512 instructions that csrc/cpu uses, for whatever the host has: first on the path of headers, before the real ones.
//
// Results are those of the instructions but for the payload of a NaN, and where the product of two bf16 numbers is subnormal
// and the host has no FMA. An address that must be aligned is checked, and what a mask leaves out is not read.
//
// The work is done by functions of their own, which are not inlined: within tiles of 12 x 32 sums that takes minutes.
// They go by vectors that the host has, since GCC takes wider ones through memory, word by word, to read them as another type.
#pragma once

#include <xmmintrin.h>  // _mm_sfence, which every host has

#include <cstdint>
#include <cstring>

typedef float __m256 __attribute__((vector_size(32), may_alias));
typedef float __m512 __attribute__((vector_size(64), may_alias));
typedef double __m512d __attribute__((vector_size(64), may_alias));
typedef long long __m512i __attribute__((vector_size(64), may_alias));
typedef short __m512bh __attribute__((vector_size(64), may_alias));
typedef unsigned char __mmask8;
typedef unsigned short __mmask16;

// Comparisons that are false where one is NaN.
enum { _CMP_EQ_OQ = 0, _CMP_LT_OQ = 17, _CMP_LE_OQ = 18, _CMP_GE_OQ = 29, _CMP_GT_OQ = 30 };

namespace avx512_host {

#if defined(__AVX2__)
#define VITSOM_NATIVE __attribute__((vector_size(32), may_alias))
#else
#define VITSOM_NATIVE __attribute__((vector_size(16), may_alias))
#endif
typedef std::int32_t Ints VITSOM_NATIVE;
typedef std::uint32_t Words VITSOM_NATIVE;
typedef std::int16_t Shorts VITSOM_NATIVE;
typedef std::uint16_t Halves VITSOM_NATIVE;
typedef float Floats VITSOM_NATIVE;
#undef VITSOM_NATIVE

constexpr int PARTS = 64 / sizeof(Ints), LANES = sizeof(Ints) / 4;  // native vectors of an emulated one, and lanes of each

alignas(64) constexpr std::int32_t BIT[16] = {1 << 0, 1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                              1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};

#define VITSOM_INLINE static inline __attribute__((always_inline))
#define VITSOM_CALLED static __attribute__((noinline, unused))

template <class Part, class Vector>
VITSOM_INLINE Part* parts(Vector& v) {
    return reinterpret_cast<Part*>(&v);
}

template <class Part, class Vector>
VITSOM_INLINE const Part* parts(const Vector& v) {
    return reinterpret_cast<const Part*>(&v);
}

// All ones in the lanes of a mask.
VITSOM_INLINE Ints lanes_of(__mmask16 mask, int part) { return (parts<Ints>(BIT)[part] & mask) != 0; }

template <class Compare>
VITSOM_INLINE __mmask16 mask_where(const __m512& a, const __m512& b, const Compare& compare) {
    Ints bits{};
    for (int i = 0; i < PARTS; ++i) bits |= compare(parts<Floats>(a)[i], parts<Floats>(b)[i]) & parts<Ints>(BIT)[i];
    int mask = 0;
    for (int lane = 0; lane < LANES; ++lane) mask |= bits[lane];
    return static_cast<__mmask16>(mask);
}

VITSOM_CALLED __mmask16 equal(const __m512& a, const __m512& b) {
    return mask_where(a, b, [](Floats x, Floats y) { return x == y; });
}

VITSOM_CALLED __mmask16 less(const __m512& a, const __m512& b) {
    return mask_where(a, b, [](Floats x, Floats y) { return x < y; });
}

VITSOM_CALLED __mmask16 less_equal(const __m512& a, const __m512& b) {
    return mask_where(a, b, [](Floats x, Floats y) { return x <= y; });
}

// Of numbers that fit into 16 bits, and whose products do, the products of the two of each word added.
VITSOM_INLINE Ints multiply_pairs(Shorts a, Shorts b) {
    const auto products = reinterpret_cast<Ints>(a * b);
    return ((products << 16) >> 16) + (products >> 16);
}

VITSOM_CALLED void add_byte_products(__m512i& sum, const __m512i& a, const __m512i& b) {
    for (int i = 0; i < PARTS; ++i) {
        const Halves x = parts<Halves>(a)[i];  // unsigned bytes
        const Shorts y = parts<Shorts>(b)[i];  // signed bytes
        parts<Ints>(sum)[i] += multiply_pairs(reinterpret_cast<Shorts>(x & 0xff), (y << 8) >> 8) +
                               multiply_pairs(reinterpret_cast<Shorts>(x >> 8), y >> 8);
    }
}

VITSOM_INLINE Floats flush(Words bits) {
    const auto normal = reinterpret_cast<Words>((bits & 0x7f800000) != 0);
    return reinterpret_cast<Floats>(bits & (normal | 0x80000000));
}

VITSOM_INLINE Floats flush(Floats v) { return flush(reinterpret_cast<Words>(v)); }

VITSOM_CALLED void add_bf16_products(__m512& sum, const __m512bh& a, const __m512bh& b) {
    for (int i = 0; i < PARTS; ++i) {
        const Words x = parts<Words>(a)[i], y = parts<Words>(b)[i];
        const Floats upper = flush(flush(parts<Floats>(sum)[i]) + flush(x & 0xffff0000) * flush(y & 0xffff0000));
        parts<Floats>(sum)[i] = flush(upper + flush(x << 16) * flush(y << 16));
    }
}

VITSOM_CALLED void blend(__mmask16 mask, __m512i& otherwise, const __m512i& a) {
    for (int i = 0; i < PARTS; ++i) {
        const Ints lanes = lanes_of(mask, i);
        parts<Ints>(otherwise)[i] = (lanes & parts<Ints>(a)[i]) | (~lanes & parts<Ints>(otherwise)[i]);
    }
}

VITSOM_CALLED void take_larger(__m512& a, const __m512& b) {
    for (int i = 0; i < PARTS; ++i) {
        const Floats x = parts<Floats>(a)[i], y = parts<Floats>(b)[i];
        parts<Floats>(a)[i] = x > y ? x : y;
    }
}

VITSOM_CALLED void take_square_roots(__m512& a) {
    for (int lane = 0; lane < 16; ++lane) a[lane] = __builtin_sqrtf(a[lane]);
}

VITSOM_CALLED void widen(__m512d& to, __mmask8 mask, const __m256& from) {
    for (int lane = 0; lane < 8; ++lane) to[lane] = mask >> lane & 1 ? static_cast<double>(from[lane]) : 0.0;
}

VITSOM_CALLED void compress(__m512i& to, __mmask16 mask, const __m512i& from) {
    std::int32_t words[16], chosen[16] = {};
    std::memcpy(words, &from, sizeof words);
    int count = 0;
    for (unsigned left = mask; left != 0; left &= left - 1) chosen[count++] = words[__builtin_ctz(left)];
    std::memcpy(&to, chosen, sizeof to);
}

VITSOM_CALLED void load_words(__m512i& to, __mmask16 mask, const void* address) {
    for (unsigned left = mask; left != 0; left &= left - 1) {
        const int place = 4 * __builtin_ctz(left);
        std::memcpy(reinterpret_cast<char*>(&to) + place, static_cast<const char*>(address) + place, 4);
    }
}

template <class Vector>
VITSOM_INLINE Vector zero_unless(__mmask16 mask, const Vector& v) {
    if (mask == 0xffff) return v;
    __m512i result{};
    blend(mask, result, reinterpret_cast<const __m512i&>(v));
    return reinterpret_cast<Vector>(result);
}

template <class Vector>
VITSOM_INLINE void store_aligned(void* out, const Vector& v) {
    if (reinterpret_cast<std::uintptr_t>(out) % 64 != 0) __builtin_trap();
    std::memcpy(out, &v, sizeof v);
}

}  // namespace avx512_host

VITSOM_INLINE __m512i _mm512_setzero_si512() { return __m512i{}; }

VITSOM_INLINE __m512i _mm512_set1_epi32(int x) {
    const auto word = static_cast<std::uint32_t>(x);
    return __m512i{} + static_cast<long long>(std::uint64_t{word} << 32 | word);
}

VITSOM_INLINE __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate) {
    switch (predicate) {
        case _CMP_EQ_OQ: return avx512_host::equal(a, b);
        case _CMP_LT_OQ: return avx512_host::less(a, b);
        case _CMP_LE_OQ: return avx512_host::less_equal(a, b);
        case _CMP_GE_OQ: return avx512_host::less_equal(b, a);
        case _CMP_GT_OQ: return avx512_host::less(b, a);
        default: __builtin_trap();
    }
}

// Four products of an unsigned by a signed byte are added to each sum, without saturation.
VITSOM_INLINE __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
    avx512_host::add_byte_products(sum, a, b);
    return sum;
}

// Two fused multiply-adds, of the upper half of each word first; subnormals are zero, and so are results that would be. The
// product of two bf16 numbers is exact in fp32, so that they need not be fused to round once.
VITSOM_INLINE __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
    avx512_host::add_bf16_products(sum, a, b);
    return sum;
}

VITSOM_INLINE __m512 _mm512_mask_mov_ps(__m512 otherwise, __mmask16 mask, __m512 a) {
    avx512_host::blend(mask, reinterpret_cast<__m512i&>(otherwise), reinterpret_cast<const __m512i&>(a));
    return otherwise;
}

VITSOM_INLINE __m512i _mm512_mask_or_epi32(__m512i otherwise, __mmask16 mask, __m512i a, __m512i b) {
    avx512_host::blend(mask, otherwise, a | b);
    return otherwise;
}

VITSOM_INLINE __m512i _mm512_maskz_compress_epi32(__mmask16 mask, __m512i a) {
    __m512i result;
    avx512_host::compress(result, mask, a);
    return result;
}

// The second of two that are equal, or one of which is NaN.
VITSOM_INLINE __m512 _mm512_maskz_max_ps(__mmask16 mask, __m512 a, __m512 b) {
    avx512_host::take_larger(a, b);
    return avx512_host::zero_unless(mask, a);
}

VITSOM_INLINE __m512 _mm512_maskz_sqrt_ps(__mmask16 mask, __m512 a) {
    avx512_host::take_square_roots(a);
    return avx512_host::zero_unless(mask, a);
}

VITSOM_INLINE __m512d _mm512_maskz_cvtps_pd(__mmask8 mask, __m256 a) {
    __m512d result{};
    avx512_host::widen(result, mask, a);
    return result;
}

VITSOM_INLINE __m512i _mm512_maskz_loadu_epi32(__mmask16 mask, const void* address) {
    __m512i result{};
    avx512_host::load_words(result, mask, address);
    return result;
}

VITSOM_INLINE __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* address) {
    __m512i result{};
    avx512_host::load_words(result, mask, address);
    return reinterpret_cast<__m512>(result);
}

VITSOM_INLINE void _mm512_storeu_si512(void* out, __m512i a) { std::memcpy(out, &a, sizeof a); }

VITSOM_INLINE void _mm512_store_si512(void* out, __m512i a) { avx512_host::store_aligned(out, a); }

VITSOM_INLINE void _mm512_stream_ps(void* out, __m512 a) { avx512_host::store_aligned(out, a); }

#undef VITSOM_INLINE
#undef VITSOM_CALLED

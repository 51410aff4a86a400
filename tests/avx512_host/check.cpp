// Each emulated instruction against what it is documented to do, a lane at a time; it ends with the number of what is wrong.
//
// Compiled with the compiler's own immintrin.h, on a processor that has the instructions, it checks itself.
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace {

constexpr float INF = std::numeric_limits<float>::infinity(), NOT_A_NUMBER = std::numeric_limits<float>::quiet_NaN();

int wrong = 0;

void expect(bool holds, const char* what) {
    if (holds) return;
    std::printf("%s is wrong\n", what);
    ++wrong;
}

template <class T, int N>
struct alignas(64) Lanes {
    T lane[N];
};
typedef Lanes<float, 16> Floats;
typedef Lanes<std::uint32_t, 16> Words;

template <class To, class From>
To as(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

std::mt19937 generator;

Words random_words() {
    Words words;
    for (auto& word : words.lane) word = generator();
    return words;
}

// Of every kind: each tenth is one of those that make a difference.
float random_float() {
    static const float special[] = {0.0f, -0.0f, INF, -INF, NOT_A_NUMBER, 1.0f, 0x1p-130f, -0x1p-149f};
    if (generator() % 10 == 0) return special[generator() % 8];
    return std::ldexp(std::uniform_real_distribution<float>(-2, 2)(generator), static_cast<int>(generator() % 9) - 4);
}

Floats random_floats() {
    Floats floats;
    for (auto& x : floats.lane) x = random_float();
    return floats;
}

bool equal(float a, float b) { return std::isnan(a) ? std::isnan(b) : as<std::uint32_t>(a) == as<std::uint32_t>(b); }

bool equal(const Floats& a, const Floats& b) {
    for (int lane = 0; lane < 16; ++lane) {
        if (!equal(a.lane[lane], b.lane[lane])) return false;
    }
    return true;
}

template <class T>
bool same_bits(const T& a, const T& b) {
    return std::memcmp(&a, &b, sizeof a) == 0;
}

float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

void check_products(bool extreme) {
    Words a = random_words(), b = random_words();
    const Words sum = random_words();
    if (extreme) a.lane[0] = 0xffffffff, b.lane[0] = 0x80808080, b.lane[1] = 0x7f7f7f7f;
    Words expected = sum;
    for (int byte = 0; byte < 64; ++byte) {
        const int product = as<Lanes<std::uint8_t, 64>>(a).lane[byte] * as<Lanes<std::int8_t, 64>>(b).lane[byte];
        expected.lane[byte / 4] += static_cast<std::uint32_t>(product);
    }
    const __m512i found = _mm512_dpbusd_epi32(as<__m512i>(sum), as<__m512i>(a), as<__m512i>(b));
    expect(same_bits(as<Words>(found), expected), "_mm512_dpbusd_epi32");
}

#if defined(__AVX512BF16__)
void check_bf16_products() {
    const Words a = as<Words>(random_floats()), b = as<Words>(random_floats());
    Words low_a = as<Words>(random_floats()), low_b = as<Words>(random_floats()), both_a, both_b;
    for (int lane = 0; lane < 16; ++lane) {
        both_a.lane[lane] = (a.lane[lane] & 0xffff0000) | low_a.lane[lane] >> 16;
        both_b.lane[lane] = (b.lane[lane] & 0xffff0000) | low_b.lane[lane] >> 16;
    }
    const Floats sum = random_floats();
    Floats expected;
    for (int lane = 0; lane < 16; ++lane) {
        float x = flush(sum.lane[lane]);
        for (const int shift : {0, 16}) {
            const auto factor = [&](std::uint32_t word) { return flush(as<float>((word << shift) & 0xffff0000)); };
            x = flush(std::fma(factor(both_a.lane[lane]), factor(both_b.lane[lane]), x));
        }
        expected.lane[lane] = x;
    }
    const __m512 found = _mm512_dpbf16_ps(as<__m512>(sum), as<__m512bh>(both_a), as<__m512bh>(both_b));
    expect(equal(as<Floats>(found), expected), "_mm512_dpbf16_ps");
}
#endif

void check_comparisons() {
    const Floats a = random_floats();
    Floats b = random_floats();
    b.lane[generator() % 16] = a.lane[0];
    unsigned equal_lanes = 0, less = 0, less_equal = 0, greater_equal = 0, greater = 0;
    for (int lane = 0; lane < 16; ++lane) {
        const float x = a.lane[lane], y = b.lane[lane];
        equal_lanes |= (x == y ? 1u : 0u) << lane;
        less |= (x < y ? 1u : 0u) << lane;
        less_equal |= (x <= y ? 1u : 0u) << lane;
        greater_equal |= (x >= y ? 1u : 0u) << lane;
        greater |= (x > y ? 1u : 0u) << lane;
    }
    const __m512 x = as<__m512>(a), y = as<__m512>(b);
    expect(_mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ) == equal_lanes, "_CMP_EQ_OQ");
    expect(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ) == less, "_CMP_LT_OQ");
    expect(_mm512_cmp_ps_mask(x, y, _CMP_LE_OQ) == less_equal, "_CMP_LE_OQ");
    expect(_mm512_cmp_ps_mask(x, y, _CMP_GE_OQ) == greater_equal, "_CMP_GE_OQ");
    expect(_mm512_cmp_ps_mask(x, y, _CMP_GT_OQ) == greater, "_CMP_GT_OQ");
}

void check_masks(__mmask16 mask) {
    const Floats a = random_floats(), b = random_floats();
    const Words words = random_words(), other = random_words(), otherwise = random_words();
    std::vector<std::uint32_t> readable;  // nothing else may be read
    for (int lane = 0; lane < 16 && mask >> lane; ++lane) readable.push_back(words.lane[lane]);
    Floats moved = b, larger{}, roots{};
    Words either = otherwise, compressed{}, loaded{};
    int count = 0;
    for (int lane = 0; lane < 16; ++lane) {
        if (!(mask >> lane & 1)) continue;
        moved.lane[lane] = a.lane[lane];
        larger.lane[lane] = a.lane[lane] > b.lane[lane] ? a.lane[lane] : b.lane[lane];
        roots.lane[lane] = std::sqrt(a.lane[lane]);
        either.lane[lane] = words.lane[lane] | other.lane[lane];
        compressed.lane[count++] = words.lane[lane];
        loaded.lane[lane] = words.lane[lane];
    }
    const __m512 x = as<__m512>(a), y = as<__m512>(b);
    const __m512i u = as<__m512i>(words);
    const __m512i either_found = _mm512_mask_or_epi32(as<__m512i>(otherwise), mask, u, as<__m512i>(other));
    expect(equal(as<Floats>(_mm512_mask_mov_ps(y, mask, x)), moved), "_mm512_mask_mov_ps");
    expect(equal(as<Floats>(_mm512_maskz_max_ps(mask, x, y)), larger), "_mm512_maskz_max_ps");
    expect(equal(as<Floats>(_mm512_maskz_sqrt_ps(mask, x)), roots), "_mm512_maskz_sqrt_ps");
    expect(same_bits(as<Words>(either_found), either), "_mm512_mask_or_epi32");
    expect(same_bits(as<Words>(_mm512_maskz_compress_epi32(mask, u)), compressed), "_mm512_maskz_compress_epi32");
    expect(same_bits(as<Words>(_mm512_maskz_loadu_epi32(mask, readable.data())), loaded), "_mm512_maskz_loadu_epi32");

    Lanes<float, 8> narrow;
    Lanes<double, 8> wide;
    for (int lane = 0; lane < 8; ++lane) {
        narrow.lane[lane] = std::isnan(a.lane[lane]) ? 0.0f : a.lane[lane];
        wide.lane[lane] = mask >> lane & 1 ? static_cast<double>(narrow.lane[lane]) : 0.0;
    }
    __m256 half;
    std::memcpy(&half, &narrow, sizeof half);
    const __m512d widened = _mm512_maskz_cvtps_pd(static_cast<__mmask8>(mask), half);
    expect(same_bits(as<Lanes<double, 8>>(widened), wide), "_mm512_maskz_cvtps_pd");
}

void check_stores() {
    const Words words = random_words();
    const __m512i u = as<__m512i>(words);
    alignas(64) std::uint32_t out[48];
    _mm512_store_si512(out, u);
    _mm512_storeu_si512(out + 17, u);
    expect(std::memcmp(out, &words, 64) == 0, "_mm512_store_si512");
    expect(std::memcmp(out + 17, &words, 64) == 0, "_mm512_storeu_si512");
    _mm512_stream_ps(reinterpret_cast<float*>(out) + 16, as<__m512>(words));
    _mm_sfence();
    expect(std::memcmp(out + 16, &words, 64) == 0, "_mm512_stream_ps");
    const Words set = as<Words>(_mm512_set1_epi32(-2)), zero = as<Words>(_mm512_setzero_si512());
    for (int lane = 0; lane < 16; ++lane) {
        expect(set.lane[lane] == 0xfffffffe, "_mm512_set1_epi32");
        expect(zero.lane[lane] == 0, "_mm512_setzero_si512");
    }
}

}  // namespace

int main() {
    for (int i = 0; i < 1000; ++i) {
        check_products(i == 0);
#if defined(__AVX512BF16__)
        check_bf16_products();
#endif
        check_comparisons();
        check_masks(static_cast<__mmask16>(i == 0 ? 0 : i == 1 ? 0xffff : generator()));
    }
    check_stores();
    return wrong;
}

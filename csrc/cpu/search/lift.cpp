// The nearest unit in squared Euclidean distance as that of the largest cosine: rows with LIFTED features more.
//
// |z - w|^2 is least where z . w - |w|^2 / 2 is largest. A prototype gets -|w|^2 / 2 m in three features, of which each has what
// the one before has cut off, and three that make all prototypes equally long; a latent gets m, m, m, 0, 0, 0. m, a power of two,
// is about the length of the longest prototype. All other features are as they were, and as seen from a centre where that costs no
// digit: data far from the origin differ in more than their last bits then.
//
// Passes over memory: either matrix is read once and written once.
#include "cpu/module/kernel_table.h"
#include "cpu/runtime/arena.h"
#include "cpu/runtime/threads.h"
#include "cpu/search/centre.h"
#include "cpu/simd/nontemporal.h"
#include "cpu/simd/powers.h"

namespace vitsom {
namespace VITSOM_ISA {

// How many times as far from the origin as from their centre prototypes are, squared, for it to matter: scores have four bits less.
constexpr double FAR = 256;

// Lengths of the longest prototype for which nothing that is added is beyond fp32, nor loses bits.
constexpr double SHORTEST = 0x1p-60, LONGEST = 0x1p60;

inline bool is_number(double x) { return __builtin_fabs(x) <= __DBL_MAX__; }

inline double larger_one(double a, double b) { return a > b ? a : b; }

// Calls `body(d, element)` for each element of a row, 0 in place of what is none.
template <class Body>
void for_each_number(Row x, std::int64_t n, const Body& body) {
    with_elements(x, [&](const auto* elements) {
        for_each_vector(n, [&](std::int64_t d, auto load, auto) {
            const Vec v = load(elements + d);
            float part[WIDTH];
            store(part, v - v == 0 ? v : Vec{});
            for (std::int64_t i = 0; i < smaller(WIDTH, n - d); ++i) body(d + i, part[i]);
        });
    });
}

// The centre, where prototypes are far from the origin; else returns false. In steps of the last bit of the largest number of a
// feature: of data that are alike in size, this leaves differences that are exact.
inline bool find_far_centre(const Problem& p, double* mean, double* largest, float* centre) {
    const CentreMembers members(p);
    for (std::int64_t d = 0; d < p.dim; ++d) mean[d] = 0;
    double squares = 0, square_of_mean = 0;
    for (std::int64_t i = 0; i < members.count; ++i) {
        for_each_number(row(p.prototypes, members[i]), p.dim, [&](std::int64_t d, double x) {
            mean[d] += x;
            squares += x * x;
        });
    }
    for (std::int64_t d = 0; d < p.dim; ++d) {
        mean[d] /= static_cast<double>(members.count);
        square_of_mean += mean[d] * mean[d];
    }
    if (!(square_of_mean > FAR * (squares / static_cast<double>(members.count) - square_of_mean))) return false;
    for (std::int64_t d = 0; d < p.dim; ++d) largest[d] = larger_one(0x1p-100, __builtin_fabs(mean[d]));
    for (std::int64_t i = 0; i < p.batch; ++i) {
        for_each_number(row(p.z, i), p.dim, [&](std::int64_t d, double x) { largest[d] = larger_one(largest[d], __builtin_fabs(x)); });
    }
    for (std::int64_t d = 0; d < p.dim; ++d) {
        const double step = power_of_two_below(largest[d]) * 0x1p-23;
        centre[d] = static_cast<float>(__builtin_rint(mean[d] / step) * step);
    }
    return true;
}

// Features of a line of the cache. One that is shared with what is added to a row, streamed in part and then written, makes a row of
// 26 features take 890 ns in place of 170.
constexpr std::int64_t LINE_FEATURES = 16;

// out = x, less a centre if there is one; returns whether that is exact. `square` is the squared length of what is written.
template <class T>
bool lift_row(const T* x, const float* centre, std::int64_t n, float* out, bool streamed, double& square) {
    Doubles sums[2] = {};
    bool is_exact = true;
    for_each_vector(n, [&](std::int64_t d, auto load, auto store) {
        Vec v = load(x + d);
        if (centre) {
            const DoublePair a = widen(v), c = widen(load(centre + d)), wide = {a.low - c.low, a.high - c.high};
            v = narrow(wide);
            const DoublePair back = widen(v);
            const auto low = (back.low != wide.low) & (wide.low == wide.low);
            const auto high = (back.high != wide.high) & (wide.high == wide.high);
            const auto differs = low | high;
            for (int lane = 0; lane < WIDTH / 2; ++lane) is_exact &= differs[lane] == 0;
        }
        const DoublePair wide = widen(v);
        sums[0] += wide.low * wide.low;
        sums[1] += wide.high * wide.high;
        if (streamed && d / LINE_FEATURES * LINE_FEATURES + LINE_FEATURES <= n) stream(out + d, v);
        else store(out + d, v);
    });
    square = sum(sums[0] + sums[1]);
    return is_exact;
}

inline bool lift_rows(
    const Matrix& x, std::int64_t rows, std::int64_t dim, const float* centre, int threads, float* out, std::int64_t stride,
    double* squares) {
    const int used = useful_threads(4 * rows * dim, threads);
    const bool streamed = is_streamed(out, DType::float32, stride, rows * stride);
    bool is_exact = true;
#pragma omp parallel num_threads(used) if (used > 1) reduction(&& : is_exact)
    {
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i < rows; ++i) {
            const bool is_row_exact = with_elements(row(x, i), [&](const auto* elements) {
                return lift_row(elements, centre, dim, out + i * stride, streamed, squares[i]);
            });
            is_exact = is_exact && is_row_exact;
        }
        finish_stream();
    }
    return is_exact;
}

inline void multiply_rows(std::int64_t rows, std::int64_t dim, float factor, float* x, std::int64_t stride) {
    for (std::int64_t i = 0; i < rows; ++i) {
        for_each_vector(dim, [&](std::int64_t d, auto load, auto store) {
            store(x + i * stride + d, load(x + i * stride + d) * factor);
        });
    }
}

// The features that are added to a prototype, for the squared length that all are to have.
inline void write_added(double square, double most, double unit, float* added) {
    // What a length is shortened by, for its square to be no more than it should be: one place of fp32.
    constexpr double SHORTER = 1 - 0x1p-23;
    double rest = -square / (2 * unit), length = most - square;
    for (int i = 0; i < LIFTED / 2; ++i) {
        added[i] = static_cast<float>(rest);
        rest -= added[i];
        length -= static_cast<double>(added[i]) * added[i];
    }
    for (int i = LIFTED / 2; i < LIFTED; ++i) {
        added[i] = static_cast<float>(__builtin_sqrt(length < 0 ? 0 : length) * SHORTER);
        length -= static_cast<double>(added[i]) * added[i];
    }
}

void lift(const Problem& p, float* z, float* prototypes, std::int64_t stride) {
    double *mean = nullptr, *largest_z = nullptr, *squares = nullptr, *squares_z = nullptr;
    float* centre = nullptr;
    Arena arena;
    lay_out(arena, [&](Arena& a) {
        mean = a.take<double>(p.dim);
        largest_z = a.take<double>(p.dim);
        centre = a.take<float>(p.dim);
        squares = a.take<double>(p.num_prototypes);
        squares_z = a.take<double>(p.batch);
    });
    use_huge_pages(z, static_cast<std::size_t>(p.batch * stride) * sizeof(float));
    use_huge_pages(prototypes, static_cast<std::size_t>(p.num_prototypes * stride) * sizeof(float));
    const auto lift_both = [&](const float* from) {
        return lift_rows(p.prototypes, p.num_prototypes, p.dim, from, p.threads, prototypes, stride, squares) &&
               lift_rows(p.z, p.batch, p.dim, from, p.threads, z, stride, squares_z);
    };
    const bool is_seen_from_centre = find_far_centre(p, mean, largest_z, centre) && lift_both(centre);
    if (!is_seen_from_centre) lift_both(nullptr);

    double longest = 0;
    for (std::int64_t k = 0; k < p.num_prototypes; ++k) {
        if (is_number(squares[k])) longest = larger_one(longest, squares[k]);
    }
    longest = __builtin_sqrt(longest);
    double unit = longest > 0 ? power_of_two_below(longest) : 1;
    bool is_scaled = false;
    if (longest > 0 && !(longest >= SHORTEST && longest <= LONGEST)) {
        const double scale = unit < 0x1p-126 ? 0x1p126 : 1 / unit;  // of subnormals to less than 1
        multiply_rows(p.num_prototypes, p.dim, static_cast<float>(scale), prototypes, stride);
        for (std::int64_t i = 0; i < p.batch; ++i) {
            // A latent that would leave fp32 is multiplied with less, and so is what it has in the added features: of its length
            // a cosine depends on nothing.
            const double length = __builtin_sqrt(squares_z[i]) * scale;
            const double less = length > LONGEST && is_number(length) ? LONGEST / power_of_two_below(length) : 1;
            multiply_rows(1, p.dim, static_cast<float>(scale * less), z + i * stride, stride);
            squares_z[i] = less;
        }
        is_scaled = true;
        for (std::int64_t k = 0; k < p.num_prototypes; ++k) squares[k] *= scale * scale;
        unit = 1;
    }
    double most = 0;
    for (std::int64_t k = 0; k < p.num_prototypes; ++k) {
        const double half = squares[k] / (2 * unit), square = squares[k] + half * half;
        if (is_number(square)) most = larger_one(most, square);
    }
    most *= 1 + 0x1p-20;  // the square of a sum is not the sum of the squares of its parts
    const int threads = useful_threads(32 * p.num_prototypes, p.threads);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t k = 0; k < p.num_prototypes; ++k) write_added(squares[k], most, unit, prototypes + k * stride + p.dim);
    for (std::int64_t i = 0; i < p.batch; ++i) {
        float* added = z + i * stride + p.dim;
        const double share = is_scaled ? squares_z[i] : unit;
        for (int j = 0; j < LIFTED; ++j) added[j] = j < LIFTED / 2 ? static_cast<float>(share) : 0;
    }
}

void squared_distances(const Problem& p, const std::int64_t* units, double* squared) {
    const int threads = useful_threads(4 * p.batch * p.dim, p.threads);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t i = 0; i < p.batch; ++i) {
        squared[i] = exact_squared_distance(row(p.z, i), row(p.prototypes, units[i]), p.dim);
        if (!is_number(squared[i]) && !is_number(squared_norm(row(p.z, i), p.dim))) squared[i] = __builtin_nan("");
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

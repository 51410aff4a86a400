// What a step under the squared Euclidean distance has of its own. With x and v the latents and prototypes as seen from the centre,
//
//     L_i = sum over k of h_bk |x_i - v_k|^2 = n_b |x_i|^2 - 2 x_i . (G v)_b + (G |v|^2)_b,
//     dz_i = 2 g_i (n_b x_i - (G v)_b)   and   dv_k = 2 ((G' C)_k v_k - (G' A)_k)
//
// for the gradients g of the losses, and the sums A of g x and C of g over the samples of each BMU. G v and G' A are smoothed as under
// the cosine; one number of each unit is smoothed here, in fp64. Such numbers are kept column by column of the grid: [cols][rows].
#pragma once

#include "cpu/step/bmu_groups.h"
#include "cpu/neighborhood/packed_factor.h"
#include "cpu/search/centre.h"
#include "cpu/step/saved_for_backward.h"

namespace vitsom {
namespace VITSOM_ISA {

// The share of `n |v|^2` below which a loss that fp32 has smoothed has lost too many digits: 1e-7 of it is 1e-5 of the loss.
constexpr double CANCELS = 0.02;

// The share of the samples of which that may be so: each is then computed from its distances, one by one, and gradients are in
// proportion to those of the others. Of more, all is better computed in fp64.
constexpr std::int64_t FEW = 16;

// |x - y|^2, of differences in fp32. Two vectors at a time, in chains of their own: an addition takes four cycles.
template <class T, class U>
double squared_distance(const T* x, const U* y, std::int64_t n) {
    Doubles sums[4] = {};
    const auto add = [&](Vec difference, int first) {
        const DoublePair wide = widen(difference);
        sums[first] += wide.low * wide.low;
        sums[first + 1] += wide.high * wide.high;
    };
    std::int64_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        add(load(x + i) - load(y + i), 0);
        add(load(x + i + WIDTH) - load(y + i + WIDTH), 2);
    }
    for_each_vector(n - i, [&](std::int64_t d, auto load, auto) { add(load(x + i + d) - load(y + i + d), 0); });
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// n |x|^2 - 2 x . y for some features of x = z - centre.
inline double loss_without_squares(Row z, const float* y, double weight, const float* centre, std::int64_t n) {
    DoublePair sums{};
    with_elements(z, [&](const auto* z) {
        for_each_vector(n, [&](std::int64_t i, auto load, auto) {
            const DoublePair a = widen(load(z + i)), b = widen(load(y + i)), c = widen(load(centre + i));
            const Doubles low = a.low - c.low, high = a.high - c.high;
            sums.low += low * (weight * low - 2 * b.low);
            sums.high += high * (weight * high - 2 * b.high);
        });
    });
    return sum(sums.low + sums.high);
}

// Every row counts with the length 1, or NaN where it is not finite: of the members of the centre, which is made of them.
inline void mark_members_of_centre(const Problem& p, double* inverse) {
    const CentreMembers members(p);
    for (std::int64_t i = 0; i < members.count; ++i) {
        const bool is_finite = squared_norm(row(p.prototypes, members[i]), p.dim) <= __DBL_MAX__;
        inverse[members[i]] = is_finite ? 1.0 : __builtin_nan("");
    }
}

// |v|^2 of all prototypes, [cols][rows], and marks those that are not finite; returns the largest of the others.
inline double square_prototypes(const Problem& p, const Neighborhood& h, const float* centre, double* inverse, double* squares) {
    const int threads = useful_threads(2 * p.num_prototypes * p.dim, p.threads);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (std::int64_t k = 0; k < p.num_prototypes; ++k) {
        const double square =
            with_elements(row(p.prototypes, k), [&](const auto* w) { return squared_distance(w, centre, p.dim); });
        squares[k % h.cols * h.rows + k / h.cols] = square;
        inverse[k] = square <= __DBL_MAX__ ? 1.0 : __builtin_nan("");
    }
    double largest = 0;
    for (std::int64_t k = 0; k < p.num_prototypes; ++k) {
        if (squares[k] <= __DBL_MAX__ && squares[k] > largest) largest = squares[k];
    }
    return largest;
}

// A vector of as many as there are lanes for doubles.
inline Doubles load_doubles(const double* x) { return load_as<Doubles>(x); }
inline Doubles load_doubles(const float* x) { return __builtin_convertvector(load_as<HalfVec>(x), Doubles); }
constexpr std::int64_t DOUBLES = WIDTH / 2;

template <class T>
void add_multiple(double factor, const T* x, std::int64_t n, double* sums) {
    std::int64_t i = 0;
    for (; i + DOUBLES <= n; i += DOUBLES) {
        const Doubles sum = load_doubles(sums + i) + factor * load_doubles(x + i);
        std::memcpy(sums + i, &sum, sizeof sum);
    }
    for (; i < n; ++i) sums[i] += factor * x[i];
}

inline double dot_of_doubles(const float* x, const double* y, std::int64_t n) {
    Doubles sums[2] = {};
    std::int64_t i = 0;
    for (; i + 2 * DOUBLES <= n; i += 2 * DOUBLES) {
        sums[0] += load_doubles(x + i) * load_doubles(y + i);
        sums[1] += load_doubles(x + i + DOUBLES) * load_doubles(y + i + DOUBLES);
    }
    double total = sum(sums[0] + sums[1]);
    for (; i < n; ++i) total += x[i] * y[i];
    return total;
}

inline void set_to_zero(double* x, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) x[i] = 0;
}

// at_bmu [groups] = G x at the BMUs, for x [cols][rows]; `columns` [full_count][rows] is scratch. Every weight counts.
inline void smooth_at_bmus(
    const Neighborhood& h, const BmuGroups& samples, const double* x, int threads, double* columns, double* at_bmu) {
    const int used = useful_threads(h.rows * h.cols * samples.full_count / 4, threads);
#pragma omp parallel for schedule(static) num_threads(used) if (used > 1)
    for (std::int64_t full = 0; full < samples.full_count; ++full) {
        const std::int64_t column = samples.full[full];
        double* along = columns + full * h.rows;
        for (std::int64_t g = samples.column[column]; g < samples.column[column + 1]; ++g) at_bmu[g] = 0;
        for (std::int64_t t = 0; t < h.terms; ++t) {
            const float* weights = h.col_factors + (t * h.cols + column) * h.cols;
            set_to_zero(along, h.rows);
            for (std::int64_t c = 0; c < h.cols; ++c) {
                if (weights[c] != 0) add_multiple(weights[c], x + c * h.rows, h.rows, along);
            }
            for (std::int64_t g = samples.column[column]; g < samples.column[column + 1]; ++g) {
                at_bmu[g] += dot_of_doubles(h.row_factors + (t * h.rows + samples.row[g]) * h.rows, along, h.rows);
            }
        }
    }
}

// sums [groups] of x [batch] over the samples of each BMU, in their order.
inline void sum_by_group(const BmuGroups& samples, const double* x, double* sums) {
    for (std::int64_t g = 0; g < samples.groups; ++g) {
        sums[g] = 0;
        for (std::int64_t s = samples.start[g]; s < samples.start[g + 1]; ++s) sums[g] += x[samples.order[s]];
    }
}

// out [cols][rows] = G' x, for x [groups] at the BMUs and zero elsewhere; `columns` [full_count][rows] is scratch.
inline void smooth_from_bmus(
    const Neighborhood& h, const BmuGroups& samples, const double* x, int threads, double* columns, double* out) {
    set_to_zero(out, h.rows * h.cols);
    const int used = useful_threads(h.rows * h.cols * samples.full_count / 4, threads);
    for (std::int64_t t = 0; t < h.terms; ++t) {
        for (std::int64_t full = 0; full < samples.full_count; ++full) {
            const std::int64_t column = samples.full[full];
            double* along = columns + full * h.rows;
            set_to_zero(along, h.rows);
            for (std::int64_t g = samples.column[column]; g < samples.column[column + 1]; ++g) {
                add_multiple(x[g], h.row_factors + (t * h.rows + samples.row[g]) * h.rows, h.rows, along);
            }
        }
#pragma omp parallel for schedule(static) num_threads(used) if (used > 1)
        for (std::int64_t c = 0; c < h.cols; ++c) {
            for (std::int64_t full = 0; full < samples.full_count; ++full) {
                const float weight = h.col_factors[(t * h.cols + samples.full[full]) * h.cols + c];
                if (weight != 0) add_multiple(weight, columns + full * h.rows, h.rows, out + c * h.rows);
            }
        }
    }
}

// The loss of sample i as it stands: a sum that does not cancel.
inline double literal_loss(const Problem& p, const Neighborhood& h, std::int64_t i, std::int64_t bmu) {
    double loss = 0;
    for (std::int64_t k = 0; k < p.num_prototypes; ++k) {
        double weight = 0;
        for (std::int64_t t = 0; t < h.terms; ++t) {
            const double row_weight = h.row_factors[(t * h.rows + bmu / h.cols) * h.rows + k / h.cols];
            weight += row_weight * h.col_factors[(t * h.cols + bmu % h.cols) * h.cols + k % h.cols];
        }
        if (weight == 0) continue;
        loss += weight * with_dtype(p.z.dtype, [&](auto t) {
            using T = decltype(t);
            return squared_distance(typed_row<T>(p.z, i), typed_row<T>(p.prototypes, k), p.dim);
        });
    }
    return loss;
}

// The losses of all samples from what `saved` has of them without the squares of the prototypes, and what the backward pass wants.
// Lists the samples for which fp32 was not precise enough, and returns how many: all, where numbers may be beyond fp32.
inline std::int64_t finish_losses(
    const Problem& p, const BmuGroups& samples, const SavedForBackward<double>& saved, const double* weight,
    const double* squares_at_bmu, double largest, double* losses, std::int64_t* imprecise) {
    constexpr double MOST = 0x1p240;  // (n |x|)^2, or the same of a prototype
    std::int64_t count = 0;
    for (std::int64_t g = 0; g < samples.groups; ++g) {
        const double size = __builtin_fabs(weight[g]) + 1;  // 1: of weights that cancel, that of the BMU
        const double least = CANCELS * size * largest;
        for (std::int64_t s = samples.start[g]; s < samples.start[g + 1]; ++s) {
            const std::int64_t i = samples.order[s];
            const double loss = saved.loss_without_squares[i] + squares_at_bmu[g];
            const bool is_in_range = size * __builtin_fabs(loss) <= MOST && size * size * largest <= MOST;
            const bool is_finite = is_in_range || squared_norm(row(p.z, i), p.dim) <= __DBL_MAX__;
            if (is_finite && !is_in_range) return p.batch;
            losses[i] = is_finite ? loss : __builtin_nan("");
            saved.inverse_z[i] = is_finite ? 1.0 : __builtin_nan("");
            saved.total_weight[i] = weight[g];
            if (is_finite && !(__builtin_fabs(loss) >= least)) imprecise[count++] = i;
        }
    }
    return count;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

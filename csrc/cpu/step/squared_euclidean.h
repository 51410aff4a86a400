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

template <class T>
double squared_distance(const T* x, const float* y, std::int64_t n) {
    DoublePair sums{};
    for_each_vector(n, [&](std::int64_t i, auto load, auto) {
        const DoublePair a = widen(load(x + i)), b = widen(load(y + i));
        sums.low += (a.low - b.low) * (a.low - b.low);
        sums.high += (a.high - b.high) * (a.high - b.high);
    });
    return sum(sums.low + sums.high);
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

inline void add_multiple(double factor, const double* x, std::int64_t n, double* sums) {
    constexpr std::int64_t LANES = WIDTH / 2;
    std::int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const Doubles sum = load_as<Doubles>(sums + i) + factor * load_as<Doubles>(x + i);
        std::memcpy(sums + i, &sum, sizeof sum);
    }
    for (; i < n; ++i) sums[i] += factor * x[i];
}

inline void set_to_zero(double* x, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) x[i] = 0;
}

// at_bmu [groups] = G x at the BMUs, for x [cols][rows]; `columns` [full_count][rows] is scratch.
inline void smooth_at_bmus(
    const Neighborhood& h, const BmuGroups& samples, const double* x, int threads, double* columns, double* at_bmu) {
    const int used = useful_threads(h.rows * h.cols * samples.full_count / 4, threads);
#pragma omp parallel for schedule(static) num_threads(used) if (used > 1)
    for (std::int64_t full = 0; full < samples.full_count; ++full) {
        const std::int64_t column = samples.full[full];
        double* along = columns + full * h.rows;
        for (std::int64_t g = samples.column[column]; g < samples.column[column + 1]; ++g) at_bmu[g] = 0;
        for (std::int64_t t = 0; t < h.terms; ++t) {
            const Factor rows = factor(h.row_factors, h.rows, t, false), cols = factor(h.col_factors, h.cols, t, false);
            set_to_zero(along, h.rows);
            for (std::int64_t c = 0; c < h.cols; ++c) {
                const float weight = cols(column, c);
                if (cols.matters(weight)) add_multiple(weight, x + c * h.rows, h.rows, along);
            }
            for (std::int64_t g = samples.column[column]; g < samples.column[column + 1]; ++g) {
                for (std::int64_t r = 0; r < h.rows; ++r) {
                    const float weight = rows(samples.row[g], r);
                    if (rows.matters(weight)) at_bmu[g] += weight * along[r];
                }
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
        const Factor rows = factor(h.row_factors, h.rows, t, true), cols = factor(h.col_factors, h.cols, t, true);
        for (std::int64_t full = 0; full < samples.full_count; ++full) {
            const std::int64_t column = samples.full[full];
            double* along = columns + full * h.rows;
            set_to_zero(along, h.rows);
            for (std::int64_t g = samples.column[column]; g < samples.column[column + 1]; ++g) {
                for (std::int64_t r = 0; r < h.rows; ++r) {
                    const float weight = rows(r, samples.row[g]);
                    if (rows.matters(weight)) along[r] += weight * x[g];
                }
            }
        }
#pragma omp parallel for schedule(static) num_threads(used) if (used > 1)
        for (std::int64_t c = 0; c < h.cols; ++c) {
            for (std::int64_t full = 0; full < samples.full_count; ++full) {
                const float weight = cols(c, samples.full[full]);
                if (cols.matters(weight)) add_multiple(weight, columns + full * h.rows, h.rows, out + c * h.rows);
            }
        }
    }
}

// The losses of all samples from what `saved` has of them without the squares of the prototypes, and what the backward pass wants.
// Returns whether fp32 was precise enough.
inline bool finish_losses(
    const Problem& p, const BmuGroups& samples, const SavedForBackward<double>& saved, const double* weight,
    const double* squares_at_bmu, double largest, double* losses) {
    bool is_precise = true;
    for (std::int64_t g = 0; g < samples.groups; ++g) {
        const double least = CANCELS * (__builtin_fabs(weight[g]) + 1) * largest;  // 1: of weights that cancel, that of the BMU
        for (std::int64_t s = samples.start[g]; s < samples.start[g + 1]; ++s) {
            const std::int64_t i = samples.order[s];
            const double loss = saved.loss_without_squares[i] + squares_at_bmu[g];
            const bool is_number = __builtin_fabs(loss) <= __DBL_MAX__;
            const bool is_finite = is_number || squared_norm(row(p.z, i), p.dim) <= __DBL_MAX__;
            losses[i] = is_finite ? loss : __builtin_nan("");
            saved.inverse_z[i] = is_finite ? 1.0 : __builtin_nan("");
            saved.total_weight[i] = weight[g];
            is_precise &= !is_finite || __builtin_fabs(loss) >= least;
        }
    }
    return is_precise;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

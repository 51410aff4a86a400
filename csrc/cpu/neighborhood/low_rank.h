// A factor of the neighborhood as a product of two thin ones.
//
// A smooth kernel has few degrees of freedom: of a Gaussian of temperature 16, 19 outer products reproduce all weights between
// 128 units, 34 those between 256 (band: 185). Both axes are reduced to ranks before either is expanded, so the expensive
// product, every prototype with a factor along its grid row, shrinks from the width of the band to the rank.
#pragma once

#include "cpu/neighborhood/packed_factor.h"

namespace vitsom {
namespace VITSOM_ISA {

// How far off a weight may be. The weights themselves are rounded, by up to 2^-25, and what is left of them shows it: at 2^-23 the
// rank grows by a quarter, and at 2^-24 to that of a random matrix, without a digit gained in a sum.
constexpr double RANK_TOLERANCE = 0x1p-22;

// What is left of a larger factor would not stay in cache, nor is its band likely to be wider than its rank.
constexpr std::int64_t LARGEST_REDUCED = 1024;

// Multiply-adds of the prototypes with one weight below which the decomposition is not earned back.
constexpr std::int64_t SMALLEST_REDUCED = 1 << 18;

// factor(out, in) = sum over k of left[k][out] * right[k][in]
//
// The factor of a regular axis looks the same from both of its ends. Its vectors are then symmetric, the first `even` of them, or
// antisymmetric: products need half of each (folded.h).
struct LowRank {
    std::int64_t rank, size;
    std::int64_t even;  // all ranks, if the factor is not folded
    bool is_folded;
    float* left;   // [rank][size]
    float* right;  // [rank][size]

    Factor reduce() const { return {right, size, 1}; }  // out: ranks
    Factor expand() const { return {left, 1, size}; }   // in: ranks
    LowRank transposed() const { return {rank, size, even, is_folded, right, left}; }
};

// The row sums, of the weights that the products use; `of_ranks` is scratch of the same length.
inline void sum_rows(const LowRank& f, double* sums, double* of_ranks) {
    sum_rows(f.reduce(), f.rank, f.size, of_ranks);
    const Factor expand = f.expand();
    for (std::int64_t out = 0; out < f.size; ++out) {
        sums[out] = 0;
        for (std::int64_t k = 0; k < f.rank; ++k) sums[out] += expand.matters(expand(out, k)) ? expand(out, k) * of_ranks[k] : 0.0;
    }
}

// Elimination with complete pivoting: the residual is at hand, and with it the certificate. On a Gaussian, no entry of |left| |right|
// exceeds 1, hence a sum through the ranks is as accurate as one with the factor itself.
class Decomposition {
public:
    void take(Arena& arena, std::int64_t size) {
        size_ = size;
        stride_ = ceil_div(size, LANES) * LANES;
        residual_ = arena.take<double>(size * stride_);
        pivot_row_ = arena.take<double>(stride_);
        largest_ = arena.take<double>(size);
    }

    // A rank of 0 where two thirds of the mean number of weights a row do not suffice, or where a weight is not finite.
    void run(Factor factor, std::int64_t size, bool fold, LowRank& result) {
        std::int64_t weights = 0;
        for (std::int64_t i = 0; i < size * size; ++i) weights += factor.matters(factor(i / size, i % size));
        const std::int64_t most = 2 * weights / (3 * size);
        result.rank = 0;
        result.size = size;
        result.is_folded = fold;
        const auto entry = [&](std::int64_t r, std::int64_t c) { return static_cast<double>(factor(r, c)); };
        if (!fold) {
            const std::int64_t rank = eliminate_all(size, entry, RANK_TOLERANCE, most, size, result.left, result.right);
            result.even = result.rank = larger(0, rank);
            return;
        }
        // The sum of the parts, each off by half the tolerance at most, is the factor.
        const auto part = [&](double sign) {
            return [=](std::int64_t r, std::int64_t c) { return (entry(r, c) + sign * entry(r, size - 1 - c)) / 2; };
        };
        result.even = eliminate_all((size + 1) / 2, part(1), RANK_TOLERANCE / 2, most, size, result.left, result.right);
        if (result.even < 0) return;
        float *left = result.left + result.even * size, *right = result.right + result.even * size;
        const std::int64_t odd = eliminate_all(size / 2, part(-1), RANK_TOLERANCE / 2, most - result.even, size, left, right);
        if (odd < 0) return;
        result.rank = result.even + odd;
        for (std::int64_t k = 0; k < result.rank; ++k) {
            reflect(result.left + k * size, size, k < result.even);
            reflect(result.right + k * size, size, k < result.even);
        }
    }

private:
    static constexpr std::int64_t LANES = WIDTH / 2;

    static void reflect(float* half, std::int64_t size, bool is_even) {
        if (!is_even && size % 2 == 1) half[size / 2] = 0;
        for (std::int64_t i = 0; i < size / 2; ++i) half[size - 1 - i] = is_even ? half[i] : -half[i];
    }

    // entry(r, c) for r, c < size as outer products of vectors that are `spacing` apart; returns their number, -1 if above `most`.
    template <class Entry>
    std::int64_t eliminate_all(
        std::int64_t size, const Entry& entry, double tolerance, std::int64_t most, std::int64_t spacing, float* left,
        float* right) {
        size_ = size;
        stride_ = ceil_div(size, LANES) * LANES;
        for (std::int64_t r = 0; r < size; ++r) {
            double* row = residual_ + r * stride_;
            for (std::int64_t c = 0; c < stride_; ++c) row[c] = c < size ? entry(r, c) : 0.0;
            largest_[r] = subtract(row, row, 0.0);
            if (!(largest_[r] <= __DBL_MAX__)) return -1;
        }
        for (std::int64_t rank = 0; rank <= most; ++rank) {
            const std::int64_t pivot = largest_row();
            if (size == 0 || largest_[pivot] <= tolerance) return rank;
            if (rank < most) eliminate(pivot, left + rank * spacing, right + rank * spacing);
        }
        return -1;
    }

    std::int64_t largest_row() const {
        std::int64_t found = 0;
        for (std::int64_t r = 1; r < size_; ++r) {
            if (largest_[r] > largest_[found]) found = r;
        }
        return found;
    }

    void eliminate(std::int64_t pivot, float* left, float* right) {
        std::memcpy(pivot_row_, residual_ + pivot * stride_, static_cast<std::size_t>(stride_) * sizeof(double));
        std::int64_t column = 0;
        for (std::int64_t c = 1; c < size_; ++c) {
            if (magnitude(pivot_row_[c]) > magnitude(pivot_row_[column])) column = c;
        }
        const double value = pivot_row_[column], root = __builtin_sqrt(magnitude(value));
        for (std::int64_t c = 0; c < size_; ++c) right[c] = static_cast<float>(pivot_row_[c] / value * root);
        for (std::int64_t r = 0; r < size_; ++r) {
            double* row = residual_ + r * stride_;
            left[r] = static_cast<float>(row[column] / root);
            if (row[column] != 0) largest_[r] = subtract(row, pivot_row_, row[column] / value);
        }
        largest_[pivot] = 0;
    }

    static double magnitude(double x) { return x < 0 ? -x : x; }

    // row -= multiple * other; returns the largest magnitude, or infinity should one be NaN.
    double subtract(double* row, const double* other, double multiple) const {
        Doubles largest{};
        for (std::int64_t c = 0; c < stride_; c += LANES) {
            const Doubles x = load_as<Doubles>(row + c) - multiple * load_as<Doubles>(other + c);
            std::memcpy(row + c, &x, sizeof x);
            const Doubles size = x < 0 ? -x : x;
            largest = size <= largest ? largest : size;
        }
        double result = 0;
        for (int lane = 0; lane < LANES; ++lane) {
            if (!(largest[lane] <= result)) result = largest[lane] == largest[lane] ? largest[lane] : __builtin_inf();
        }
        return result;
    }

    std::int64_t size_, stride_;
    double* residual_;   // [size][stride]
    double* pivot_row_;  // [stride]
    double* largest_;    // [size] magnitude in each row of the residual
};

// Whether a factor looks the same from both ends of its axis.
inline bool is_symmetric_under_reflection(Factor f, std::int64_t size) {
    bool same = true;
    for (std::int64_t r = 0; r < (size + 1) / 2; ++r) {
        for (std::int64_t c = 0; c < size; ++c) same &= f(r, c) == f(size - 1 - r, size - 1 - c);
    }
    return same;
}

// The factors of one separable term, both thin or neither.
struct ThinTerm {
    LowRank rows, cols;

    bool is_thin() const { return rows.rank > 0; }
    ThinTerm transposed() const { return {rows.transposed(), cols.transposed()}; }
};

// All terms of a neighborhood, decomposed where that pays.
class ThinTerms {
public:
    // None where weights below NEGLIGIBLE count: ranks know nothing of these.
    ThinTerms(const Problem& p, const Neighborhood& h, float negligible = NEGLIGIBLE) {
        const bool worthwhile = larger(h.rows, h.cols) <= LARGEST_REDUCED && p.num_prototypes * p.dim >= SMALLEST_REDUCED &&
                                negligible == NEGLIGIBLE;
        Decomposition decomposition{};
        lay_out(arena_, [&](Arena& arena) {
            terms_ = arena.take<ThinTerm>(h.terms);
            if (!worthwhile) return;
            decomposition.take(arena, larger(h.rows, h.cols));
            rows_ = arena.take<float>(2 * h.terms * h.rows * h.rows);
            cols_ = arena.take<float>(2 * h.terms * h.cols * h.cols);
        });
        // One neighborhood is folded as a whole or not at all: all terms share the order in which units are visited.
        is_folded_ = worthwhile && h.terms == 1 && is_symmetric_under_reflection(factor(h.row_factors, h.rows, 0, false), h.rows) &&
                          is_symmetric_under_reflection(factor(h.col_factors, h.cols, 0, false), h.cols);
        for (std::int64_t t = 0; t < h.terms; ++t) {
            terms_[t] = {};
            if (!worthwhile) continue;
            LowRank& rows = terms_[t].rows;
            LowRank& cols = terms_[t].cols;
            rows.left = rows_ + 2 * t * h.rows * h.rows;
            rows.right = rows.left + h.rows * h.rows;
            cols.left = cols_ + 2 * t * h.cols * h.cols;
            cols.right = cols.left + h.cols * h.cols;
            const Factor row_factor = factor(h.row_factors, h.rows, t, false), col_factor = factor(h.col_factors, h.cols, t, false);
            decomposition.run(row_factor, h.rows, is_folded_, rows);
            const std::size_t bytes = static_cast<std::size_t>(h.rows * h.rows) * sizeof(float);
            if (h.rows == h.cols && std::memcmp(row_factor.data, col_factor.data, bytes) == 0) cols = rows;
            else if (rows.rank > 0) decomposition.run(col_factor, h.cols, is_folded_, cols);
            if (cols.rank == 0) rows.rank = 0;
            is_folded_ = is_folded_ && terms_[t].is_thin();
        }
    }

    bool is_folded() const { return is_folded_; }
    const ThinTerm& operator[](std::int64_t term) const { return terms_[term]; }

private:
    Arena arena_;
    bool is_folded_ = false;
    ThinTerm* terms_;
    float* rows_;
    float* cols_;
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

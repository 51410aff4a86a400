// Products with a thin factor along one axis of the grid: ranks from positions, and positions from ranks.
//
// Where the factor looks the same from both ends of the axis, a position and its mirror image are folded into their sum and their
// difference. Even ranks see the sums alone and odd ranks the differences: half of the multiply-adds.
#pragma once

#include "cpu/neighborhood/low_rank.h"

namespace vitsom {
namespace VITSOM_ISA {

// Positions along an axis, each with its mirror image where the axis is folded, known by their index among those that are present;
// -1: not present.
struct Pairs {
    std::int64_t count;
    std::int64_t *position, *near, *far;  // [count]
    bool is_folded;

    static void take(Arena& arena, Pairs& p, std::int64_t size) {
        p.position = arena.take<std::int64_t>(size);
        p.near = arena.take<std::int64_t>(size);
        p.far = arena.take<std::int64_t>(size);
    }

    // index(position) of each of the `size` positions of the axis.
    template <class Index>
    void find(std::int64_t size, bool fold, const Index& index) {
        is_folded = fold;
        count = 0;
        for (std::int64_t i = 0; i < (fold ? (size + 1) / 2 : size); ++i) {
            position[count] = i;
            near[count] = index(i);
            far[count] = fold && i != size - 1 - i ? index(size - 1 - i) : -1;
            count += near[count] >= 0 || far[count] >= 0;
        }
    }
};

// out[rank] = sum over the positions of factor(rank, position) * x[position]
struct Reduction {
    Pairs pairs;
    PackedFactor even, odd;

    static void take(Arena& arena, Reduction& r, std::int64_t size, std::int64_t rank) {
        Pairs::take(arena, r.pairs, size);
        PackedFactor::take(arena, r.even, rank, size);
        PackedFactor::take(arena, r.odd, rank, size);
    }

    // Of `index(position)` in x; -1: that position is zero.
    template <class Index>
    void pack(const LowRank& f, const Index& index) {
        pairs.find(f.size, f.is_folded, index);
        const Factor odd_ranks{f.right + f.even * f.size, f.size, 1};
        even.pack(f.reduce(), nullptr, f.even, pairs.position, pairs.count);
        odd.pack(odd_ranks, nullptr, f.rank - f.even, pairs.position, pairs.count);
    }

    std::int64_t ranks() const { return even.outs + odd.outs; }

    // One pair of positions, as [even or odd][pairs][TILE_COLS].
    void fold(std::int64_t pair, Features near, Features far, float* folded) const {
        store_row(folded + pair * TILE_COLS, near.low + far.low, near.high + far.high);
        if (odd.outs > 0) store_row(folded + (pairs.count + pair) * TILE_COLS, near.low - far.low, near.high - far.high);
    }

    // All of them; `x(index)` is the position of that index.
    template <class Load>
    void fold_all(const Load& x, float* folded) const {
        const auto at = [&](std::int64_t index) { return index >= 0 ? x(index) : Features{}; };
        for (std::int64_t pair = 0; pair < pairs.count; ++pair) fold(pair, at(pairs.near[pair]), at(pairs.far[pair]), folded);
    }

    void apply(const float* folded, OutputRows ranks) const {
        even.apply(folded, ranks);
        odd.apply(folded + pairs.count * TILE_COLS, ranks.from(even.outs));
    }
};

// out[position] = sum over the ranks of factor(position, rank) * x[rank]
struct Expansion {
    Pairs pairs;
    PackedFactor even, odd;

    static void take(Arena& arena, Expansion& e, std::int64_t size, std::int64_t rank) {
        Pairs::take(arena, e.pairs, size);
        PackedFactor::take(arena, e.even, size, rank);
        PackedFactor::take(arena, e.odd, size, rank);
    }

    // To `index(position)` of the output; -1: not wanted. At most `most_rows` positions are produced at a time.
    template <class Index>
    void pack(const LowRank& f, const Index& index, std::int64_t most_rows = TILE_ROWS) {
        pairs.find(f.size, f.is_folded, index);
        const Factor odd_ranks{f.left + f.even * f.size, 1, f.size};
        const std::int64_t rows = f.is_folded ? most_rows / 2 : most_rows;
        even.pack(f.expand(), pairs.position, pairs.count, nullptr, f.even, rows);
        odd.pack(odd_ranks, pairs.position, pairs.count, nullptr, f.rank - f.even, rows);
    }

    // Of any factor: sources in place of ranks.
    void pack(Factor f, std::int64_t size, const std::int64_t* in, std::int64_t in_count, std::int64_t most_rows) {
        pairs.find(size, false, [](std::int64_t i) { return i; });
        even.pack(f, pairs.position, size, in, in_count, most_rows);
        odd.pack(f, pairs.position, size, in, 0, most_rows);
    }

    std::int64_t ranks() const { return even.ins + odd.ins; }
    std::int64_t tile_pairs() const { return even.tile_rows; }

    // The pairs of the tile that begins with `first`; `write(pair, is_far, low, high)` gets what is wanted of them.
    template <class Write>
    void apply_tile(std::int64_t first, const float* x, const Write& write) const {
        if (odd.ins == 0) {
            even.apply_tile(first, x, [&](std::int64_t pair, Vec low, Vec high) {
                if (pairs.near[pair] >= 0) write(pair, false, low, high);
                if (pairs.far[pair] >= 0) write(pair, true, low, high);
            });
            return;
        }
        with_half_tile_rows(smaller(even.tile_rows, pairs.count - first), [&](auto constant) {
            constexpr int ROWS = decltype(constant)::value;
            const Tile<ROWS> sum = even.product<ROWS>(first, x), difference = odd.product<ROWS>(first, x + even.ins * TILE_COLS);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r) {
                const std::int64_t pair = first + r;
                if (pairs.near[pair] >= 0) write(pair, false, sum.low[r] + difference.low[r], sum.high[r] + difference.high[r]);
                if (pairs.far[pair] >= 0) write(pair, true, sum.low[r] - difference.low[r], sum.high[r] - difference.high[r]);
            }
        });
    }

    // Each position that is wanted, in the place of its index.
    void apply(const float* x, OutputRows out) const {
        for (std::int64_t first = 0; first < pairs.count; first += tile_pairs()) {
            apply_tile(first, x, [&](std::int64_t pair, bool is_far, Vec low, Vec high) {
                out(is_far ? pairs.far[pair] : pairs.near[pair], low, high);
            });
        }
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

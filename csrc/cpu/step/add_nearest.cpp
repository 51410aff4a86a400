// An epoch of a small map in one pass over its rows: each finds its nearest unit and is added to the sums of that unit.
//
// Apart, a search of 100 units of 20 features and the sums after it read every row four times and write it twice, which takes longer
// than the products do. Here a block of rows stays in registers and the first-level cache from its first number to its sums. Rows
// whose two nearest units fp32 cannot tell apart are left to the search.
#include "cpu/module/kernel_table.h"
#include "cpu/runtime/arena.h"
#include "cpu/runtime/interruption.h"
#include "cpu/search/lanes/best_of_block.h"

namespace vitsom {
namespace VITSOM_ISA {

// Blocks between two questions whether to go on: a few milliseconds.
constexpr std::int64_t BLOCKS_BETWEEN = 256;

constexpr int MOST_PARTS = 256;  // threads

// Lengths of the longest prototype between which no square or product loses what matters.
constexpr double SHORTEST_MAP = 0x1p-40, LONGEST_MAP = 0x1p40;

// What a thread of its own adds up.
struct PartOfEpoch {
    double* sums;    // [num_prototypes][stride] of features, zeros beyond
    double* counts;  // [num_prototypes]
    double distance;
    std::int64_t left;

    static PartOfEpoch take(Arena& arena, std::int64_t num_prototypes, std::int64_t stride) {
        return {arena.take<double>(num_prototypes * stride), arena.take<double>(num_prototypes), 0, 0};
    }

    void clear(std::int64_t num_prototypes, std::int64_t stride) {
        for (std::int64_t i = 0; i < num_prototypes * stride; ++i) sums[i] = 0;
        for (std::int64_t k = 0; k < num_prototypes; ++k) counts[k] = 0;
    }

    void add(const float* row, std::int64_t unit, std::int64_t stride) {
        double* to = sums + unit * stride;
        for (std::int64_t d = 0; d < stride; d += WIDTH, to += WIDTH) {
            DoublePair total = {load_as<Doubles>(to), load_as<Doubles>(to + WIDTH / 2)};
            const DoublePair wide = load_wide(row + d);
            total.low += wide.low;
            total.high += wide.high;
            std::memcpy(to, &total, sizeof total);
        }
        ++counts[unit];
    }
};

// The map as a block of rows sees it: z . w - |w|^2 / 2 is largest where w is nearest.
struct SmallMap {
    Packed packed;
    float longest;  // no prototype is longer

    // How far such a score can be from the true one, for a row of a length: dim + 1 additions, and a rounding of the square.
    Vec error(Vec length) const {
        return (length + splat(longest / 2)) * (longest * static_cast<float>(packed.dim + 3) * 0x1.02p-24f);
    }
};

// Writes prototypes [groups][dim][AT_ONCE] and their bias; returns the length of the longest, NaN where one is not finite.
inline double pack_map(const Problem& p, float* prototypes, float* bias) {
    double longest = 0;
    for (std::int64_t k = 0; k < ceil_div(p.num_prototypes, AT_ONCE) * AT_ONCE; ++k) {
        const float* w = typed_row<float>(p.prototypes, k < p.num_prototypes ? k : 0);
        float* to = prototypes + k / AT_ONCE * AT_ONCE * p.dim + k % AT_ONCE;
        double squared = 0;
        for (std::int64_t d = 0; d < p.dim; ++d) {
            to[d * AT_ONCE] = w[d];
            squared += static_cast<double>(w[d]) * w[d];
        }
        bias[k] = static_cast<float>(-squared / 2);
        if (!(squared <= longest)) longest = squared;
    }
    return __builtin_sqrt(longest);
}

// Rows of z from `first` on as they are seen, row by row, and side by side. Lanes from `count` on repeat the last row.
inline void see_block(
    const Problem& p, const float* centre, float unit, std::int64_t first, std::int64_t count, std::int64_t stride, float* seen,
    float* side_by_side) {
    for (std::int64_t r = 0; r < BLOCK_SAMPLES; ++r) {
        const float* z = typed_row<float>(p.z, first + smaller(r, count - 1));
        float* out = seen + r * stride;
        for_each_vector(p.dim, [&](std::int64_t d, auto load_from, auto) {
            store(out + d, (load_from(z + d) - load_from(centre + d)) * unit);
        });
    }
    for (std::int64_t d = 0; d < p.dim; d += WIDTH) {
        for (std::int64_t r = 0; r < BLOCK_SAMPLES; r += WIDTH) {
            Vec block[WIDTH];
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; ++i) block[i] = load(seen + (r + i) * stride + d);
            transpose(block);
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; ++i) store(side_by_side + (d + i) * BLOCK_SAMPLES + r, block[i]);
        }
    }
}

// Adds a block; returns which of its rows are decided, a bit each.
inline std::uint64_t add_block(
    const SmallMap& map, const float* seen, const float* side_by_side, std::int64_t count, std::int64_t stride, bool squared,
    PartOfEpoch& part) {
    const BestOfBlock best = search_block(map.packed, side_by_side);
    std::uint64_t decided = 0;
    float distance[BLOCK_SAMPLES];
    std::int32_t unit[BLOCK_SAMPLES];
    for (int v = 0; v < VECTORS; ++v) {
        const Vec square = squares_of(side_by_side, map.packed.dim, v);
        const Vec margin = best.first[v] - best.second[v];
        const std::uint64_t lanes = lanes_reaching(margin, map.error(square_root(square)) * 2.02f) &
                                    lanes_reaching(splat(MOST_SQUARED), square);
        decided |= lanes << (v * WIDTH);
        const Vec apart = larger_of(square - 2 * best.first[v], Vec{});
        store(distance + v * WIDTH, squared ? apart : square_root(apart));
        std::memcpy(unit + v * WIDTH, &best.unit[v], sizeof best.unit[v]);
    }
    if (count < BLOCK_SAMPLES) decided &= (std::uint64_t{1} << count) - 1;
    double total = 0;
    for (std::uint64_t lanes = decided; lanes != 0; lanes &= lanes - 1) {
        const int lane = __builtin_ctzll(lanes);
        total += static_cast<double>(distance[lane]);
        part.add(seen + lane * stride, unit[lane], stride);
    }
    part.distance += total;
    return decided;
}

std::int64_t add_nearest(
    const Problem& p, const float* centre, float unit, bool squared, double* sums, double* distance, std::int64_t* left) {
    const std::int64_t groups = ceil_div(p.num_prototypes, AT_ONCE), blocks = ceil_div(p.batch, BLOCK_SAMPLES);
    const std::int64_t stride = ceil_div(p.dim, WIDTH) * WIDTH;
    const std::int64_t bytes = p.num_prototypes * (stride + 1) * static_cast<std::int64_t>(sizeof(double));
    const int parts = static_cast<int>(smaller(
        smaller(useful_threads(p.batch * p.num_prototypes * p.dim, p.threads), affordable_pieces(p, bytes)), MOST_PARTS));
    Arena arena;
    float *prototypes = nullptr, *bias = nullptr;
    PartOfEpoch part[MOST_PARTS];
    lay_out(arena, [&](Arena& a) {
        prototypes = a.take<float>(groups * p.dim * AT_ONCE);
        bias = a.take<float>(groups * AT_ONCE);
        for (int i = 0; i < parts; ++i) part[i] = PartOfEpoch::take(a, p.num_prototypes, stride);
    });
    const double longest = pack_map(p, prototypes, bias);
    *distance = 0;
    if (!(longest >= SHORTEST_MAP && longest <= LONGEST_MAP)) {
        for (std::int64_t i = 0; i < p.batch; ++i) left[i] = i;
        return p.batch;
    }
    const SmallMap map{{prototypes, bias, p.num_prototypes, p.dim}, static_cast<float>(longest * (1 + 0x1p-20))};
    Interruption interruption(p);
#pragma omp parallel for schedule(static) num_threads(parts) if (parts > 1)
    for (int i = 0; i < parts; ++i) {
        float seen[BLOCK_SAMPLES * MOST_FEATURES], side_by_side[MOST_FEATURES * BLOCK_SAMPLES];
        const std::int64_t begin = blocks * i / parts, end = blocks * (i + 1) / parts;
        std::int64_t* next = left + begin * BLOCK_SAMPLES;  // those of a part where its rows are
        part[i].clear(p.num_prototypes, stride);
        for (std::int64_t block = begin; block < end; ++block) {
            if (block % BLOCKS_BETWEEN == 0 ? interruption.is_wanted() : interruption.has_come()) break;
            const std::int64_t first = block * BLOCK_SAMPLES, count = smaller(BLOCK_SAMPLES, p.batch - first);
            see_block(p, centre, unit, first, count, stride, seen, side_by_side);
            const std::uint64_t decided = add_block(map, seen, side_by_side, count, stride, squared, part[i]);
            for (std::int64_t lane = 0; lane < count; ++lane) {
                if (!(decided >> lane & 1)) *next++ = first + lane;
            }
        }
        part[i].left = next - (left + begin * BLOCK_SAMPLES);
    }
    interruption.end_here();
    std::int64_t of_all = 0;
    for (int i = 0; i < parts; ++i) {
        const std::int64_t* from = left + blocks * i / parts * BLOCK_SAMPLES;
        for (std::int64_t j = 0; j < part[i].left; ++j) left[of_all++] = from[j];
        *distance += part[i].distance;
        for (std::int64_t k = 0; k < p.num_prototypes; ++k) {
            for (std::int64_t d = 0; d < p.dim; ++d) sums[k * (p.dim + 1) + d] += part[i].sums[k * stride + d];
            sums[k * (p.dim + 1) + p.dim] += part[i].counts[k];
        }
    }
    return of_all;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

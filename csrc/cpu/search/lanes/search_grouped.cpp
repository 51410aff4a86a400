// The search on a map in order where features are few: groups of samples that are near one another, side by side in the lanes, look
// into the tiles that any of them may need.
//
// Samples are put in the order of the tile whose centre is nearest, each group scores those tiles, and what it has found then bounds
// how far its samples have to look: a tile with centre c and radius r has no BMU of a sample z that has found a prototype at the
// distance u where |z - c| > u + r. Of a sample the best score of any tile is kept, and the best of all other tiles; the prototypes of
// its tile are told apart at the end. A sample that fp32 cannot decide is left to the next pass.
#include <cstdint>

#include "cpu/runtime/interruption.h"
#include "cpu/search/lanes/grouped_map.h"
#include "cpu/search/quantized/worthwhile.h"
#include "cpu/simd/masks.h"

namespace vitsom {
namespace VITSOM_ISA {

// Maps for which it is worth it: of fewer elements, to score all units takes less. With as many features as codes take, these do.
constexpr std::int64_t LEAST_ELEMENTS = 1 << 14, LEAST_UNITS = 256;

// Samples below which the order of them, and elements of the prototypes for each beyond which packing these, takes what is saved.
constexpr std::int64_t LEAST_BATCH = 256, MOST_ELEMENTS_A_SAMPLE = 512;

// Groups a thread looks at before it is known whether most samples can be decided, and the share of them that must be.
constexpr std::int64_t PROBED_GROUPS = 16;
constexpr double LEAST_DECIDED = 0.75;

// Groups between two questions whether to go on.
constexpr std::int64_t GROUPS_A_QUESTION = 64;

// Prototypes of a tile that are multiplied at a time.
constexpr int OF_TILE = 4;

// A group of samples, and what it has found.
struct Group {
    float z[MOST_FEATURES * BLOCK_SAMPLES];  // [dim][BLOCK_SAMPLES], in the unit of the map
    Vec squared[VECTORS];                    // lengths
    Vec first[VECTORS], second[VECTORS];     // the best score of any tile, and that of all others
    Ints place[VECTORS];                     // of the tile that the first is of
    Vec reach[VECTORS];                      // no less than the distance to the best that is found
};

// How far a score can be from the true one, in lengths of the sample and of what was added to it: a rounding of 2^-24 a product, and
// those of the elements of both, of the unit and of what is added.
inline float error_in_lengths(std::int64_t dim) { return static_cast<float>(dim + 6) * 0x1.02p-24f; }

// How far |z|^2 + h - 2 score can be from the squared distance, in squares of the length of the sample and of a prototype.
inline float error_of_square(std::int64_t dim) { return static_cast<float>(dim + 16) * 0x1p-22f; }

// Reads some samples; returns those that fp32 can hold, a bit each. The others are seen as zeros.
inline std::uint64_t read_group(
    const Problem& p, const GroupedMap& map, const std::int64_t* rows, std::int64_t count, Group& group) {
    with_dtype(p.z.dtype, [&](auto t) { pack_block<decltype(t)>(p.z, rows, count, map.dim, group.z); });
    std::uint64_t in_range = 0;
    for (int v = 0; v < VECTORS; ++v) {
        const Vec squared = squares_of(group.z, map.dim, v);
        const unsigned lanes = lanes_in_range(squared + (map.is_lifted ? LEAST_SQUARED : 0));
        const Vec factor = map.is_lifted ? splat(static_cast<float>(map.inverse_length)) : 1 / square_root(squared);
        const Ints is_there = (squared >= (map.is_lifted ? 0 : LEAST_SQUARED)) & (squared <= MOST_SQUARED);
        for (std::int64_t d = 0; d < map.dim; ++d) {
            float* x = group.z + d * BLOCK_SAMPLES + v * WIDTH;
            store(x, is_there ? load(x) * factor : Vec{});
        }
        group.squared[v] = squares_of(group.z, map.dim, v);
        in_range |= static_cast<std::uint64_t>(lanes) << (v * WIDTH);
    }
    return in_range;
}

// The tile whose centre is nearest of those of the block whose centre is nearest, for each sample.
inline void find_tiles(const GroupedMap& map, const Group& group, std::int64_t count, std::int32_t* place) {
    Vec best[VECTORS];
    Ints best_block[VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
        best[v] = splat(-__builtin_inff());
        best_block[v] = Ints{};
    }
    for (std::int64_t block = 0; block < map.blocks.tiles.count(); ++block) {
        const float* centre = map.block.centre_of(block, map.dim);
        Vec score[VECTORS];
        for (int v = 0; v < VECTORS; ++v) score[v] = splat(-map.block.half_square[block]);
        for (std::int64_t d = 0; d < map.dim; ++d) {
            const Vec element = splat(centre[d * LANES]);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) score[v] += load(group.z + d * BLOCK_SAMPLES + v * WIDTH) * element;
        }
        const Ints index = Ints{} + static_cast<std::int32_t>(block);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            best_block[v] = score[v] > best[v] ? index : best_block[v];
            best[v] = larger_of(score[v], best[v]);
        }
    }
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t block = best_block[i / WIDTH][i % WIDTH];
        const float* centres = map.tile.centre + block * map.dim * LANES;
        Lanes score = splat_lanes(0) - load_lanes(map.tile.half_square + block * LANES);
        for (std::int64_t d = 0; d < map.dim; ++d) {
            score = score + group.z[d * BLOCK_SAMPLES + i] * load_lanes(centres + d * LANES);
        }
        const float most = largest(score);
        place[i] = static_cast<std::int32_t>(block * LANES) + (most > -__builtin_inff() ? take_lane(score, most) : 0);
    }
}

// Notes the best score of a tile that has not been looked into.
inline void look_into(const GroupedMap& map, std::int64_t place, Group& group) {
    const float* tile = map.prototypes + place * map.tile_elements();
    const float* added = tile + map.dim * LANES;
    Vec most[VECTORS];
    for (int v = 0; v < VECTORS; ++v) most[v] = splat(-__builtin_inff());
    for (int k = 0; k < LANES; k += OF_TILE) {
        Vec sums[OF_TILE][VECTORS];
#pragma GCC unroll 4
        for (int i = 0; i < OF_TILE; ++i) {
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) sums[i][v] = splat(added[k + i]);
        }
        for (std::int64_t d = 0; d < map.dim; ++d) {
            Vec x[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) x[v] = load(group.z + d * BLOCK_SAMPLES + v * WIDTH);
#pragma GCC unroll 4
            for (int i = 0; i < OF_TILE; ++i) {
                const Vec element = splat(tile[d * LANES + k + i]);
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v) sums[i][v] += x[v] * element;
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < OF_TILE; ++i) {
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) most[v] = larger_of(sums[i][v], most[v]);
        }
    }
    const Ints here = Ints{} + static_cast<std::int32_t>(place);
    for (int v = 0; v < VECTORS; ++v) {
        const Vec less = most[v] < group.first[v] ? most[v] : group.first[v];
        group.place[v] = most[v] > group.first[v] ? here : group.place[v];
        group.second[v] = larger_of(less, group.second[v]);
        group.first[v] = larger_of(most[v], group.first[v]);
    }
}

inline void bound_reach(const GroupedMap& map, Group& group) {
    const float error = error_of_square(map.dim), h = map.is_lifted ? 0 : 1;
    for (int v = 0; v < VECTORS; ++v) {
        const Vec length = square_root(group.squared[v]) + 1;
        const Vec square = group.squared[v] + h - 2 * group.first[v];
        group.reach[v] = square_root((square > 0 ? square : Vec{}) + error * (length * length));
    }
}

// Whether any sample of the group may have its BMU within a ball.
inline bool may_be_within(const Group& group, const Balls& balls, std::int64_t i, std::int64_t dim) {
    const float* centre = balls.centre_of(i, dim);
    Vec squares[VECTORS] = {};
    for (std::int64_t d = 0; d < dim; ++d) {
        const Vec element = splat(centre[d * LANES]);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            const Vec apart = load(group.z + d * BLOCK_SAMPLES + v * WIDTH) - element;
            squares[v] += apart * apart;
        }
    }
    AnyReaching any;
    for (int v = 0; v < VECTORS; ++v) {
        const Vec far = (group.reach[v] + balls.radius[i]) * (1 + BALL_ERROR);
        any.note(far * far, squares[v]);
    }
    return static_cast<bool>(any);
}

// The ball around all that the samples of a group may look for.
struct GroupBall {
    float centre[MOST_FEATURES];
    float radius;
};

inline GroupBall ball_of(const Group& group, std::int64_t dim) {
    GroupBall ball;
    Vec squares[VECTORS] = {};
    for (std::int64_t d = 0; d < dim; ++d) {
        const float* z = group.z + d * BLOCK_SAMPLES;
        Vec total{};
        for (int v = 0; v < VECTORS; ++v) total += load(z + v * WIDTH);
        ball.centre[d] = sum(total) * (1.0f / BLOCK_SAMPLES);
        for (int v = 0; v < VECTORS; ++v) {
            const Vec apart = load(z + v * WIDTH) - ball.centre[d];
            squares[v] += apart * apart;
        }
    }
    ball.radius = 0;
    for (int v = 0; v < VECTORS; ++v) {
        const float most = largest(square_root(squares[v]) * (1 + BALL_ERROR) + group.reach[v]);
        if (!(most <= ball.radius)) ball.radius = most;
    }
    return ball;
}

// The balls of a panel that the group's touches, a bit each.
inline unsigned touched(const GroupBall& group, const Balls& balls, std::int64_t panel, std::int64_t dim) {
    const float* centre = balls.centre + panel * dim * LANES;
    Lanes squares{};
    for (std::int64_t d = 0; d < dim; ++d) {
        const Lanes apart = load_lanes(centre + d * LANES) - splat_lanes(group.centre[d]);
        squares = squares + apart * apart;
    }
    const Lanes far = (load_lanes(balls.radius + panel * LANES) + group.radius) * (1 + BALL_ERROR);
    return lanes_reaching(far, square_root(squares));
}

// The best two scores among the prototypes of its tile, of sample i.
inline LargestTwo scores_of_tile(const GroupedMap& map, const Group& group, std::int64_t i, std::int64_t place, int& lane) {
    const float* tile = map.prototypes + place * map.tile_elements();
    Lanes score = load_lanes(tile + map.dim * LANES);
    for (std::int64_t d = 0; d < map.dim; ++d) {
        score = score + group.z[d * BLOCK_SAMPLES + i] * load_lanes(tile + d * LANES);
    }
    LargestTwo best;
    best.first = largest(score);
    lane = best.first > -__builtin_inff() ? take_lane(score, best.first) : 0;
    best.second = largest(score);
    return best;
}

// Finds the BMUs of a group of samples, which begin at these tiles; returns those that are decided, a bit each, and adds the tiles
// that were looked into. `seen` [places] holds the number of the group that has looked into each.
inline std::uint64_t search_group(
    const GroupedMap& map, Group& group, const std::int32_t* first_place, std::int64_t count, std::int32_t* seen, std::int32_t number,
    std::int64_t* unit, std::int64_t& tiles) {
    for (int v = 0; v < VECTORS; ++v) {
        group.first[v] = group.second[v] = splat(-__builtin_inff());
        group.place[v] = Ints{};
    }
    const auto look = [&](std::int64_t place) {
        seen[place] = number;
        look_into(map, place, group);
        ++tiles;
    };
    for (std::int64_t i = 0; i < count; ++i) {
        if (seen[first_place[i]] != number) look(first_place[i]);
    }
    bound_reach(map, group);
    const GroupBall ball = ball_of(group, map.dim);
    for (std::int64_t panel = 0; panel < map.num_block_panels(); ++panel) {
        for (unsigned blocks = touched(ball, map.block, panel, map.dim); blocks != 0; blocks &= blocks - 1) {
            const std::int64_t block = panel * LANES + __builtin_ctz(blocks);
            for (unsigned lanes = touched(ball, map.tile, block, map.dim); lanes != 0; lanes &= lanes - 1) {
                const std::int64_t place = block * LANES + __builtin_ctz(lanes);
                if (seen[place] != number && may_be_within(group, map.tile, place, map.dim)) look(place);
            }
        }
    }
    std::uint64_t decided = 0;
    const float error = 2 * error_in_lengths(map.dim);
    for (std::int64_t i = 0; i < count; ++i) {
        const int v = static_cast<int>(i / WIDTH), l = static_cast<int>(i % WIDTH);
        const std::int64_t place = group.place[v][l];
        int lane = 0;
        const LargestTwo best = scores_of_tile(map, group, i, place, lane);
        const float second = best.second > group.second[v][l] ? best.second : group.second[v][l];
        const float needed = error * (__builtin_sqrtf(group.squared[v][l]) * 1.01f + map.added);
        if (!(best.first - second >= needed)) continue;
        decided |= std::uint64_t{1} << i;
        unit[i] = map.tiles.members(map.blocks.members(place / LANES)[static_cast<int>(place % LANES)])[lane];
    }
    return decided;
}

inline bool may_group(const Problem& p, std::int64_t batch, const SearchOutput& result) {
    const std::int64_t dim = p.dim - p.lifted, elements = p.num_prototypes * dim;
    return p.pruning == Pruning::automatic && result.wanted == 1 && p.dim < LEAST_DIM && batch >= LEAST_BATCH &&
           p.num_prototypes >= LEAST_UNITS && elements > LEAST_ELEMENTS && elements <= MOST_ELEMENTS_A_SAMPLE * batch;
}

// Adds the tiles that each sample was with to `counts`.
std::int64_t search_grouped(
    const Problem& p, std::int64_t* rows, std::int64_t batch, const SearchOutput& result, SearchCounts& counts) {
    if (!may_group(p, batch, result)) return 0;
    float shape_scratch[MOST_FEATURES + LIFTED];
    GroupedMap map(p, map_shape(p, shape_scratch));
    const std::int64_t places = map.num_places();
    const int threads = useful_threads(batch * p.num_prototypes * map.dim, p.threads);
    Arena arena;
    std::int32_t *place = nullptr, *next = nullptr, *seen = nullptr, *sorted_place = nullptr;
    std::int64_t* sorted = nullptr;
    bool* decided = nullptr;
    lay_out(arena, [&](Arena& a) {
        map.take(a);
        place = a.take<std::int32_t>(batch);
        sorted_place = a.take<std::int32_t>(batch);
        sorted = a.take<std::int64_t>(batch);
        decided = a.take<bool>(batch);
        next = a.take<std::int32_t>(places + 2);
        seen = a.take<std::int32_t>(threads * places);
    });
    map.find_unit(p);
    if (!(map.inverse_length == map.inverse_length)) return 0;
    for (std::int64_t i = map.blocks.tiles.count(); i < map.num_block_panels() * LANES; ++i) map.block.write_none(i, map.dim);
    for (std::int64_t i = 0; i < threads * places; ++i) seen[i] = -1;
    Interruption interruption(p);
    const std::int64_t all_groups = ceil_div(batch, BLOCK_SAMPLES);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (std::int64_t block = 0; block < map.blocks.tiles.count(); ++block) build_block(p, map, block, result);
#pragma omp for schedule(static)
        for (std::int64_t g = 0; g < all_groups; ++g) {
            if (g % GROUPS_A_QUESTION == 0 ? interruption.is_wanted() : interruption.has_come()) continue;
            const std::int64_t first = g * BLOCK_SAMPLES, count = smaller(BLOCK_SAMPLES, batch - first);
            Group group;
            const std::uint64_t in_range = read_group(p, map, rows + first, count, group);
            find_tiles(map, group, count, place + first);
            for (std::int64_t i = 0; i < count; ++i) {
                if (!(in_range >> i & 1)) place[first + i] = static_cast<std::int32_t>(places);
            }
        }
    }
    interruption.end_here();
    for (std::int64_t i = 0; i < places + 2; ++i) next[i] = 0;
    for (std::int64_t i = 0; i < batch; ++i) ++next[place[i] + 1];
    for (std::int64_t i = 0; i <= places; ++i) next[i + 1] += next[i];
    const std::int64_t in_range = next[places];
    for (std::int64_t i = 0; i < batch; ++i) {
        const std::int32_t to = next[place[i]]++;
        sorted[to] = rows[i];
        sorted_place[to] = place[i];
        decided[i] = false;
    }
    const std::int64_t groups = ceil_div(in_range, BLOCK_SAMPLES);
    std::int64_t done = 0, known = 0, tiles = 0;
    for (std::int64_t end = smaller(groups, threads * PROBED_GROUPS); done < groups; end = groups) {
        std::int64_t of_all = 0, looked_into = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : of_all, looked_into) if (threads > 1)
        for (std::int64_t g = done; g < end; ++g) {
            if (g % GROUPS_A_QUESTION == 0 ? interruption.is_wanted() : interruption.has_come()) continue;
            const std::int64_t first = g * BLOCK_SAMPLES, count = smaller(BLOCK_SAMPLES, in_range - first);
            Group group;
            read_group(p, map, sorted + first, count, group);
            std::int64_t unit[BLOCK_SAMPLES], looked = 0;
            const std::uint64_t lanes = search_group(
                map, group, sorted_place + first, count, seen + omp_get_thread_num() * places, static_cast<std::int32_t>(g), unit,
                looked);
            looked_into += looked * count;
            for (std::int64_t i = 0; i < count; ++i) {
                if (!(lanes >> i & 1)) continue;
                decided[first + i] = true;
                decide(p, sorted[first + i], unit[i], result);
                ++of_all;
            }
        }
        interruption.end_here();
        known += of_all;
        tiles += looked_into;
        done = end;
        if (static_cast<double>(known) < LEAST_DECIDED * static_cast<double>(smaller(in_range, done * BLOCK_SAMPLES))) break;
    }
    counts.tiles += tiles;
    std::int64_t left = 0;
    for (std::int64_t i = 0; i < batch; ++i) {
        if (!decided[i]) rows[left++] = sorted[i];
    }
    return batch - left;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

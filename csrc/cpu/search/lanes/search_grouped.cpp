// The search on a map in order where features are few: groups of samples that are near one another, side by side in the lanes, look
// into the tiles that any of them may need.
//
// Samples are put in the order of the tile whose centre is nearest, each group scores those tiles, and what it has found then bounds
// how far its samples have to look: a tile with centre c and radius r has no BMU of a sample z that has found a prototype at the
// distance u where |z - c| > u + r, and a box along the map bounds it closer. Of a sample the best score of any tile is kept, and the
// best of all other tiles; the prototypes of its tile are told apart at the end, in fp64 where fp32 cannot.
#include <cstdint>

#include "cpu/runtime/interruption.h"
#include "cpu/search/lanes/group.h"
#include "cpu/search/nearest.h"
#include "cpu/search/worthwhile.h"

namespace vitsom {
namespace VITSOM_ISA {

// Units for which it is worth it; fewer where prototypes have so many elements in all. To score all of 16 x 16 units, or of 24 x 24
// with up to 28 features, takes less.
constexpr std::int64_t LEAST_UNITS = 1024, LEAST_UNITS_OF_MANY = 400, MANY_ELEMENTS = 1 << 14;

// Samples for which the order of them and the tree, whose costs are in proportion to the prototypes, are worth it: of 300, they take
// what is saved.
constexpr std::int64_t LEAST_BATCH = 512;

// Groups a thread looks at before it goes on, the share of their samples that must be decided, and that of the tiles that they may
// have looked into.
constexpr std::int64_t PROBED_GROUPS = 8;
constexpr double LEAST_DECIDED = 0.75, MOST_TILES_OF_ALL = 0.6;

// Groups between two questions whether to go on.
constexpr std::int64_t GROUPS_A_QUESTION = 64;

// Prototypes that fp64 tells apart for a sample, and tiles that these may be in; where it takes more, it is left to the next pass.
constexpr std::int64_t MOST_CONTENDERS = 32, MOST_TILES = 1024;

// The tile whose centre is nearest of those of the block whose centre is nearest, for each sample.
inline void find_tiles(const GroupedMap& map, const SampleGroup& group, std::int64_t count, std::int32_t* place) {
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

// The tiles that a group has looked into, but for those beyond the room for them.
struct LookedInto {
    std::int32_t place[MOST_TILES];
    std::int64_t count = 0;

    void add(std::int64_t tile) {
        if (count < MOST_TILES) place[count] = static_cast<std::int32_t>(tile);
        ++count;
    }
};

// Looks into the tiles that the samples begin with, which are in order, and into all that any of them may need then.
inline void search_group(
    const GroupedMap& map, SampleGroup& group, const std::int32_t* first_place, std::int64_t count, LookedInto& looked) {
    int vectors[VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
        group.first[v] = group.second[v] = splat(-__builtin_inff());
        group.place[v] = Ints{};
        vectors[v] = v;
    }
    for (std::int64_t i = 0; i < count; ++i) {
        if (i > 0 && first_place[i] == first_place[i - 1]) continue;
        looked.add(first_place[i]);
        look_into(map, first_place[i], vectors, VECTORS, group);
    }
    const GroupBall ball = ball_of(group, map.dim);
    std::int64_t i = 0;  // of the first tiles, which come by in the same order
    for (std::int64_t panel = 0; panel < map.num_block_panels(); ++panel) {
        for (unsigned blocks = touched(ball, map.block, panel, map.dim); blocks != 0; blocks &= blocks - 1) {
            const std::int64_t block = panel * LANES + __builtin_ctz(blocks);
            for (unsigned lanes = touched(ball, map.tile, block, map.dim); lanes != 0; lanes &= lanes - 1) {
                const std::int64_t place = block * LANES + __builtin_ctz(lanes);
                while (i < count && first_place[i] < place) ++i;
                if (i < count && first_place[i] == place) continue;
                const int needed = may_need(map, group, place, vectors);
                if (needed == 0) continue;
                looked.add(place);
                look_into(map, place, vectors, needed, group);
            }
        }
    }
}

// The BMU of sample i among the prototypes whose scores may be the best, in fp64; false where these are too many.
inline bool decide_in_fp64(
    const Problem& p, const GroupedMap& map, const SampleGroup& group, std::int64_t i, std::int64_t row_of_z, float floor,
    const LookedInto& looked, const SearchOutput& result) {
    if (looked.count > MOST_TILES) return false;
    std::int64_t contenders[MOST_CONTENDERS], n = 0;
    for (std::int64_t t = 0; t < looked.count; ++t) {
        const std::int64_t place = looked.place[t];
        unsigned lanes = lanes_reaching(scores_of_tile(map, group, i, place), splat_lanes(floor));
        if (n + __builtin_popcount(lanes) > MOST_CONTENDERS) return false;
        for (; lanes != 0; lanes &= lanes - 1) contenders[n++] = map.unit_of(place, __builtin_ctz(lanes));
    }
    const Row z = row(p.z, row_of_z);
    const double inverse = result.inverse_z[row_of_z] = inverse_norm(z, p.dim);
    Nearest nearest = Nearest::none();
    for (std::int64_t c = 0; c < n; ++c) {
        const double product = dot(z, row(p.prototypes, contenders[c]), p.dim);
        nearest.meet(product * inverse * result.inverse_prototype[contenders[c]], contenders[c]);
    }
    nearest.write(result, row_of_z);
    return true;
}

// Finds the BMU of sample i of a group that has looked into all tiles that may have it; false where that is left to others.
inline bool decide_sample(
    const Problem& p, const GroupedMap& map, const SampleGroup& group, std::int64_t i, std::int64_t row_of_z, const LookedInto& looked,
    const SearchOutput& result) {
    const int v = static_cast<int>(i / WIDTH), l = static_cast<int>(i % WIDTH);
    Lanes score = scores_of_tile(map, group, i, group.place[v][l]);
    const float first = largest(score);
    if (!(first > -__builtin_inff())) return false;
    const int lane = take_lane(score, first);
    const float second = largest(score), others = group.second[v][l];
    const float needed = 2 * error_of_score(map.dim) * (__builtin_sqrtf(group.squared[v][l]) * 1.01f + map.added);
    if (first - (second > others ? second : others) < needed) {
        return decide_in_fp64(p, map, group, i, row_of_z, first - needed, looked, result);
    }
    decide(p, row_of_z, map.unit_of(group.place[v][l], lane), result);
    return true;
}

inline bool may_group(const Problem& p, std::int64_t batch, const SearchOutput& result) {
    const std::int64_t units = p.num_prototypes, elements = units * (p.dim - p.lifted);
    return p.pruning == Pruning::automatic && result.wanted == 1 && p.dim < LEAST_DIM && batch >= LEAST_BATCH &&
           (units >= LEAST_UNITS || (units >= LEAST_UNITS_OF_MANY && elements >= MANY_ELEMENTS));
}

// Adds the tiles that the group of each sample looked into to `counts`.
std::int64_t search_grouped(
    const Problem& p, std::int64_t* rows, std::int64_t batch, const SearchOutput& result, SearchCounts& counts) {
    if (!may_group(p, batch, result)) return 0;
    float shape_scratch[MOST_FEATURES + LIFTED];
    GroupedMap map(p, map_shape(p, shape_scratch));
    double order_scratch[3 * MOST_FEATURES];
    if (!is_in_order(p, map, order_scratch)) return 0;
    const std::int64_t places = map.num_places();
    const int threads = useful_threads(batch * p.num_prototypes * map.dim, p.threads);
    Arena arena;
    std::int32_t *place = nullptr, *next = nullptr, *sorted_place = nullptr;
    std::int64_t* sorted = nullptr;
    bool* decided = nullptr;
    lay_out(arena, [&](Arena& a) {
        map.take(a);
        place = a.take<std::int32_t>(batch);
        sorted_place = a.take<std::int32_t>(batch);
        sorted = a.take<std::int64_t>(batch);
        decided = a.take<bool>(batch);
        next = a.take<std::int32_t>(places + 2);
    });
    map.find_unit(p);
    if (!(map.inverse_length == map.inverse_length)) return 0;
    for (std::int64_t i = map.blocks.tiles.count(); i < map.num_block_panels() * LANES; ++i) map.block.write_none(i, map.dim);
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
            SampleGroup group;
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
        std::int64_t of_all = 0, of_tiles = 0;
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads) reduction(+ : of_all, of_tiles) if (threads > 1)
        for (std::int64_t g = done; g < end; ++g) {
            if (g % GROUPS_A_QUESTION == 0 ? interruption.is_wanted() : interruption.has_come()) continue;
            const std::int64_t first = g * BLOCK_SAMPLES, count = smaller(BLOCK_SAMPLES, in_range - first);
            SampleGroup group;
            read_group(p, map, sorted + first, count, group);
            LookedInto looked;
            search_group(map, group, sorted_place + first, count, looked);
            of_tiles += looked.count * count;
            for (std::int64_t i = first; i < first + count; ++i) {
                decided[i] = decide_sample(p, map, group, i - first, sorted[i], looked, result);
                of_all += decided[i];
            }
        }
        interruption.end_here();
        known += of_all;
        tiles += of_tiles;
        done = end;
        const auto probed = static_cast<double>(smaller(in_range, done * BLOCK_SAMPLES));
        if (static_cast<double>(known) < LEAST_DECIDED * probed) break;
        if (static_cast<double>(tiles) > MOST_TILES_OF_ALL * probed * static_cast<double>(map.tiles.tiles.count())) break;
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

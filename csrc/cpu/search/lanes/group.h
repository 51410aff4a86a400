// A group of samples, and what it asks of a map: how far its samples have to look, and the scores of a tile.
#pragma once

#include "cpu/search/lanes/grouped_map.h"
#include "cpu/simd/masks.h"

namespace vitsom {
namespace VITSOM_ISA {

// A group of samples, and what it has found.
struct SampleGroup {
    float z[MOST_FEATURES * BLOCK_SAMPLES];  // [dim][BLOCK_SAMPLES], in the unit of the map
    Vec squared[VECTORS];                    // lengths
    Vec first[VECTORS], second[VECTORS];     // the best score of any tile, and that of all others
    Ints place[VECTORS];                     // of the tile that the first is of
    Vec reach[VECTORS];                      // no less than the distance to the best that is found
};

// How far a score can be from the true one, in lengths of the sample and of what was added to it: a rounding of 2^-24 a product, and
// those of the elements of both, of the unit and of what is added.
inline float error_of_score(std::int64_t dim) { return static_cast<float>(dim + 6) * 0x1.02p-24f; }

// How far |z|^2 + h - 2 score can be from the squared distance, in squares of the length of the sample and of a prototype.
inline float error_of_square(std::int64_t dim) { return static_cast<float>(dim + 16) * 0x1p-22f; }

// Reads some samples; returns those that fp32 can hold, a bit each. The others are seen as zeros.
inline std::uint64_t read_group(
    const Problem& p, const GroupedMap& map, const std::int64_t* rows, std::int64_t count, SampleGroup& group) {
    with_dtype(p.z.dtype, [&](auto t) { pack_block<decltype(t)>(p.z, rows, count, map.dim, group.z); });
    std::uint64_t in_range = 0;
    for (int v = 0; v < VECTORS; ++v) {
        float* z = group.z + v * WIDTH;
        Vec squared = squares_of(group.z, map.dim, v), factor = 1 / square_root(squared);
        unsigned lanes = lanes_in_range(squared);
        if (map.is_lifted) factor = splat(static_cast<float>(map.inverse_length));
        for (std::int64_t d = 0; d < map.dim; ++d) store(z + d * BLOCK_SAMPLES, load(z + d * BLOCK_SAMPLES) * factor);
        squared = squares_of(group.z, map.dim, v);
        if (map.is_lifted) lanes = lanes_reaching(splat(MOST_SQUARED), squared);
        if (lanes != (1u << WIDTH) - 1) {
            for (std::int64_t d = 0; d < map.dim; ++d) {
                for (int lane = 0; lane < WIDTH; ++lane) {
                    if (!(lanes >> lane & 1)) z[d * BLOCK_SAMPLES + lane] = 0;
                }
            }
        }
        group.squared[v] = squares_of(group.z, map.dim, v);
        in_range |= static_cast<std::uint64_t>(lanes) << (v * WIDTH);
    }
    return in_range;
}

// What a score of `first` leaves: no less than how far the best that is found is.
inline void bound_reach(const GroupedMap& map, SampleGroup& group, int v) {
    const float error = error_of_square(map.dim), h = map.is_lifted ? 0 : 1;
    const Vec length = square_root(group.squared[v]) + 1;
    const Vec square = group.squared[v] + h - 2 * group.first[v];
    group.reach[v] = square_root((square > 0 ? square : Vec{}) + error * (length * length));
}

// Notes the best score of a tile, which has not been looked into, for some vectors of samples.
template <int COUNT>
void look_into(const GroupedMap& map, std::int64_t place, const int (&vectors)[VECTORS], SampleGroup& group) {
    constexpr int AT_ONCE = COUNT > 2 ? 4 : (VECTORS > 3 ? 16 : 8) / COUNT;  // prototypes: as many sums as there is room for
    const float* tile = map.prototypes + place * map.tile_elements();
    const float* added = tile + map.dim * LANES;
    const float* z[COUNT];
    Vec most[COUNT];
#pragma GCC unroll 4
    for (int v = 0; v < COUNT; ++v) {
        z[v] = group.z + vectors[v] * WIDTH;
        most[v] = splat(-__builtin_inff());
    }
    for (int k = 0; k < LANES; k += AT_ONCE) {
        Vec sums[AT_ONCE][COUNT];
#pragma GCC unroll 16
        for (int i = 0; i < AT_ONCE; ++i) {
#pragma GCC unroll 4
            for (int v = 0; v < COUNT; ++v) sums[i][v] = splat(added[k + i]);
        }
        for (std::int64_t d = 0; d < map.dim; ++d) {
            Vec x[COUNT];
#pragma GCC unroll 4
            for (int v = 0; v < COUNT; ++v) x[v] = load(z[v] + d * BLOCK_SAMPLES);
#pragma GCC unroll 16
            for (int i = 0; i < AT_ONCE; ++i) {
                const Vec element = splat(tile[d * LANES + k + i]);
#pragma GCC unroll 4
                for (int v = 0; v < COUNT; ++v) sums[i][v] += x[v] * element;
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < AT_ONCE; ++i) {
#pragma GCC unroll 4
            for (int v = 0; v < COUNT; ++v) most[v] = larger_of(sums[i][v], most[v]);
        }
    }
    const Ints here = Ints{} + static_cast<std::int32_t>(place);
#pragma GCC unroll 4
    for (int i = 0; i < COUNT; ++i) {
        const int v = vectors[i];
        const Vec less = most[i] < group.first[v] ? most[i] : group.first[v];
        group.place[v] = most[i] > group.first[v] ? here : group.place[v];
        group.second[v] = larger_of(less, group.second[v]);
        group.first[v] = larger_of(most[i], group.first[v]);
        bound_reach(map, group, v);
    }
}

inline void look_into(const GroupedMap& map, std::int64_t place, const int (&vectors)[VECTORS], int count, SampleGroup& group) {
    if (count == 1) look_into<1>(map, place, vectors, group);
    else if (count == 2) look_into<2>(map, place, vectors, group);
    else if (count == 3) look_into<3>(map, place, vectors, group);
    else look_into<VECTORS>(map, place, vectors, group);
}

// The vectors of a group of which any sample may have its BMU within a tile; returns how many.
inline int may_need(const GroupedMap& map, const SampleGroup& group, std::int64_t place, int (&vectors)[VECTORS]) {
    const float *centre = map.tile.centre_of(place, map.dim), *axes = map.axes + place * map.dim * 2;
    const Box box = map.box[place];
    Vec squares[VECTORS] = {}, x[VECTORS] = {}, y[VECTORS] = {};
    for (std::int64_t d = 0; d < map.dim; ++d) {
        const Vec mean = splat(centre[d * LANES]), across = splat(axes[2 * d]), down = splat(axes[2 * d + 1]);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            const Vec apart = load(group.z + d * BLOCK_SAMPLES + v * WIDTH) - mean;
            squares[v] += apart * apart;
            x[v] += apart * across;
            y[v] += apart * down;
        }
    }
    int count = 0;
    for (int v = 0; v < VECTORS; ++v) {
        const Vec far = group.reach[v] * group.reach[v] * (1 + BALL_ERROR) + BOX_ERROR * squares[v];
        if (lanes_reaching(far, square_beyond(box, squares[v], x[v], y[v])) != 0) vectors[count++] = v;
    }
    return count;
}

// The ball around all that the samples of a group may look for.
struct GroupBall {
    float centre[MOST_FEATURES];
    float radius;
};

inline GroupBall ball_of(const SampleGroup& group, std::int64_t dim) {
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

// The scores of sample i with the prototypes of a tile.
inline Lanes scores_of_tile(const GroupedMap& map, const SampleGroup& group, std::int64_t i, std::int64_t place) {
    const float* tile = map.prototypes + place * map.tile_elements();
    Lanes score = load_lanes(tile + map.dim * LANES);
    for (std::int64_t d = 0; d < map.dim; ++d) {
        score = score + group.z[d * BLOCK_SAMPLES + i] * load_lanes(tile + d * LANES);
    }
    return score;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

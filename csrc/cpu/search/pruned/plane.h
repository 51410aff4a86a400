// The plane that the prototypes of a tile lie in, nearly, and bounds of their products with a sample.
//
// w = sum over j of (w . e_j) e_j + rest, with e_0 the centre of the tile and e_1, e_2 the directions in which the map runs there.
// So z . w is at most sum over j of (w . e_j) (z . e_j) + |z - its projection| |rest|. On a map of 256 x 256 fitted to photo patches
// the rest is a fifth of what the centre alone leaves; of the tiles of a map of 512 x 512 that their cones have not ruled out, one
// in 13 stays.
#pragma once

#include "cpu/search/pruned/members.h"

namespace vitsom {
namespace VITSOM_ISA {

struct Plane {
    Lanes along, across, down;  // w . e_j of each lane
    Lanes rest;                 // no less than its length
    Lanes slack;                // of the bound, for its roundings; -inf where there is no prototype
    // In a ball, e_0 is the direction of its centre c, if that is far enough from the origin, and what lies in the plane is d = w - c:
    // z . w - |w|^2 / 2 = (1 + a) (z . c - |c|^2 / 2) + ... - a |c|^2 / 2 - |d|^2 / 2, where a is d . c / |c|^2, or 0.
    float slack_of_length;      // what more of slack there is, in proportion to how long a sample is
    float half_square, across_centre, down_centre;  // |c|^2 / 2, c . e_1, c . e_2
    float inverse_square;       // 1 / |c|^2, or 0
};

// To length 1, or to 0 if its squared length is below `least`: then it has no direction but that of its roundings.
inline float normalising(float squared, float least) { return squared > least ? 1 / __builtin_sqrtf(squared) : 0; }

// Makes centre, if there is one, u and v orthogonal and u and v of length 1, nearly: the roundings are in proportion to what is taken
// off. `inverse_square` is that of the centre's length.
inline void orthonormalise(const float* centre, float inverse_square, float* u, float* v, std::int64_t n, float least) {
    const auto at_centre = [=](std::int64_t d) { return centre ? load(centre + d) : Vec{}; };
    Vec sums[4] = {}, cv{};
    for (std::int64_t d = 0; d < n; d += WIDTH) {
        const Vec c = at_centre(d), x = load(u + d), y = load(v + d);
        sums[0] += c * x;
        sums[1] += x * x;
        sums[2] += x * y;
        sums[3] += y * y;
        cv += c * y;
    }
    float product[4];
    sum_four(sums, product);
    const float cx = product[0], sx = cx * inverse_square, uu = product[1] - cx * sx, cy = sum(cv), sy = cy * inverse_square;
    const float scale_u = normalising(uu, least);
    const float uy = (product[2] - sx * cy) * scale_u, vv = product[3] - cy * sy - uy * uy;
    const float scale_v = normalising(vv, least);
    for (std::int64_t d = 0; d < n; d += WIDTH) {
        const Vec c = at_centre(d), x = (load(u + d) - sx * c) * scale_u;
        store(u + d, x);
        store(v + d, (load(v + d) - sy * c - uy * x) * scale_v);
    }
}

inline void sum_members(const float* members, std::int64_t n, float* sum) {
    for (std::int64_t d = 0; d < n; d += WIDTH, members += SIDE_BY_SIDE) {
        Vec total{};
#pragma GCC unroll 16
        for (int lane = 0; lane < LANES; ++lane) total += load(members + lane * WIDTH);
        store(sum + d, total);
    }
}

// The sum of the members and two contrasts between them: a number a lane, of sum 0, for each. axes is [3][dim].
inline void contrast_members(const float* members, const float (&contrast)[2][LANES], std::int64_t n, float* axes) {
    for (std::int64_t d = 0; d < n; d += WIDTH, members += SIDE_BY_SIDE) {
        Vec total{}, u{}, v{};
#pragma GCC unroll 16
        for (int lane = 0; lane < LANES; ++lane) {
            const Vec x = load(members + lane * WIDTH);
            total += x;
            u += contrast[0][lane] * x;
            v += contrast[1][lane] * x;
        }
        store(axes + d, total);
        store(axes + n + d, u);
        store(axes + 2 * n + d, v);
    }
}

// To length 1, or to 0 where it has no direction.
inline void normalise(float* x, std::int64_t n) {
    const float factor = normalising(dot_padded(x, x, n), 0x1p-20f);
    for (std::int64_t d = 0; d < n; d += WIDTH) store(x + d, load(x + d) * factor);
}

// Makes the two contrasts axes beside the first.
inline void complete_axes(float* axes, std::int64_t n) {
    orthonormalise(axes, 1, axes + n, axes + 2 * n, n, 0x1p-34f);
    orthonormalise(axes, 1, axes + n, axes + 2 * n, n, 0.5f);  // what the roundings of the first round have left
}

// A member is seen from the centre, w = c + d: z . w = z . c (1 + d . c) + (z . u) (d . u) + (z . v) (d . v) + s . r. Nearly all of it
// is z . c, so that the roundings of the others, and how far the axes are from orthonormal, matter in proportion to |d| alone. Where
// the map is finer than its roundings, a bound that is looser by 1e-6 leaves half as many candidates more.
// Of a ball, what is z . (w - c) and (w - c)^2 is small as a whole. `squared` is how far each is from the centre.
inline Plane plane_of(
    const float* members, const Lanes& present, const float* axes, std::int64_t n, bool is_ball, float inverse_square,
    Lanes& squared) {
    constexpr int AT_ONCE = WIDTH == 16 ? 4 : 2;  // as there are registers for
    Vec sums[4][LANES];
    for (int first = 0; first < LANES; first += AT_ONCE) {
        Vec squares[AT_ONCE] = {}, along[AT_ONCE] = {}, across[AT_ONCE] = {}, down[AT_ONCE] = {};
        const float* x = members + first * WIDTH;
        for (std::int64_t d = 0; d < n; d += WIDTH, x += SIDE_BY_SIDE) {
            const Vec c = load(axes + d), u = load(axes + n + d), v = load(axes + 2 * n + d);
#pragma GCC unroll 4
            for (int lane = 0; lane < AT_ONCE; ++lane) {
                const Vec difference = load(x + lane * WIDTH) - c;
                squares[lane] += difference * difference;
                along[lane] += difference * c;
                across[lane] += difference * u;
                down[lane] += difference * v;
            }
        }
        for (int lane = 0; lane < AT_ONCE; ++lane) {
            sums[0][first + lane] = squares[lane];
            sums[1][first + lane] = along[lane];
            sums[2][first + lane] = across[lane];
            sums[3][first + lane] = down[lane];
        }
    }
    squared = lanes_of(sums[0]);
    const Lanes along = lanes_of(sums[1]), share = along * inverse_square;
    Plane plane{};
    plane.along = 1 + share;
    plane.across = lanes_of(sums[2]);
    plane.down = lanes_of(sums[3]);
    // With m the roundings of a chain: the square of the rest is off by (4.5 m + 5) |d|^2, and 3 (m + 2) |d|^2 for axes not
    // orthonormal; the bound by m for z . c, 4 for the unit vectors, 4 of its own sum, and (6.2 m + 9) |d| for all else.
    const float error = chain_error(n);
    const Lanes in_plane = plane.across * plane.across + plane.down * plane.down;
    const Lanes left = squared - (along * share + in_plane);
    plane.rest = square_root(larger_of(left, Lanes{}) + squared * (8 * error + 0x1p-20f)) * 1.001f + 0x1p-23f;
    if (is_ball) {
        const float farthest = largest(squared + present);
        plane.slack = present - 0.5f * (inverse_square > 0 ? squared + along : squared);
        plane.slack_of_length = farthest > 0 ? __builtin_sqrtf(farthest) * (10 * error + 0x1p-19f) : 0;
    } else {
        plane.slack = present + (error + 2 * UNIT_ERROR + 0x1p-22f) + square_root(squared) * (7 * error + 0x1p-19f);
    }
    return plane;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

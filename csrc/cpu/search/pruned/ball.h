// Tiles under the squared Euclidean distance: balls in the place of cones.
//
// Latents and prototypes are seen from an origin, in a unit of about the longest prototype; a score is z . w - |w|^2 / 2, which is
// (|z|^2 - |z - w|^2) / 2. A prototype of a tile with centre c and radius r is at a distance of at least |z - c| - r from z. Where one
// is known at the distance t, with the score T, none of the tile can be nearer unless |z - c| <= t + r, that is
//
//     z . c - |c|^2 / 2 + r^2 / 2 + t r >= T.
#pragma once

#include "cpu/search/frame.h"
#include "cpu/search/pruned/cone.h"

namespace vitsom {
namespace VITSOM_ISA {

// The mean of the members that are present.
inline void mean_of_members(const float* members, const Lanes& present, std::int64_t n, float* mean) {
    sum_members(members, n, mean);
    const int count = __builtin_popcount(lanes_reaching(present, splat_lanes(0)));
    const float share = count == 0 ? 0 : 1 / static_cast<float>(count);
    for (std::int64_t d = 0; d < n; d += WIDTH) store(mean + d, load(mean + d) * share);
}

// A little more than the square root of the largest of those that are there, a bit each.
inline float radius_from(Lanes squares, unsigned there, std::int64_t n) {
    for (int lane = 0; lane < LANES; ++lane) {
        if (!(there >> lane & 1)) set_lane(squares, lane, 0.0f);
    }
    const float most = largest(squares);
    return most > 0 ? __builtin_sqrtf(most) * (1 + chain_error(n) + 0x1p-20f) + 0x1p-40f : 0;
}

inline Radius ball_of(const float* centre, float radius, std::int64_t n) {
    return {1, radius, (radius * radius - dot_padded(centre, centre, n)) / 2};
}

// The plane and the ball of a tile of prototypes; axes is [3][dim], the first its centre, which is the mean.
inline Plane describe_ball(
    const float* members, const Lanes& present, const float (&contrast)[2][LANES], std::int64_t n, float* axes, Radius& radius) {
    float *u = axes + n, *v = axes + 2 * n;
    contrast_members(members, contrast, n, axes);
    mean_of_members(members, present, n, axes);
    float left_out[2] = {};  // of members that are not there, contrasts are of zeros in the place of the mean
    const unsigned there = lanes_reaching(present, splat_lanes(0));
    for (int lane = 0; lane < LANES; ++lane) {
        for (int axis = 0; axis < 2; ++axis) left_out[axis] += there >> lane & 1 ? contrast[axis][lane] : 0;
    }
    for (std::int64_t d = 0; d < n; d += WIDTH) {
        store(u + d, load(u + d) - left_out[0] * load(axes + d));
        store(v + d, load(v + d) - left_out[1] * load(axes + d));
    }
    radius = ball_of(axes, radius_from(square_distances(members, axes, n), there, n), n);
    const float square = dot_padded(axes, axes, n);
    const bool has_direction = square > 4 * radius.sine * radius.sine && square > 0x1p-40f;
    const float inverse_square = has_direction ? 1 / square : 0;
    const float* centre = has_direction ? axes : nullptr;
    orthonormalise(centre, inverse_square, u, v, n, 0x1p-50f);
    orthonormalise(centre, inverse_square, u, v, n, 0.5f);
    Plane plane = plane_of(members, present, axes, n, true, inverse_square);
    plane.half_square = square / 2;
    plane.inverse_square = inverse_square;
    plane.across_centre = dot_padded(axes, u, n);
    plane.down_centre = dot_padded(axes, v, n);
    return plane;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

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

inline Radius ball_of(float radius, float centre_square) {
    return {1, radius, (radius * radius - centre_square) / 2};
}

// A centre nearer to the middle of the smallest ball than the mean, from which a tile of 4 x 4 has a radius a tenth shorter: within
// the plane, as `find_axis` of a cone. Writes it in vectors `stride` apart.
inline Radius move_to_middle(
    const Plane& plane, const Lanes& squared, const Lanes& present, const float* axes, std::int64_t n, float* centre,
    std::int64_t stride) {
    float across[LANES], down[LANES];
    store_lanes(across, plane.across);
    store_lanes(down, plane.down);
    float x = 0, y = 0, best = __builtin_inff(), best_x = 0, best_y = 0;
    for (int step = 0;; ++step) {
        // |d - x u - y v|^2, of u and v of length 1
        const Lanes apart = squared + (x * x + y * y) - 2 * (x * plane.across + y * plane.down) + present;
        const float most = largest(apart);
        if (most < best) {
            best = most;
            best_x = x;
            best_y = y;
        }
        if (step == STEPS || !(most > 0)) break;
        const int lane = lane_of(apart, most);
        x += (across[lane] - x) * step_size(step);
        y += (down[lane] - y) * step_size(step);
    }
    Vec squares{};
    for (std::int64_t d = 0; d < n; d += WIDTH) {
        const Vec v = load(axes + d) + best_x * load(axes + n + d) + best_y * load(axes + 2 * n + d);
        squares += v * v;
        store(centre + d / WIDTH * stride, v);
    }
    // Of all that is rounded: products with the axes, what these are off from orthonormal, and the new centre.
    const float farthest = largest(squared + present) > 0 ? largest(squared + present) : 0, error = 16 * chain_error(n);
    const float radius = __builtin_sqrtf((best > 0 && best < farthest ? best : farthest) + error * farthest) * (1 + 0x1p-20f);
    return ball_of(radius + 0x1p-23f * __builtin_sqrtf(sum(squares)) + 0x1p-40f, sum(squares));
}

// Moves the centre of a ball that is to hold those of the members; returns its radius.
inline float shrink_ball(const float* members, const Lanes& present, const Lanes& radius, std::int64_t n, float* centre) {
    for (int step = 0;; ++step) {
        const Lanes apart = square_root(square_distances(members, centre, n));
        const Lanes reach = apart * (1 + chain_error(n) + 0x1p-20f) + radius + present;
        const float most = largest(reach);
        if (step == STEPS || !(most > 0)) return most;
        const float* farthest = members + lane_of(reach, most) * WIDTH;
        const float size = step_size(step);
        for (std::int64_t d = 0; d < n; d += WIDTH) {
            const Vec x = load(centre + d);
            store(centre + d, x + (load(farthest + d * LANES) - x) * size);
        }
    }
}

// The plane and the ball of a tile of prototypes; axes is [3][dim], the first the mean, and the centre of the ball is written in
// vectors `stride` apart.
inline Plane describe_ball(
    const float* members, const Lanes& squares, const Lanes& present, const float (&contrast)[2][LANES], std::int64_t n,
    float* axes, float* centre, std::int64_t stride, Radius& radius) {
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
    const float square = dot_padded(axes, axes, n);
    const bool has_direction = square > 0.25f * largest(squares + present) && square > 0x1p-40f;
    const float inverse_square = has_direction ? 1 / square : 0;
    const float* direction = has_direction ? axes : nullptr;
    orthonormalise(direction, inverse_square, u, v, n, 0x1p-50f);
    orthonormalise(direction, inverse_square, u, v, n, 0.5f);
    Lanes squared;
    Plane plane = plane_of(members, present, axes, n, true, inverse_square, squared);
    plane.half_square = square / 2;
    plane.inverse_square = inverse_square;
    plane.across_centre = dot_padded(axes, u, n);
    plane.down_centre = dot_padded(axes, v, n);
    radius = move_to_middle(plane, squared, present, axes, n, centre, stride);
    return plane;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

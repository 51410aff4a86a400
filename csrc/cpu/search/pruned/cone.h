// The narrowest cone around some vectors, nearly.
//
// The direction of their sum is a poor axis where they are denser on one side. From there, a few steps towards whichever is
// farthest, each shorter than the last, come close to the best (Badoiu & Clarkson's way to the smallest ball): on a map of
// 512 x 512 fitted to photo patches, a sample is left with 68 tiles of 4 x 4 prototypes in the place of 109, and with 105 of
// 16 x 16 in the place of 165, if nothing else rules them out.
#pragma once

#include "cpu/search/pruned/plane.h"
#include "cpu/simd/masks.h"

namespace vitsom {
namespace VITSOM_ISA {

// How wide a cone is: cosine and sine of the largest angle to its axis. The cosine is never too large, nor the sine too small. Of a
// ball: 1 and its radius.
struct Radius {
    float cosine, sine;
    float more;  // what is needed less of the product with the centre
};

// Holds any vector at all.
constexpr Radius EVERYTHING{-__builtin_inff(), 0, 0};

inline Radius radius_of(double cosine) {
    if (!(cosine > 0)) return EVERYTHING;
    if (cosine > 1) cosine = 1;
    const float rounded = static_cast<float>(cosine) - 0x1p-23f;
    return {rounded, static_cast<float>(__builtin_sqrt((1.0 - rounded) * (1.0 + rounded))) * (1 + 0x1p-20f), 0};
}

constexpr int STEPS = 6;

inline float step_size(int step) { return 0.6f / static_cast<float>(step + 2); }

// The least of the members that are present.
inline float least_along(const Lanes& along, const Lanes& present) { return -largest(present - along); }

inline int lane_of(const Lanes& along, float value) {
    const auto lanes = lanes_equal(along, value);
    return lanes == 0 ? 0 : __builtin_ctz(lanes);
}

// The axis of a cone that holds the members of a plane: within its three dimensions, which they hardly leave, so that a step takes
// no product of vectors. Returns the least product of a member with it.
inline float find_axis(
    const Plane& plane, const Lanes& present, const float* axes, std::int64_t n, float* axis, std::int64_t stride) {
    float along[LANES], across[LANES], down[LANES];
    store_lanes(along, plane.along);
    store_lanes(across, plane.across);
    store_lanes(down, plane.down);
    float x = 1, y = 0, w = 0, best = -1, best_x = 1, best_y = 0, best_w = 0;
    for (int step = 0;; ++step) {
        const Lanes products = plane.along * x + plane.across * y + plane.down * w;
        const float least = least_along(products, present);
        const float factor = 1 / __builtin_sqrtf(x * x + y * y + w * w);  // the next step need not wait for it
        if (least * factor > best) {
            best = least * factor;
            best_x = x * factor;
            best_y = y * factor;
            best_w = w * factor;
        }
        if (step == STEPS || !(least > 0)) break;
        const int lane = lane_of(products, least);
        const float size = step_size(step);
        x += (along[lane] - x) * size;
        y += (across[lane] - y) * size;
        w += (down[lane] - w) * size;
    }
    Vec squares{};
    for (std::int64_t d = 0; d < n; d += WIDTH) {
        const Vec v = best_x * load(axes + d) + best_y * load(axes + n + d) + best_w * load(axes + 2 * n + d);
        squares += v * v;
        store(axis + d / WIDTH * stride, v);
    }
    return sum(squares) > 0.5f ? best : -1;  // the members have no direction in common
}

// Of the cone around the sum of two angles, given by their cosines and sines.
inline Lanes cosine_of_sum(const Lanes& cosine, const Lanes& other_cosine, const Lanes& other_sine) {
    return cosine * other_cosine - square_root(larger_of(1 - cosine * cosine, Lanes{})) * other_sine;
}

// Moves the axis of a cone that is to hold those of the members; returns the cosine of its radius.
inline float narrow_cone(
    const float* members, const Lanes& present, const Lanes& cosine, const Lanes& sine, std::int64_t n, float* axis) {
    for (int step = 0;; ++step) {
        const Lanes reach = cosine_of_sum(dot_members(members, axis, n), cosine, sine);
        const float least = least_along(reach, present);
        if (step == STEPS || !(least > 0)) return least;
        const float* farthest = members + lane_of(reach, least) * WIDTH;
        const float size = step_size(step);
        for (std::int64_t d = 0; d < n; d += WIDTH) {
            const Vec x = load(axis + d);
            store(axis + d, x + (load(farthest + d * LANES) - x) * size);
        }
        normalise(axis, n);
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

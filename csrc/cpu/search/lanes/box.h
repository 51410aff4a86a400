// The box that holds a tile's prototypes, along the map and aside of it.
#pragma once

#include "cpu/simd/sixteen.h"

namespace vitsom {
namespace VITSOM_ISA {

// A product of up to 64 features with an axis is off by 2^-18 of the distance to the middle of a box: what a squared distance that
// three of them make up can be too large by, in squares of that distance, and what the reach of a member can be too small by.
constexpr float BOX_ERROR = 0x1p-14f, REACH_ERROR = 0x1p-17f;

// How far the prototypes of a tile reach from their mean along the two directions in which the map runs there, and across both.
//
// A prototype is at a distance of at least sqrt(max(0, |x| - across)^2 + max(0, |y| - down)^2 + max(0, |rest| - aside)^2) of a sample
// that is x and y from the mean along these, and `rest` aside of them. What samples differ in is nearly all aside: of a map in 32
// features, groups look into 69 tiles by boxes and into 106 by balls.
struct Box {
    float across, down, aside;
};

// Of members [dim][LANES], 0 or 1 for each that is there, and their mean, a feature every LANES: the box, and its axes [dim][2], of
// length 1, or 0 where the map does not run. `contrasts` are how far a lane is to the right of the middle of a tile, and how far
// below it.
inline Box box_of(
    const float* members, const Lanes& there, const float* mean, const float (&contrasts)[2][LANES], std::int64_t dim, float* axes) {
    const Lanes contrast[2] = {load_lanes(contrasts[0]) * there, load_lanes(contrasts[1]) * there};
    double squares[2] = {}, product = 0;
    for (std::int64_t d = 0; d < dim; ++d) {
        const Lanes apart = load_lanes(members + d * LANES) - splat_lanes(mean[d * LANES]);
        const float across = sum(contrast[0] * apart), down = sum(contrast[1] * apart);
        axes[2 * d] = across;
        axes[2 * d + 1] = down;
        squares[0] += static_cast<double>(across) * static_cast<double>(across);
        squares[1] += static_cast<double>(down) * static_cast<double>(down);
        product += static_cast<double>(across) * static_cast<double>(down);
    }
    const double share = squares[0] > 0 ? product / squares[0] : 0, left = squares[1] - share * product;
    const double scale[2] = {
        squares[0] > 0 ? 1 / __builtin_sqrt(squares[0]) : 0, left > 0x1p-20 * squares[1] ? 1 / __builtin_sqrt(left) : 0};
    Lanes x{}, y{}, all{};
    for (std::int64_t d = 0; d < dim; ++d) {
        const double first = static_cast<double>(axes[2 * d]), second = static_cast<double>(axes[2 * d + 1]) - share * first;
        axes[2 * d] = static_cast<float>(first * scale[0]);
        axes[2 * d + 1] = static_cast<float>(second * scale[1]);
        const Lanes apart = (load_lanes(members + d * LANES) - splat_lanes(mean[d * LANES])) * there;
        x = x + apart * axes[2 * d];
        y = y + apart * axes[2 * d + 1];
        all = all + apart * apart;
    }
    const Lanes rest = larger_of(all - x * x - y * y, Lanes{}) + BOX_ERROR * all, more = REACH_ERROR * square_root(all);
    return {largest(larger_of(x, splat_lanes(0) - x) + more), largest(larger_of(y, splat_lanes(0) - y) + more),
            largest(square_root(rest))};
}

// No more than the squared distance of any prototype in a box from samples that are x and y from its middle along the axes, and at the
// squared distance `squares` in all; but for BOX_ERROR of that.
inline Vec square_beyond(const Box& box, Vec squares, Vec x, Vec y) {
    const Vec beyond_x = larger_of(larger_of(x, -x) - box.across, Vec{});
    const Vec beyond_y = larger_of(larger_of(y, -y) - box.down, Vec{});
    const Vec beyond = larger_of(square_root(larger_of(squares - x * x - y * y, Vec{})) - box.aside, Vec{});
    return beyond_x * beyond_x + beyond_y * beyond_y + beyond * beyond;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

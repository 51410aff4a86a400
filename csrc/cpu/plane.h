// The plane that the prototypes of a tile lie in, nearly, and bounds of their products with a sample.
//
// w = sum over j of (w . e_j) e_j + rest, with e_0 the centre of the tile and e_1, e_2 the directions in which the map runs there. So
// z . w is at most sum over j of (w . e_j) (z . e_j) + |z - its projection| |rest|. On a map of 256 x 256 fitted to photo patches the rest
// is a fifth of what the centre alone leaves, and of the tiles that the angle of their cone has not ruled out, one in 24 stays.
#pragma once

#include "panel.h"

namespace vitsom {
namespace VITSOM_ISA {

struct Plane {
    Vec along, across, down;  // w . e_j of each lane
    Vec rest;                 // no less than its length
    Vec present;              // 0; -inf where there is no prototype
};

// Takes from x what it has along the unit vector y.
inline void make_orthogonal(float* x, const float* y, std::int64_t n) {
    const float along = dot_padded(x, y, n);
    for (std::int64_t d = 0; d < n; d += WIDTH) store(x + d, load(x + d) - along * load(y + d));
}

// To length 1, or to 0 if its squared length is below `least`: then it has no direction but that of its roundings.
inline void normalise(float* x, std::int64_t n, float least) {
    const float squared = dot_padded(x, x, n);
    const float factor = squared > least ? 1 / __builtin_sqrtf(squared) : 0;
    for (std::int64_t d = 0; d < n; d += WIDTH) store(x + d, load(x + d) * factor);
}

// The two directions, [2][n], from contrasts between the members: a number a lane, of sum 0, for each.
inline void find_axes(
    const float* const (&member)[LANES], const float (&contrast)[2][LANES], const float* centre, std::int64_t n, float* axes) {
    for (std::int64_t d = 0; d < n; d += WIDTH) {
        Vec sums[2] = {};
        for (int lane = 0; lane < LANES; ++lane) {
            if (!member[lane]) continue;
            const Vec x = load(member[lane] + d);
            sums[0] += contrast[0][lane] * x;
            sums[1] += contrast[1][lane] * x;
        }
        store(axes + d, sums[0]);
        store(axes + n + d, sums[1]);
    }
    for (int axis = 0; axis < 2; ++axis) {
        float* x = axes + axis * n;
        for (int round = 0; round < 2; ++round) {  // the second takes what the roundings of the first have left
            make_orthogonal(x, centre, n);
            if (axis == 1) make_orthogonal(x, axes, n);
            normalise(x, n, round == 0 ? 0x1p-34f : 0.5f);
        }
    }
}

inline Plane plane_of(const float* const (&member)[LANES], const float* centre, const float* axes, std::int64_t n) {
    const float* const axis[3] = {centre, axes, axes + n};
    Plane plane{};
    for (int first = 0; first < LANES; first += 4) {
        const float* x[4];
        for (int r = 0; r < 4; ++r) x[r] = member[first + r] ? member[first + r] : centre;
        float products[3][4];
        dot_four<3>(x, axis, n, products);
        Vec squares[4] = {};
        for (std::int64_t d = 0; d < n; d += WIDTH) {
            const Vec c = load(centre + d), u = load(axes + d), v = load(axes + n + d);
#pragma GCC unroll 4
            for (int r = 0; r < 4; ++r) {
                const Vec rest = load(x[r] + d) - products[0][r] * c - products[1][r] * u - products[2][r] * v;
                squares[r] += rest * rest;
            }
        }
        for (int r = 0; r < 4; ++r) {
            const int lane = first + r;
            plane.along[lane] = products[0][r];
            plane.across[lane] = products[1][r];
            plane.down[lane] = products[2][r];
            plane.rest[lane] = __builtin_sqrtf(sum(squares[r])) * 1.001f + 0x1p-21f;
            plane.present[lane] = member[lane] ? 0 : -__builtin_inff();
        }
    }
    return plane;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

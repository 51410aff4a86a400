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
    Plane plane{};
    for (int lane = 0; lane < LANES; ++lane) {
        plane.present[lane] = -__builtin_inff();
        if (!member[lane]) continue;
        const float* x = member[lane];
        Vec products[3] = {};
        for (std::int64_t d = 0; d < n; d += WIDTH) {
            products[0] += load(x + d) * load(centre + d);
            products[1] += load(x + d) * load(axes + d);
            products[2] += load(x + d) * load(axes + n + d);
        }
        const float along = sum(products[0]), across = sum(products[1]), down = sum(products[2]);
        Vec squares{};
        for (std::int64_t d = 0; d < n; d += WIDTH) {
            const Vec rest = load(x + d) - along * load(centre + d) - across * load(axes + d) - down * load(axes + n + d);
            squares += rest * rest;
        }
        plane.along[lane] = along;
        plane.across[lane] = across;
        plane.down[lane] = down;
        plane.rest[lane] = __builtin_sqrtf(sum(squares)) * 1.001f + 0x1p-21f;
        plane.present[lane] = 0;
    }
    return plane;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

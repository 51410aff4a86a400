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

// To length 1, or to 0 if its squared length is below `least`: then it has no direction but that of its roundings.
inline float normalising(float squared, float least) { return squared > least ? 1 / __builtin_sqrtf(squared) : 0; }

// Makes centre, u and v orthogonal and u and v of length 1, nearly: the roundings are in proportion to what is taken off.
inline void orthonormalise(const float* centre, float* u, float* v, std::int64_t n, float least) {
    Vec sums[4] = {}, cv{};
    for (std::int64_t d = 0; d < n; d += WIDTH) {
        const Vec c = load(centre + d), x = load(u + d), y = load(v + d);
        sums[0] += c * x;
        sums[1] += x * x;
        sums[2] += x * y;
        sums[3] += y * y;
        cv += c * y;
    }
    float product[4];
    sum_four(sums, product);
    const float cx = product[0], cy = sum(cv);
    const float scale_u = normalising(product[1] - cx * cx, least);
    const float uy = (product[2] - cx * cy) * scale_u;
    const float scale_v = normalising(product[3] - cy * cy - uy * uy, least);
    for (std::int64_t d = 0; d < n; d += WIDTH) {
        const Vec c = load(centre + d), x = (load(u + d) - cx * c) * scale_u;
        store(u + d, x);
        store(v + d, (load(v + d) - cy * c - uy * x) * scale_v);
    }
}

// The direction of the sum of the members, nullptr for one that is none, and the two in which contrasts between them point: a
// number a lane, of sum 0, for each.
inline void find_axes(
    const float* const (&member)[LANES], const float (&contrast)[2][LANES], std::int64_t n, float* centre, float* axes) {
    const float* present[LANES];
    float weight[2][LANES];
    int count = 0;
    for (int lane = 0; lane < LANES; ++lane) {
        if (!member[lane]) continue;
        present[count] = member[lane];
        weight[0][count] = contrast[0][lane];
        weight[1][count++] = contrast[1][lane];
    }
    Vec squares{};
    for (std::int64_t d = 0; d < n; d += WIDTH) {
        Vec total{}, u{}, v{};
        for (int i = 0; i < count; ++i) {
            const Vec x = load(present[i] + d);
            total += x;
            u += weight[0][i] * x;
            v += weight[1][i] * x;
        }
        squares += total * total;
        store(centre + d, total);
        store(axes + d, u);
        store(axes + n + d, v);
    }
    const float factor = normalising(sum(squares), 0x1p-20f);
    for (std::int64_t d = 0; d < n; d += WIDTH) store(centre + d, load(centre + d) * factor);
    orthonormalise(centre, axes, axes + n, n, 0x1p-34f);
    orthonormalise(centre, axes, axes + n, n, 0.5f);  // what the roundings of the first round have left
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
        float squared[4];
        sum_four(squares, squared);
        for (int r = 0; r < 4; ++r) {
            const int lane = first + r;
            plane.along[lane] = products[0][r];
            plane.across[lane] = products[1][r];
            plane.down[lane] = products[2][r];
            plane.rest[lane] = __builtin_sqrtf(squared[r]) * 1.001f + 0x1p-21f;
            plane.present[lane] = member[lane] ? 0 : -__builtin_inff();
        }
    }
    return plane;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// Tiles under the squared Euclidean distance: shells, for samples that are longer or shorter than the map.
//
// Prototypes of a tile lie in a ball, and between two lengths. Of a sample z far outside of a map of prototypes about as long as one
// another, t is nearly the whole length of z, and the ball says little. So it is seen at the length of the map, as z / s: with
// E >= |w|^2 for s > 1, E <= |w|^2 below, of all prototypes of the tile,
//
//     z . w - |w|^2 / 2 = s (z / s . w - |w|^2 / 2) + (s - 1) |w|^2 / 2 <= s (|z / s|^2 - (|z / s - c| - r)^2) / 2 + (s - 1) E / 2.
//
// Where a score of T is known, no more can be reached unless |z / s - c| <= r + t with t^2 = |z / s|^2 - 2 T / s + (s - 1) E / s, and
// that is
//
//     z . c - |c|^2 / 2 >= T - s t r - s r^2 / 2 - (s - 1) (E - |c|^2) / 2.
//
// With s = 1 it is what a ball has. Any s > 0 is right; the best takes z to about where it is nearest to the map. On a map of
// 128 x 128 unit vectors that was fitted to photo patches by cosine, samples look into 42 tiles in the place of 220.
#pragma once

#include "cpu/search/pruned/ball.h"

namespace vitsom {
namespace VITSOM_ISA {

// No prototype is longer, squared, nor shorter.
struct Shell {
    float most, least;

    // What squares in fp32 may be off by.
    static float error(std::int64_t n) { return 4 * chain_error(n); }

    void widen_to(const Shell& other) {
        most = other.most > most ? other.most : most;
        least = other.least < least ? other.least : least;
    }
    static Shell none() { return {-__FLT_MAX__, __FLT_MAX__}; }
};

inline Shell shell_of(const Lanes& squares, const Lanes& present, std::int64_t n) {
    const float most = largest(squares + present), least = -largest(present - squares);
    return {most * (1 + Shell::error(n)), least * (1 - Shell::error(n))};
}

// How a sample of this square is seen, that has found the score `threshold`, among prototypes about as long as those of a shell.
struct Stretch {
    float ratio;      // s
    float over_ball;  // s - 1
    float base;       // t^2 less what E has of it
    float slope;      // and what of E that is

    Stretch() = default;
    Stretch(float square, float threshold, const Shell& near) {
        const float length = (near.most + near.least) / 2, along = threshold + length / 2;  // of w, squared; z . w
        const float best = along > 0x1p-6f * length ? along / length : 1;
        ratio = best < 0x1p12f ? best : 1;
        if (!(ratio > 0x1p-6f)) ratio = 1;
        over_ball = ratio - 1;
        slope = over_ball / ratio;
        const float square_seen = square / (ratio * ratio), score_seen = 2 * threshold / ratio;
        // Nothing may be left of these, whose root is then that of their roundings.
        base = square_seen - score_seen + 0x1p-20f * (square_seen + __builtin_fabsf(score_seen) + __builtin_fabsf(slope) * near.most);
    }

    float of(const Shell& shell) const { return over_ball > 0 ? shell.most : shell.least; }

    // What z . c has to be, of a tile of this ball and this shell.
    float needed(float threshold, const Radius& ball, const Shell& shell) const {
        const float square = base + slope * of(shell), half_square = ball.sine * ball.sine / 2 - ball.more;
        const float reach = square > 0 ? __builtin_sqrtf(square) : 0;
        return half_square + threshold - ratio * (reach + ball.sine / 2) * ball.sine - over_ball * (of(shell) / 2 - half_square);
    }
};

// What scores of the tiles of a panel have beside those of codes, for samples with s > 1 and for others.
struct ShellPanel {
    struct Side {
        Lanes square;  // E
        Lanes beyond;  // (E - |c|^2) / 2
    };
    Side longer, shorter;
    Lanes along_origin;  // g . rest, of which a bias has one: it is s times as much where z - s g is coded

    const Side& side(float over_ball) const { return over_ball > 0 ? longer : shorter; }

    // What z . c - |c|^2 / 2 has to be.
    Lanes needed(const Stretch& stretch, float threshold, const Lanes& radius, const Lanes& half_radius_square) const {
        const Side& e = side(stretch.over_ball);
        const Lanes reach = square_root(larger_of(stretch.base + stretch.slope * e.square, Lanes{}));
        return threshold - stretch.ratio * (reach * radius + half_radius_square) - stretch.over_ball * e.beyond;
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

// What bounds of a sample take: how far it has to look, by cosine or by distance. A score is a cosine, or of balls
// z . w - |w|^2 / 2 as rows are seen.
#pragma once

#include "cpu/search/pruned/tile_tree.h"
#include "cpu/search/rescore.h"

namespace vitsom {
namespace VITSOM_ISA {

struct Reach {
    float found;      // the cosine of every wanted unit, of balls -|z - w|^2 / 2, is no less; UNDECIDED: left to others
    float threshold;  // the same as a score
    float sine;       // of its angle, no less; of balls its distance
    float slack;      // what the roundings of a score, but for codes, come to at most
    CodedSample code;
};

// Of balls, a sample as it is seen from their origin.
struct Seen {
    double square;
    float length;
    float over_origin;  // s - 1, of what is coded: z - s g, for the origin g of the codes
    Stretch stretch;    // of what it has found
};

// Of balls; false if the sample is too far away.
inline bool see_from_origin(const TileTree& tree, Row z, float* centred, Seen& seen) {
    write_centred(z, tree.seen_from, tree.unit, tree.features, tree.dim, centred);
    seen.square = squared_norm(centred, tree.dim);
    if (!(seen.square < FARTHEST * FARTHEST)) return false;
    seen.length = static_cast<float>(__builtin_sqrt(seen.square));
    return true;
}

// Of a sample of which nothing is found yet, and `unit` [dim], in which the tree sees it. The code is left open.
inline Reach reach_of(const TileTree& tree, Row z, double inverse, float* unit, Seen* seen) {
    bool in_reach = inverse == inverse;
    float slack = tree.slack;
    if (in_reach && tree.is_of_balls) {
        in_reach = see_from_origin(tree, z, unit, *seen);
        // The chain of a product, 2 for either row as it is seen, and 12 for what is needed of it.
        slack *= tree.reach * (seen->length + tree.reach);
    } else if (in_reach) {
        write_unit(z, inverse, tree.features, tree.dim, unit);
    }
    if (!in_reach) fill(unit, tree.dim, 0.0f);
    const float found = !in_reach ? UNDECIDED : tree.is_of_balls ? -__FLT_MAX__ : -1.0f;
    return {found, found, 0, slack, {}};
}

// `near` is the shell of prototypes that are about as long as its BMU.
inline void raise_reach(const TileTree& tree, const Shell* near, float found, Seen& seen, Reach& reach) {
    reach.found = reach.threshold = found;
    if (found == UNDECIDED) return;
    if (tree.is_of_balls) {
        const double square = -2 * static_cast<double>(found);
        reach.sine = static_cast<float>(__builtin_sqrt(square)) * (1 + 0x1p-20f);
        reach.threshold = static_cast<float>((seen.square - square) / 2);
        seen.stretch = Stretch(static_cast<float>(seen.square), reach.threshold, *near);
    } else {
        const double t = found;
        reach.sine = static_cast<float>(__builtin_sqrt((1 - t) * (1 + t))) * (1 + 0x1p-20f);
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

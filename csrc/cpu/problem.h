// What the kernels for processors are asked, and what they tell of how it went.
#pragma once

#include "common/problem.h"

namespace vitsom {

// Whether the search is to rule out tiles of the map; automatic: where that looks faster.
enum class Pruning { automatic, always, never };

// Those that do not factorise: each pair is computed.
enum class PairDistance { euclidean, manhattan };

enum class Distance { cosine, squared_euclidean };

struct Problem {
    Matrix z;           // [batch, dim]
    Matrix prototypes;  // [num_prototypes, dim], of the same dtype
    std::int64_t batch, num_prototypes, dim;
    std::int64_t map_rows, map_cols;  // of the grid that the prototypes are the units of; 0 where they are just a list
    int threads;                      // at most this many
    Pruning pruning;
    bool (*interrupted)();            // whether to give up, with an Interrupted; only the thread that called asks
    Distance distance = Distance::cosine;
    std::int64_t lifted = 0;  // features at the end that stand for squared lengths: the cosine is then of that distance
};

struct Interrupted {};

// How a search went: the samples that each pass decided, the prototypes that had to be scored anew for them, and the tiles of
// prototypes that the passes which rule out the rest had to look into.
struct SearchCounts {
    std::int64_t pruned, int8, bf16, grouped, small, fp32, narrow, fp64, candidates, tiles;
};

}  // namespace vitsom

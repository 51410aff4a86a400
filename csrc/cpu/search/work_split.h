// How the threads share a search: some of the prototypes against some of the samples each.
#pragma once

#include "cpu/simd/packing.h"
#include "cpu/runtime/threads.h"

namespace vitsom {
namespace VITSOM_ISA {

struct Split {
    int prototype_parts, batch_parts;
    std::int64_t panels, tiles, panels_a_part, tiles_a_part;  // of TILE_COLS prototypes and TILE_ROWS samples

    int parts() const { return prototype_parts * batch_parts; }
};

// Of `batch` of the samples; a part of the prototypes keeps so many bytes for each of them.
inline Split split_search(const Problem& p, std::int64_t batch, std::int64_t bytes_a_sample) {
    Split split{};
    split.panels = ceil_div(p.num_prototypes, TILE_COLS);
    split.tiles = ceil_div(batch, TILE_ROWS);
    const int threads = useful_threads(batch * p.num_prototypes * p.dim, p.threads);
    const std::int64_t most_over_prototypes = smaller(split.panels, affordable_pieces(p, batch * bytes_a_sample));
    std::int64_t least = -1;
    for (int over_prototypes = 1; over_prototypes <= smaller(threads, most_over_prototypes); ++over_prototypes) {
        const int over_batch = threads / over_prototypes;
        const std::int64_t load = ceil_div(split.panels, over_prototypes) * ceil_div(split.tiles, over_batch);
        if (least < 0 || load <= least) {  // of equals, the one that reads each prototype with fewest threads
            least = load;
            split.prototype_parts = over_prototypes;
            split.batch_parts = over_batch;
        }
    }
    split.panels_a_part = ceil_div(split.panels, split.prototype_parts);
    split.tiles_a_part = ceil_div(split.tiles, split.batch_parts);
    return split;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// How the threads share a search: some of the prototypes against some of the samples each.
#pragma once

#include "pack.h"
#include "threads.h"

namespace vitsom {
namespace VITSOM_ISA {

struct Split {
    int prototype_parts, batch_parts;
    std::int64_t panels, tiles, panels_a_part, tiles_a_part;  // of TILE_COLS prototypes and TILE_ROWS samples

    int parts() const { return prototype_parts * batch_parts; }
};

inline Split split_search(std::int64_t batch, std::int64_t num_prototypes, std::int64_t dim, int most_threads) {
    Split split{};
    split.panels = ceil_div(num_prototypes, TILE_COLS);
    split.tiles = ceil_div(batch, TILE_ROWS);
    const int threads = useful_threads(batch * num_prototypes * dim, most_threads);
    std::int64_t least = -1;
    for (int over_prototypes = 1; over_prototypes <= smaller(threads, split.panels); ++over_prototypes) {
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

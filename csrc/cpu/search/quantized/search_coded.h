// The search by codes of a quarter or half the size, and a certificate: the score of two codes is within a known bound of the
// true one, so a prototype can be the BMU only if its score plus the bound reaches the best score known so far. Those that can,
// ten of 16384 random ones, are scored in fp32 and what is still in doubt in fp64, which raises the best score in turn.
//
// A sample for which too many can is left undecided and costs nothing from then on. As any first prototypes are a fair sample,
// this shows early: 4096 samples that all give up on 16384 prototypes take 4 % longer than in fp32 at once.
#pragma once

#include "cpu/module/kernel_table.h"
#include "cpu/search/quantized/coded_part.h"
#include "cpu/search/worthwhile.h"

namespace vitsom {
namespace VITSOM_ISA {

// A pass of the search, of this code; adds to the candidates of `counts` how many prototypes it scored.
template <class Code>
std::int64_t search_coded(
    const Problem& p, std::int64_t* rows, std::int64_t batch, const SearchOutput& result, SearchCounts& counts) {
    if (batch < LEAST_SAMPLES || p.num_prototypes < LEAST_PROTOTYPES || p.dim < LEAST_DIM) return 0;
    if (batch * p.num_prototypes * p.dim < LEAST_PRODUCTS) return 0;
    CodedSearch<Code> s(p, batch);
    if (s.words > Code::MAX_WORDS) return 0;
    Arena arena;
    lay_out(arena, [&](Arena& a) { s.take(a, p); });
    const int threads = s.parts();
    bool promising = false, has_view = false;
    Interruption interruption(p);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        find_centre<Code>(p, result, s);
#pragma omp single
        has_view = complete_view<Code>(p, s);
        const std::int64_t first_panels = has_view ? s.trial_panels() : -1;
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i <= first_panels; ++i) {
            if (i < first_panels) encode_panel<Code>(p, result, s, s.order(i), s.codes(0, i, s.order(i)));
            else encode_samples<Code>(p, rows, result, s, 0);
        }
#pragma omp single
        promising = has_view && CodedPart<Code>(p, s, rows, result, 0, 0).is_promising();
        if (promising) {
            if (!s.codes_in_turn()) {
#pragma omp for schedule(static) nowait
                for (std::int64_t panel = 0; panel < s.panels; ++panel) {
                    encode_panel<Code>(p, result, s, panel, s.codes(0, 0, panel));
                }
            }
#pragma omp for schedule(static)
            for (std::int64_t tile = 0; tile < s.tiles; ++tile) encode_samples<Code>(p, rows, result, s, tile);
#pragma omp for schedule(static)
            for (int part = 0; part < threads; ++part) {
                const int prototype_part = part % s.prototype_parts, batch_part = part / s.prototype_parts;
                CodedPart<Code>(p, s, rows, result, prototype_part, batch_part).run(interruption);
            }
#pragma omp for schedule(static)
            for (std::int64_t i = 0; i < batch; ++i) {
                float reached = -__FLT_MAX__;  // by any part: it rules out candidates of the others
                for (int part = 0; part < s.prototype_parts; ++part) {
                    const float threshold = s.threshold[part * s.padded_batch() + i];
                    reached = threshold > reached ? threshold : reached;
                }
                for (int part = 0; part < s.prototype_parts; ++part) {
                    const auto batch_part = static_cast<int>(i / TILE_ROWS / s.tiles_a_part);
                    reached = CodedPart<Code>(p, s, rows, result, part, batch_part).finish(i, reached);
                }
            }
        }
    }
    interruption.end_here();
    if (!promising) return 0;
    std::int64_t undecided = 0;
    for (std::int64_t i = 0; i < batch; ++i) {
        const std::int64_t to = rows[i];
        Nearest nearest = Nearest::none();
        bool decided = true;
        for (int part = 0; part < s.prototype_parts; ++part) {
            const Nearest& found = s.nearest[part * batch + i];
            decided = decided && s.threshold[part * s.padded_batch() + i] < UNDECIDED;
            for (int place = 0; place < result.wanted; ++place) nearest.meet(found.score[place], found.unit[place]);
        }
        if (decided || result.inverse_z[to] != result.inverse_z[to]) {
            nearest.write(result, to);
            for (int part = 0; part < s.prototype_parts; ++part) counts.candidates += s.count[part * batch + i];
        } else {
            rows[undecided++] = to;
        }
    }
    return batch - undecided;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

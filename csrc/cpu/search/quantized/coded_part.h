// What one thread does in the coded search: scores of codes, what they rule out, and the scores of what they leave.
#pragma once

#include "cpu/search/quantized/coded_operands.h"
#include "cpu/runtime/interruption.h"
#include "cpu/search/rescore_by_distance.h"

namespace vitsom {
namespace VITSOM_ISA {

// The share of the prototypes beyond which it does not pay to score the candidates. Outside the second-level cache scoring one
// takes as long as the codes of 32.
inline float most_of(std::int64_t dim) { return dim <= 8192 ? 0.375f : 1 / 64.0f; }

template <class Code>
struct CodedTile {
    typename Code::Sum low[TILE_ROWS], high[TILE_ROWS];
};

// What is fetched into the second-level cache during a product, a line a word; the product itself waits for nothing.
struct Fetch {
    const char* line;
    std::int64_t step;
};

template <class Code>
inline __attribute__((always_inline)) CodedTile<Code> multiply(
    std::int64_t words, const std::uint32_t* a, const std::uint32_t* x, Fetch fetch, typename Code::Sum low,
    typename Code::Sum high) {
    CodedTile<Code> tile;
#pragma GCC unroll 16
    for (int r = 0; r < TILE_ROWS; ++r) {
        tile.low[r] = low;
        tile.high[r] = high;
    }
    for (std::int64_t j = 0; j < words; ++j) {
        const Bits x_low = load_as<Bits>(x), x_high = load_as<Bits>(x + WIDTH);
#pragma GCC unroll 16
        for (int r = 0; r < TILE_ROWS; ++r) {
            const Bits word = Bits{} + a[r];
            tile.low[r] = Code::multiply_add(tile.low[r], word, x_low);
            tile.high[r] = Code::multiply_add(tile.high[r], word, x_high);
        }
        fetch_line<2>(fetch.line);
        fetch.line += fetch.step;
        a += TILE_ROWS;
        x += TILE_COLS;
    }
    return tile;
}

// One part of the prototypes against one part of the samples.
template <class Code>
struct CodedPart {
    const Problem& p;
    const CodedSearch<Code>& s;
    const std::int64_t* rows;
    const SearchOutput& result;
    const int prototype_part;
    std::int64_t panel_begin, panel_end, tile_begin, tile_end;
    float* threshold;
    LargestTwo* seen;
    Nearest* nearest;
    std::int64_t* count;
    Candidate *candidates, *waiting;
    std::int64_t* waiting_count;
    typename Code::Sum* partial;
    std::int64_t found[TILE_ROWS];  // candidates of the rows of a tile in a group of panels

    CodedPart(
        const Problem& p, const CodedSearch<Code>& s, const std::int64_t* rows, const SearchOutput& result, int prototype_part,
        int batch_part)
        : p(p), s(s), rows(rows), result(result), prototype_part(prototype_part), panel_begin(prototype_part * s.panels_a_part),
          threshold(s.threshold + prototype_part * s.padded_batch()), seen(s.seen + prototype_part * s.batch),
          nearest(s.nearest + prototype_part * s.batch), count(s.count + prototype_part * s.batch),
          waiting(s.waiting + prototype_part * s.batch * MOST_WAITING),
          waiting_count(s.waiting_count + prototype_part * s.batch), found{} {
        const int part = batch_part * s.prototype_parts + prototype_part;
        candidates = s.candidates + part * s.group_candidates();
        partial = s.partial + part * s.partial_size();
        panel_end = smaller(s.panels, panel_begin + s.panels_a_part);
        tile_begin = batch_part * s.tiles_a_part;
        tile_end = smaller(s.tiles, tile_begin + s.tiles_a_part);
    }

    // Whether the bound tells prototypes apart, tried on the first of each: for a quarter of the samples it must.
    bool is_promising() {
        start();
        const std::int64_t panels = s.trial_panels();
        for (std::int64_t word = 0; word < s.words; word += s.block_words) score_tile(0, panels, 0, partial, word);
        int good = 0, samples = 0;
        for (std::int64_t r = 0; r < TILE_ROWS; ++r) {
            if (threshold[r] == UNDECIDED) continue;
            std::int64_t kept = 0;
            for (std::int64_t c = 0; c < found[r]; ++c) kept += candidates_of(r)[c].most >= threshold[r];
            good += static_cast<float>(kept) <= most_of(p.dim) * static_cast<float>(panels * TILE_COLS);
            ++samples;
        }
        return 4 * good >= samples;
    }

    void run(Interruption& interruption) {
        start();
        for (std::int64_t panel = panel_begin; panel < panel_end; panel += s.group_panels) {
            if (interruption.is_wanted()) return;
            const std::int64_t group_end = smaller(panel + s.group_panels, panel_end);
            if (s.codes_in_turn()) encode_group(panel, group_end);
            for (std::int64_t tile = tile_begin; tile < tile_end; tile += s.block_tiles) {
                score_block(panel, group_end, tile, smaller(tile + s.block_tiles, tile_end));
            }
        }
    }

    // Scores those that still wait when the other parts have raised the threshold of row i to `reached`; returns what it is now.
    float finish(std::int64_t i, float reached) {
        raise(i, reached);
        score_first(i);
        score_all(i);
        return threshold[i];
    }

private:
    void start() {
        for (std::int64_t i = tile_begin * TILE_ROWS; i < smaller(s.batch, tile_end * TILE_ROWS); ++i) {
            seen[i] = {};
            nearest[i] = Nearest::none();
            count[i] = waiting_count[i] = 0;
        }
    }

    void encode_group(std::int64_t begin, std::int64_t end) {
        for (std::int64_t visit = begin; visit < end; ++visit) {
            if (visit < smaller(s.trial_panels(), s.group_panels)) continue;  // coded for the trial
            const std::int64_t panel = s.order(visit);
            encode_panel(p, result, s, panel, s.codes(prototype_part, visit - begin, panel));
        }
    }

    void score_block(
        std::int64_t panel_begin, std::int64_t panel_end, std::int64_t tile_begin, std::int64_t tile_end) {
        for (std::int64_t word = 0; word < s.words; word += s.block_words) {
            for (std::int64_t tile = tile_begin; tile < tile_end; ++tile) {
                if (!is_open(tile)) continue;
                score_tile(
                    panel_begin, panel_end, tile, partial + (tile - tile_begin) * s.group_panels * 2 * TILE_ROWS, word);
                settle(tile);
            }
        }
    }

    bool is_open(std::int64_t tile) const {
        for (int r = 0; r < TILE_ROWS; ++r) {
            if (threshold[tile * TILE_ROWS + r] < UNDECIDED) return true;
        }
        return false;
    }

    // The panel that is to be coded in place of the one that is visited; this tile fetches its share of it.
    Fetch prototypes_to_come(std::int64_t visit, std::int64_t tile, std::int64_t word) const {
        constexpr std::int64_t LINE = 64;
        const char* rows = static_cast<const char*>(p.prototypes.data);
        const std::int64_t row_bytes = p.prototypes.stride * row(p.prototypes, 0).element_bytes();
        const std::int64_t next = visit + s.group_panels, offset = ((tile - tile_begin) * s.words + word) * LINE;
        if (!s.codes_in_turn() || next >= panel_end || offset >= TILE_COLS * row_bytes) return {rows, 0};
        return {rows + s.order(next) * TILE_COLS * row_bytes + offset, LINE};
    }

    // Adds the products of a block of words to `sums`; after the last block, notes what reaches the thresholds.
    void score_tile(
        std::int64_t panel_begin, std::int64_t panel_end, std::int64_t tile, typename Code::Sum* sums, std::int64_t word) {
        const std::int64_t count = smaller(s.block_words, s.words - word), first = tile * TILE_ROWS;
        const std::uint32_t* z = s.z + (tile * s.words + word) * TILE_ROWS;
        const Vec z_norm = load(s.z_norm + first), z_residual = load(s.z_residual + first);
        const float* z_scale = s.z_scale + first;
        for (std::int64_t visit = panel_begin; visit < panel_end; ++visit, sums += 2 * TILE_ROWS) {
            const std::int64_t panel = s.order(visit);
            const std::uint32_t* x = s.codes(prototype_part, visit - panel_begin, panel) + word * TILE_COLS;
            const Fetch fetch = prototypes_to_come(visit, tile, word);
            const typename Code::Sum zero{};
            CodedTile<Code> product =
                multiply<Code>(count, z, x, fetch, word == 0 ? s.start[2 * panel] : zero, word == 0 ? s.start[2 * panel + 1] : zero);
            if (word > 0) {
                for (int r = 0; r < TILE_ROWS; ++r) {
                    product.low[r] += sums[2 * r];
                    product.high[r] += sums[2 * r + 1];
                }
            }
            if (word + count < s.words) {
                for (int r = 0; r < TILE_ROWS; ++r) {
                    sums[2 * r] = product.low[r];
                    sums[2 * r + 1] = product.high[r];
                }
                continue;
            }
            const Vec bound = z_residual * s.panel_norm[panel] + z_norm * s.panel_residual[panel] + s.panel_slack[panel];
            const Vec needed = load(threshold + first) - bound;
            const Vec low_scale = load(s.scale + panel * TILE_COLS), high_scale = load(s.scale + panel * TILE_COLS + WIDTH);
            const Vec low_bias = load(s.bias + panel * TILE_COLS), high_bias = load(s.bias + panel * TILE_COLS + WIDTH);
            Vec low[TILE_ROWS], high[TILE_ROWS];
            unsigned reaching = 0;  // rows
#pragma GCC unroll 16
            for (int r = 0; r < TILE_ROWS; ++r) {
                low[r] = Code::value(product.low[r]) * low_scale * z_scale[r] + low_bias;
                high[r] = Code::value(product.high[r]) * high_scale * z_scale[r] + high_bias;
                reaching |= (lanes_reaching(low[r], high[r], splat(needed[r])) != 0) << r;
            }
            if (reaching == 0) continue;
            float scores[TILE_ROWS][TILE_COLS];
#pragma GCC unroll 16
            for (int r = 0; r < TILE_ROWS; ++r) {
                store(scores[r], low[r]);
                store(scores[r] + WIDTH, high[r]);
            }
            for (; reaching != 0; reaching &= reaching - 1) {
                const int r = __builtin_ctz(reaching);
                note(tile, r, panel, visit, scores[r]);
            }
        }
    }

    Candidate* candidates_of(std::int64_t r) const { return candidates + r * s.group_panels * TILE_COLS; }

    // The bounds of single prototypes are tighter than that of their panel. The best score less its bound is a new threshold, or the
    // second best where two units are wanted, and those are candidates that reach it with their bound on top: less than half of what
    // the panel's would leave.
    void note(std::int64_t tile, std::int64_t r, std::int64_t panel, std::int64_t visit, const float* scores) {
        const std::int64_t i = tile * TILE_ROWS + r, first = panel * TILE_COLS;
        const auto bound = [&](std::int64_t column) {
            return s.z_residual[i] * load(s.norm + column) + s.z_norm[i] * load(s.residual + column) + s.panel_slack[panel];
        };
        const Vec low = load(scores), low_bound = bound(first), low_most = low + low_bound;
        const Vec high = load(scores + WIDTH), high_bound = bound(first + WIDTH), high_most = high + high_bound;
        raise(i, least_of(i, low - low_bound, high - high_bound));
        float most[TILE_COLS];
        store(most, low_most);
        store(most + WIDTH, high_most);
        unsigned lanes = lanes_reaching(low_most, high_most, splat(threshold[i]));
        for (; lanes != 0; lanes &= lanes - 1) {
            const int lane = __builtin_ctz(lanes);
            candidates_of(r)[found[r]++] = {static_cast<std::int32_t>(first + lane), most[lane]};
        }
        const auto visited = static_cast<float>((visit + 1 - panel_begin) * TILE_COLS);
        if (static_cast<float>(count[i] + waiting_count[i] + found[r] - 64) > most_of(p.dim) * visited) threshold[i] = UNDECIDED;
    }

    // The candidates of a tile that no better one has ruled out in the meantime have to wait.
    void settle(std::int64_t tile) {
        for (std::int64_t r = 0; r < TILE_ROWS; ++r) {
            const std::int64_t i = tile * TILE_ROWS + r;
            for (std::int64_t c = 0; c < found[r]; ++c) {
                const Candidate& candidate = candidates_of(r)[c];
                if (candidate.most < threshold[i]) continue;
                waiting[i * MOST_WAITING + waiting_count[i]++] = candidate;
                if (waiting_count[i] < MOST_WAITING) continue;
                score_first(i);
                if (waiting_count[i] > MOST_WAITING / 2) score_all(i);
            }
            found[r] = 0;
        }
    }

    // Scores as many of those that wait as are wanted, for a threshold that rules others out.
    void score_first(std::int64_t i) {
        for (int place = 0; place < result.wanted; ++place) score_best(i);
    }

    // Scores the most promising one that waits, and drops those that it rules out.
    void score_best(std::int64_t i) {
        Candidate* candidate = waiting + i * MOST_WAITING;
        std::int64_t best = 0, left = 0;
        for (std::int64_t c = 1; c < waiting_count[i]; ++c) {
            if (candidate[c].most > candidate[best].most) best = c;
        }
        if (waiting_count[i] == 0 || candidate[best].most < threshold[i]) {
            waiting_count[i] = 0;
            return;
        }
        const std::int64_t position = candidate[best].position;
        candidate[best].most = -__builtin_inff();
        score<1>(i, &position, 1);
        for (std::int64_t c = 0; c < waiting_count[i]; ++c) {
            if (candidate[c].most >= threshold[i]) candidate[left++] = candidate[c];
        }
        waiting_count[i] = left;
    }

    void score_all(std::int64_t i) {
        const Candidate* candidate = waiting + i * MOST_WAITING;
        for (std::int64_t first = 0; first < waiting_count[i]; first += WIDTH) {
            const std::int64_t n = smaller(WIDTH, waiting_count[i] - first);
            std::int64_t positions[WIDTH];
            for (std::int64_t c = 0; c < n; ++c) positions[c] = candidate[first + c].position;
            if (n > 4) score<WIDTH>(i, positions, n);
            else score<4>(i, positions, n);
        }
        waiting_count[i] = 0;
    }

    template <int MOST>
    void score(std::int64_t i, const std::int64_t* positions, std::int64_t n) {
        const double offset = s.z_offset[i], slack = s.view.unit == 0 ? SLACK : static_cast<double>(-SLACK_OF_SQUARE) * offset;
        const Leader leader{threshold[i], nearest[i], result.wanted, offset, slack, s.view.unit};
        rescore_by_either<MOST>(p, row(p.z, rows[i]), result.inverse_z[rows[i]], result.inverse_prototype, positions, n, leader);
        count[i] += n;
    }

    // What every wanted unit of row i reaches, as prototypes that were not seen before have scores of no less than these.
    float least_of(std::int64_t i, Vec low, Vec high) {
        if (result.wanted == 1) return largest(larger_of(low, high));
        LanesLargestTwo scores;
        scores.note(low);
        scores.note(high);
        scores.give_to(seen[i]);
        return seen[i].second;
    }

    void raise(std::int64_t i, double score) {
        if (score > threshold[i]) threshold[i] = static_cast<float>(score);
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

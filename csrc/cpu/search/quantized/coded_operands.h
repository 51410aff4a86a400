// Samples and prototypes in codes, with all that the certificate needs to know of each.
#pragma once

#include "cpu/search/centre.h"
#include "cpu/search/quantized/error_bound.h"
#include "cpu/runtime/arena.h"
#include "cpu/search/rescore.h"
#include "cpu/search/search_output.h"
#include "cpu/search/work_split.h"

namespace vitsom {
namespace VITSOM_ISA {

// Words that a block of a tile of samples (24 KB) and of a panel of prototypes may have. A group of panels has 64 KB of codes, or
// is a single panel, for its prototypes as they are given (256 KB) to stay in the second-level cache, too.
constexpr std::int64_t BLOCK_WORDS = 512, GROUP_WORDS = 1 << 14, BLOCK_TILES = 16;

// Panels that the trial of a search takes.
constexpr std::int64_t TRIAL_PANELS = 2;

// Candidates of a row that wait to be scored until there are so many: the longer, the more of them are ruled out unseen.
constexpr std::int64_t MOST_WAITING = 64;

// A prototype that may be a wanted unit of a row.
struct Candidate {
    std::int32_t position;
    float most;  // its score is no more than that
};

// Everything that the threads share.
template <class Code>
struct CodedSearch : Split {
    Order order;  // in which the panels are visited
    std::int64_t batch, words, block_words, group_panels, block_tiles;
    float* centre;  // [dim]
    View view;

    std::uint32_t* z;    // [tiles][words][TILE_ROWS]
    float* z_scale;      // [tiles * TILE_ROWS + WIDTH] and so are the next two
    float* z_norm;       // of the code
    float* z_residual;
    double* z_offset;    // [batch] what its scores lack of the cosine, or of -|z - w|^2 / 2

    std::uint32_t* prototypes;    // [panels, or most_panels of each part][words][TILE_COLS]
    float* scale;                 // [panels * TILE_COLS]
    float* bias;                  // [panels * TILE_COLS] c . w^, or -|w - c|^2 / 2; -inf where there is no prototype
    typename Code::Sum* start;    // [panels * 2]
    float* norm;                  // [panels * TILE_COLS] and so is the next
    float* residual;
    float* panel_norm;            // [panels] the largest in it, and so is the next
    float* panel_residual;
    float* panel_slack;           // [panels] of the rest of a score

    float* threshold;     // [prototype_parts][tiles * TILE_ROWS + WIDTH] a score that every wanted unit reaches, or UNDECIDED
    LargestTwo* seen;     // [prototype_parts][batch] what scores are no less than, where two units are wanted
    Nearest* nearest;     // [prototype_parts][batch]
    std::int64_t* count;  // [prototype_parts][batch] candidates so far
    Candidate* candidates;        // [parts][most_panels * TILE_COLS * TILE_ROWS] of a tile and a group of panels
    Candidate* waiting;           // [prototype_parts][batch][MOST_WAITING] of a row and all panels so far
    std::int64_t* waiting_count;  // [prototype_parts][batch]
    typename Code::Sum* partial;  // [parts][block_tiles * most_panels * 2 * TILE_ROWS], where a row takes several blocks

    explicit CodedSearch(const Problem& p, std::int64_t batch)
        : Split(split_search(p, batch, MOST_WAITING * sizeof(Candidate))), order(ceil_div(p.num_prototypes, TILE_COLS)), batch(batch) {
        words = ceil_div(p.dim, Code::PER_WORD * WIDTH) * WIDTH;
        block_words = smaller(BLOCK_WORDS, words);
        group_panels = smaller(panels_a_part, larger(1, GROUP_WORDS / (words * TILE_COLS)));
        block_tiles = words > block_words ? smaller(BLOCK_TILES, tiles_a_part) : tiles_a_part;
    }

    // Where no two parts share a panel, each codes its groups of panels one by one, the next over the last: codes never leave the
    // second-level cache. A search of 128 samples takes 0.84 of the time that it takes if all are coded first.
    bool codes_in_turn() const { return batch_parts == 1; }

    // The codes of a panel, which is visited so many after the first of its group.
    std::uint32_t* codes(int prototype_part, std::int64_t place, std::int64_t panel) const {
        return prototypes + (codes_in_turn() ? prototype_part * most_panels() + place : panel) * words * TILE_COLS;
    }

    std::int64_t trial_panels() const { return smaller(TRIAL_PANELS, panels_a_part); }
    std::int64_t most_panels() const { return larger(group_panels, trial_panels()); }  // at a time
    std::int64_t padded_batch() const { return tiles * TILE_ROWS + WIDTH; }
    std::int64_t group_candidates() const { return most_panels() * TILE_COLS * TILE_ROWS; }
    std::int64_t partial_size() const { return words > block_words ? block_tiles * most_panels() * 2 * TILE_ROWS : 0; }

    void take(Arena& arena, const Problem& p) {
        centre = arena.take<float>(p.dim);
        z = arena.take<std::uint32_t>(tiles * words * TILE_ROWS);
        z_scale = arena.take<float>(padded_batch());
        z_norm = arena.take<float>(padded_batch());
        z_residual = arena.take<float>(padded_batch());
        z_offset = arena.take<double>(batch);
        prototypes = arena.take<std::uint32_t>((codes_in_turn() ? prototype_parts * most_panels() : panels) * words * TILE_COLS);
        scale = arena.take<float>(panels * TILE_COLS);
        bias = arena.take<float>(panels * TILE_COLS);
        start = arena.take<typename Code::Sum>(panels * 2);
        norm = arena.take<float>(panels * TILE_COLS);
        residual = arena.take<float>(panels * TILE_COLS);
        panel_norm = arena.take<float>(panels);
        panel_residual = arena.take<float>(panels);
        panel_slack = arena.take<float>(panels);
        threshold = arena.take<float>(prototype_parts * padded_batch());
        seen = arena.take<LargestTwo>(prototype_parts * batch);
        nearest = arena.take<Nearest>(prototype_parts * batch);
        count = arena.take<std::int64_t>(prototype_parts * batch);
        candidates = arena.take<Candidate>(parts() * group_candidates());
        waiting = arena.take<Candidate>(prototype_parts * batch * MOST_WAITING);
        waiting_count = arena.take<std::int64_t>(prototype_parts * batch);
        partial = arena.take<typename Code::Sum>(parts() * partial_size());
    }
};

// By all threads; what `s.view` has of the centre is left to one.
template <class Code>
void find_centre(const Problem& p, const SearchOutput& result, CodedSearch<Code>& s) {
    constexpr std::int64_t SLICE = 16 * WIDTH;
    if (p.distance != Distance::cosine) return;
    const CentreMembers members(p);
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < members.count; ++i) {
        result.inverse_prototype[members[i]] = inverse_norm(row(p.prototypes, members[i]), p.dim);
    }
#pragma omp for schedule(static)
    for (std::int64_t begin = 0; begin < p.dim; begin += SLICE) {
        write_centre(p, result.inverse_prototype, begin, smaller(SLICE, p.dim - begin), s.centre + begin);
    }
}

// Returns whether there is a view.
template <class Code>
bool complete_view(const Problem& p, CodedSearch<Code>& s) {
    s.view = {s.centre, 0, 0};
    if (p.distance == Distance::cosine) {
        s.view.centre_squared = squared_norm(s.centre, p.dim);
        return true;
    }
    s.view.unit = find_frame(p, s.centre).unit;
    for (std::int64_t d = 0; d < p.dim; ++d) s.centre[d] *= s.view.unit;
    return s.view.unit > 0;
}

template <class Code, class T>
void encode_panel_of(
    const Problem& p, const SearchOutput& result, const CodedSearch<Code>& s, std::int64_t panel, std::uint32_t* codes) {
    const float rounding = 1.01f * Code::rounding(s.block_words, ceil_div(s.words, s.block_words));
    float norm = 0, residual = 0;
    for (std::int64_t half = 0; half < 2; ++half) {
        const std::int64_t first = panel * TILE_COLS + half * WIDTH;
        Centred<T> x[WIDTH];
        Coded<Code> coded[WIDTH];
        const std::int64_t last = p.num_prototypes - 1;
        for (int i = 0; i < WIDTH; ++i) {
            const std::int64_t k = smaller(first + i, last);
            x[i] = centred(typed_row<T>(p.prototypes, k), s.view, p.dim);
            coded[i].scale = Code::scale(x[i].largest);
            result.inverse_prototype[k] = x[i].inverse;
        }
        encode<Code, WIDTH, TILE_COLS, false>(x, p.dim, coded, codes + half * WIDTH);
        for (int i = 0; i < WIDTH; ++i) {
            const bool exists = first + i < p.num_prototypes && x[i].inverse == x[i].inverse;
            s.scale[first + i] = exists ? coded[i].scale : 0;
            s.bias[first + i] = exists ? static_cast<float>(x[i].along) : -__builtin_inff();
            s.start[panel * 2 + half][i] = exists ? coded[i].start : 0;
            s.norm[first + i] = exists ? x[i].norm : 0;
            s.residual[first + i] = exists ? coded[i].residual + rounding * x[i].norm : 0;
            norm = s.norm[first + i] > norm ? s.norm[first + i] : norm;
            residual = s.residual[first + i] > residual ? s.residual[first + i] : residual;
        }
    }
    s.panel_norm[panel] = norm;
    s.panel_residual[panel] = residual;
    s.panel_slack[panel] = s.view.unit == 0 ? SLACK : SLACK_OF_SQUARE * norm * norm;
}

template <class Code>
void encode_panel(
    const Problem& p, const SearchOutput& result, const CodedSearch<Code>& s, std::int64_t panel, std::uint32_t* codes) {
    with_dtype(p.prototypes.dtype, [&](auto t) { encode_panel_of<Code, decltype(t)>(p, result, s, panel, codes); });
}

template <class Code, class T>
void encode_samples_of(
    const Problem& p, const std::int64_t* rows, const SearchOutput& result, CodedSearch<Code>& s, std::int64_t tile) {
    const std::int64_t first = tile * TILE_ROWS;
    Centred<T> x[TILE_ROWS];
    Coded<Code> coded[TILE_ROWS];
    for (std::int64_t r = 0; r < TILE_ROWS; ++r) {
        const std::int64_t i = smaller(first + r, s.batch - 1);
        x[r] = centred(typed_row<T>(p.z, rows[i]), s.view, p.dim);
        coded[r].scale = Code::scale(x[r].largest);
        const bool is_seen = x[r].inverse == x[r].inverse && (s.view.unit == 0 || x[r].norm < FARTHEST);
        result.inverse_z[rows[i]] = is_seen || s.view.unit == 0 ? x[r].inverse : inverse_norm(row(p.z, rows[i]), p.dim);
        s.z_offset[i] = x[r].along - s.view.centre_squared;
        const bool exists = first + r < s.batch && is_seen;
        for (int part = 0; part < s.prototype_parts; ++part) {
            s.threshold[part * s.padded_batch() + first + r] = exists ? -__FLT_MAX__ : UNDECIDED;
        }
    }
    encode<Code, TILE_ROWS, TILE_ROWS, true>(x, p.dim, coded, s.z + tile * s.words * TILE_ROWS);
    for (int r = 0; r < TILE_ROWS; ++r) {
        s.z_scale[first + r] = coded[r].scale;
        s.z_norm[first + r] = x[r].norm + coded[r].residual;
        s.z_residual[first + r] = coded[r].residual;
    }
}

template <class Code>
void encode_samples(
    const Problem& p, const std::int64_t* rows, const SearchOutput& result, CodedSearch<Code>& s, std::int64_t tile) {
    with_dtype(p.z.dtype, [&](auto t) { encode_samples_of<Code, decltype(t)>(p, rows, result, s, tile); });
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// The prototypes that may be among the wanted units of a sample, as far as scores in fp32 can tell.
//
// A score is within a known bound of the true one, so that a prototype whose score is below the best by twice that bound cannot be
// the BMU, nor one of the nearest two if it is that far below the second best. Of 16384 random prototypes 1.001 are left, on
// average, and only where there are two are they scored in fp64. Of a map of as many that was fitted to photo patches 15 are left,
// of one sample in ten 60: a list that is full is scored, and only the best of it stays.
#pragma once

#include "cpu/runtime/arena.h"
#include "cpu/search/rescore.h"

namespace vitsom {
namespace VITSOM_ISA {

constexpr std::int32_t MOST_CONTENDERS = 16;

// Of a cosine in fp32: two roundings, and those of the floor.
constexpr double SCORE_SLACK = 0x1p-22;

// The share of the prototypes beyond which those of a sample are searched in fp64: scoring one by one takes eight times as long as in
// fp32, scoring all at once three times.
constexpr std::int64_t LARGEST_SHARE = 8;

struct Contender {
    std::int32_t index;
    float score;
};

// What is known of a sample and a part of the prototypes.
struct Contest {
    Nearest nearest;      // of those that were scored in fp64
    std::int64_t scored;  // how many were
    std::int32_t count;
    Contender list[MOST_CONTENDERS];  // [count] to be scored, or not

    // Those of the list; returns how many they are.
    std::int64_t indices(std::int64_t (&index)[MOST_CONTENDERS]) const {
        for (std::int32_t c = 0; c < count; ++c) index[c] = list[c].index;
        return count;
    }
};

// Those of all samples, among a part of the prototypes. `exact(i, index, n, leader)` scores n prototypes for sample i.
struct Contenders {
    float* floor;      // [batch] a score that every wanted unit reaches
    Contest* of;       // [batch]
    LargestTwo* seen;  // [batch] scores, where two units are wanted
    int wanted;        // units of a sample
    float error;       // of a score
    std::int64_t most_scored;

    static constexpr std::int64_t BYTES = sizeof(float) + sizeof(Contest) + sizeof(LargestTwo);  // a sample

    static Contenders take(Arena& arena, std::int64_t batch, int wanted) {
        return {arena.take<float>(batch), arena.take<Contest>(batch), arena.take<LargestTwo>(wanted > 1 ? batch : 0), wanted, 0, 0};
    }

    void start(std::int64_t i, float lowest) const {
        floor[i] = lowest;
        of[i].nearest = Nearest::none();
        of[i].scored = of[i].count = 0;
        if (wanted > 1) seen[i] = {};
    }

    // What is known of sample i, which will be wanted soon.
    void fetch(std::int64_t i) const {
        constexpr std::size_t LINE = 64;
        const char* x = reinterpret_cast<const char*>(of + i);
        for (std::size_t at = 0; at < sizeof(Contest); at += LINE) fetch_line<3>(x + at);
    }

    void raise(std::int64_t i, float score) const {
        if (score > floor[i]) floor[i] = score;
    }

    // Scores of prototypes that were not seen before, where two units are wanted.
    void see_two(std::int64_t i, const LanesLargestTwo& scores) const {
        scores.give_to(seen[i]);
        raise(i, seen[i].second - 2 * error);
    }

    // Those of the TILE_COLS prototypes from `first` on that have a bit in `lanes`.
    template <class Exact>
    void add(std::int64_t i, unsigned lanes, std::int64_t first, const float* scores, const Exact& exact) const {
        for (; lanes != 0; lanes &= lanes - 1) {
            const int lane = __builtin_ctz(lanes);
            if (of[i].count == MOST_CONTENDERS) make_room(i, exact);
            if (scores[lane] >= floor[i]) of[i].list[of[i].count++] = {static_cast<std::int32_t>(first + lane), scores[lane]};
        }
    }

    // Leaves those that reach `least`.
    void keep(std::int64_t i, float least) const {
        Contest& contest = of[i];
        std::int32_t kept = 0;
        for (std::int32_t c = 0; c < contest.count; ++c) {
            if (contest.list[c].score >= least) contest.list[kept++] = contest.list[c];
        }
        contest.count = kept;
    }

    // Scores the list, which leaves the best of it.
    template <class Exact>
    void settle(std::int64_t i, const Exact& exact) const {
        Contest& contest = of[i];
        std::int64_t index[MOST_CONTENDERS];
        float reached = floor[i] + error;
        exact(i, index, contest.indices(index), Leader{reached, contest.nearest, wanted, 0, SCORE_SLACK});
        raise(i, reached - error);
        contest.scored += contest.count;
        contest.count = 0;
    }

private:
    template <class Exact>
    __attribute__((noinline)) void make_room(std::int64_t i, const Exact& exact) const {
        keep(i, floor[i]);
        if (of[i].count < MOST_CONTENDERS / 2) return;
        settle(i, exact);
        if (of[i].scored > most_scored) floor[i] = UNDECIDED;
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

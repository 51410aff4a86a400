// The prototypes that may be the BMU of a sample, as far as scores in fp32 can tell.
//
// A score is within a known bound of the true one, so that a prototype whose score is below the best by twice that bound cannot be
// the BMU. Of 16384 random prototypes 1.001 are left, on average, and only where there are two are they scored in fp64.
#pragma once

#include "memory.h"
#include "pack.h"

namespace vitsom {
namespace VITSOM_ISA {

// A floor that no score reaches: of a sample that is left to another pass, or has its BMU.
constexpr float UNDECIDED = __builtin_inff();

// Of one sample and a part of the prototypes; more of them are left to a search in fp64.
constexpr std::int32_t MOST_CONTENDERS = 16;

struct Contender {
    std::int32_t index;
    float score;
};

// Those of all samples, among a part of the prototypes.
struct Contenders {
    float* floor;         // [batch] a score that the BMU reaches
    std::int32_t* count;  // [batch]
    Contender* list;      // [batch][MOST_CONTENDERS]

    static constexpr std::int64_t BYTES = sizeof(float) + sizeof(std::int32_t) + MOST_CONTENDERS * sizeof(Contender);  // a sample

    static Contenders take(Arena& arena, std::int64_t batch) {
        return {arena.take<float>(batch), arena.take<std::int32_t>(batch), arena.take<Contender>(batch * MOST_CONTENDERS)};
    }

    void raise(std::int64_t i, float score) const {
        if (score > floor[i]) floor[i] = score;
    }

    // Those of the TILE_COLS prototypes from `first` on that have a bit in `lanes`.
    void add(std::int64_t i, unsigned lanes, std::int64_t first, const float* scores) const {
        for (; lanes != 0; lanes &= lanes - 1) {
            const int lane = __builtin_ctz(lanes);
            add(i, {static_cast<std::int32_t>(first + lane), scores[lane]});
        }
    }

    // Leaves those of sample i that reach `least`.
    void keep(std::int64_t i, float least) const {
        Contender* contender = list + i * MOST_CONTENDERS;
        std::int32_t kept = 0;
        for (std::int32_t c = 0; c < count[i]; ++c) {
            if (contender[c].score >= least) contender[kept++] = contender[c];
        }
        count[i] = kept;
    }

private:
    void add(std::int64_t i, Contender contender) const {
        if (floor[i] == UNDECIDED) return;
        if (count[i] == MOST_CONTENDERS) keep(i, floor[i]);
        if (count[i] == MOST_CONTENDERS) floor[i] = UNDECIDED;
        else list[i * MOST_CONTENDERS + count[i]++] = contender;
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

// The nearest prototypes of a sample among those that have been scored: its BMU, and its second-best unit. A score is a cosine, or
// -|z - w|^2 / 2 under the squared Euclidean distance.
#pragma once

#include "cpu/search/search_output.h"

namespace vitsom {
namespace VITSOM_ISA {

struct Nearest {
    double score[2];       // the larger first; -inf where there is none
    std::int64_t unit[2];  // of equals the lower index first; 0 where there is none

    static Nearest none() { return {{-__builtin_inf(), -__builtin_inf()}, {0, 0}}; }

    // A prototype that may have been met before; a score that is NaN is of none.
    void meet(double found, std::int64_t index) {
        int place = 1;
        if (is_nearer(found, index, 0)) {
            score[1] = score[0];
            unit[1] = unit[0];
            place = 0;
        } else if (index == unit[0] || !is_nearer(found, index, 1)) {
            return;
        }
        score[place] = found;
        unit[place] = index;
    }

    // Whether it is one of the two, whose scores need not be computed again.
    bool holds(std::int64_t index) const {
        return (index == unit[0] && score[0] > -__builtin_inf()) || (index == unit[1] && score[1] > -__builtin_inf());
    }

    void write(const SearchOutput& result, std::int64_t i) const {
        for (int place = 0; place < result.wanted; ++place) {
            result.bmu[i * result.wanted + place] = unit[place];
            if (result.score) result.score[i * result.wanted + place] = score[place];
        }
    }

private:
    bool is_nearer(double found, std::int64_t index, int place) const {
        return found > score[place] || (found == score[place] && index < unit[place]);
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

// A block of samples on its way through the tree of tiles: what is known of each, and the prototypes that it has been scored with.
#pragma once

#include "cpu/search/rescore_by_distance.h"
#include "cpu/search/search_output.h"
#include "cpu/search/pruned/reach.h"
#include "cpu/search/pruned/seekers.h"

namespace vitsom {
namespace VITSOM_ISA {

class WalkState {
public:
    WalkState(const Problem& p, const TileTree& tree, const SearchOutput& result, const Seekers& all, const WalkScratch& scratch)
        : p_(p), tree_(tree), result_(result), all_(all), s_(scratch) {}

    std::int64_t candidates() const { return candidates_; }

protected:
    void read_sample(std::int64_t i, std::int64_t row_of_z) {
        const Row z = row(p_.z, row_of_z);
        float* unit = s_.unit + i * tree_.dim;
        Reach& reach = s_.reach[i] = reach_of(tree_, z, result_.inverse_z[row_of_z], unit, s_.seen + i);
        const float along_origin = s_.progress[i].along_origin = dot_padded(unit, tree_.origin, tree_.dim);
        const float share = tree_.origin_square > 0 && along_origin > 0 ? along_origin / tree_.origin_square : 1;  // of balls
        s_.seen[i].over_origin = share - 1;
        reach.code = encode_sample(unit, tree_.origin, share, tree_.dim, s_.codes + i * tree_.words);
        s_.row[i] = row_of_z;
    }

    void set_threshold(std::int64_t i, float found) {
        const Shell* near = tree_.is_of_balls ? tree_.level[0].shell + s_.progress[i].first_tile : nullptr;
        raise_reach(tree_, near, found, s_.seen[i], s_.reach[i]);
    }

    void score(std::int64_t i, const std::int64_t* index, std::int64_t n) {
        const Row z = row(p_.z, s_.row[i]);
        const double inverse = result_.inverse_z[s_.row[i]];
        Progress& progress = s_.progress[i];
        float found = s_.reach[i].found;
        const bool is_cosine = !tree_.is_of_balls;
        const Leader leader{found, progress.nearest, result_.wanted, 0, is_cosine ? 0x1p-22 : 0, is_cosine ? 0 : tree_.unit};
        if (n > 8) rescore_by_either<LANES>(p_, z, inverse, result_.inverse_prototype, index, n, leader);
        else if (n > 4) rescore_by_either<8>(p_, z, inverse, result_.inverse_prototype, index, n, leader);
        else rescore_by_either<4>(p_, z, inverse, result_.inverse_prototype, index, n, leader);
        if (found > s_.reach[i].found) set_threshold(i, found);
        candidates_ += n;
    }

    const Problem& p_;
    const TileTree& tree_;
    const SearchOutput& result_;
    const Seekers& all_;
    const WalkScratch s_;

private:
    std::int64_t candidates_ = 0;
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

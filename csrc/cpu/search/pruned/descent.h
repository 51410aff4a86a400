// The way of a sample down the tree by the best centres, to prototypes that are its BMU or close to it.
#pragma once

#include "cpu/search/pruned/walk_state.h"

namespace vitsom {
namespace VITSOM_ISA {

// Of the first tile: those that its plane comes closest to the sample.
constexpr int FIRST_CANDIDATES = 4;

class Descent : public WalkState {
public:
    using WalkState::WalkState;

    // Finds a first candidate for each of the samples [begin, end): down the tree by the best centre, it is the BMU or close to it.
    void set_out(std::int64_t begin, std::int64_t end) {
        const std::int64_t count = end - begin;
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t row_of_z = all_.rows[begin + i];
            double& inverse = result_.inverse_z[row_of_z];
            inverse = tree_.is_of_balls ? 1 : inverse_norm(row(p_.z, row_of_z), p_.dim);
            s_.progress[i] = {Nearest::none(), 0, 0, 0};
            read_sample(i, row_of_z);
            s_.seen[i].stretch.over_ball = over_ball_at_first(s_.progress[i].along_origin);
            if (tree_.is_of_balls && s_.reach[i].found == UNDECIDED) inverse = inverse_norm(row(p_.z, row_of_z), p_.dim);
        }
        for (std::int64_t first = 0; first < count; first += WALK_ROWS) {
            find_first_candidates(first, smaller(WALK_ROWS, count - first));
        }
        for (std::int64_t i = 0; i < count; ++i) {
            all_.progress[begin + i] = s_.progress[i];
            all_.progress[begin + i].threshold = s_.reach[i].found;
        }
    }

private:
    // How much longer than the longest prototype a sample is, in the direction of the map, or shorter than the shortest.
    float over_ball_at_first(float along_origin) const {
        if (!(tree_.origin_square > 0)) return 0;
        const float along = along_origin / __builtin_sqrtf(tree_.origin_square);
        if (along > tree_.longest) return along / tree_.longest - 1;
        return along > 0 && along < tree_.shortest ? along / tree_.shortest - 1 : 0;
    }

    // What the code of a sample leaves out, and what the longest prototypes of each tile have beyond its centre, for one longer than
    // the map; the shortest for others.
    Lanes beyond_ball(std::int64_t i, const ShellPanel& shells) const {
        const float over_ball = s_.seen[i].stretch.over_ball;
        return s_.seen[i].over_origin * shells.along_origin + over_ball * shells.side(over_ball).beyond;
    }

    void find_first_candidates(std::int64_t first, std::int64_t count) {
        Lanes best[WALK_ROWS];
        LaneInts best_tile[WALK_ROWS];
        const std::uint32_t* z[WALK_ROWS];
        float scale[WALK_ROWS], along[WALK_ROWS];
        for (int r = 0; r < WALK_ROWS; ++r) {
            const std::int64_t i = first + smaller(r, count - 1);
            z[r] = s_.codes + i * tree_.words;
            scale[r] = s_.reach[i].code.scale;
            along[r] = s_.progress[i].along_origin;
            best[r] = splat_lanes(-__builtin_inff());
            best_tile[r] = LaneInts{};
        }
        LaneInts tile = lane_numbers();
        for (std::int64_t root = 0; root < tree_.num_roots; ++root, tile += LANES) {
            const Panel& panel = tree_.root[root];
            PanelCode::Sum product[WALK_ROWS];
            multiply_gathered<WALK_ROWS>(tree_.words, z, tree_.root_codes + root * tree_.words * LANES, panel.start, product);
            for (int r = 0; r < WALK_ROWS; ++r) {
                Lanes score = PanelCode::value(product[r]) * (panel.scale * scale[r]) + (panel.bias + panel.along * along[r]);
                if (tree_.is_of_balls) score = score + beyond_ball(first + smaller(r, count - 1), tree_.root_shells[root]);
                keep_larger(score, tile, best[r], best_tile[r]);
            }
        }
        Paths paths;
        for (int r = 0; r < count; ++r) {
            paths.count[r] = s_.reach[first + r].found == UNDECIDED ? 0 : take_best(best[r], best_tile[r], paths.tile[r]);
        }
        follow(first, count, paths);
        if (tree_.is_of_balls) {
            for (int r = 0; r < count; ++r) {
                if (!(s_.reach[first + r].found > -__FLT_MAX__)) set_threshold(first + r, UNDECIDED);
            }
            return;
        }
        bool any_lost = false;
        for (int r = 0; r < count; ++r) {
            const float threshold = s_.reach[first + r].threshold;
            const bool is_lost = threshold <= 0;  // bounds tell nothing of what is at a right angle or more
            paths.count[r] = is_lost ? find_nearest_centres(first + r, paths.tile[r]) : 0;
            any_lost |= is_lost;
        }
        if (any_lost) follow(first, count, paths);
        for (int r = 0; r < count; ++r) {
            if (!(s_.reach[first + r].threshold > 0)) set_threshold(first + r, UNDECIDED);
        }
    }

    // The tiles of the highest scores, one a lane; returns how many have one.
    static int take_best(Lanes score, const LaneInts& tile, std::int64_t (&taken)[FOLLOWED]) {
        std::int32_t tiles[LANES];
        std::memcpy(tiles, &tile, sizeof tiles);
        int n = 0;
        for (; n < FOLLOWED; ++n) {
            const float most = largest(score);
            if (!(most > -__builtin_inff())) break;
            const int lane = take_lane(score, most);
            taken[n] = tiles[lane];
        }
        return n;
    }

    // From tiles of the top level down to prototypes, of which the most likely are scored.
    void follow(std::int64_t first, std::int64_t count, Paths& paths) {
        for (int level = tree_.num_levels - 1; level > 0; --level) descend(level, first, count, paths);
        score_first(first, count, paths);
    }

    // Tiles of the top level by the product of a sample with each centre, in fp32: where codes have led it to the wrong side.
    int find_nearest_centres(std::int64_t i, std::int64_t (&tile)[FOLLOWED]) const {
        const TileLevel& top = tree_.top();
        const float* const sample[1] = {s_.unit + i * tree_.dim};
        float best[FOLLOWED];
        for (float& score : best) score = -__builtin_inff();
        for (std::int64_t first = 0; first < top.count(); first += 4) {
            Four centre;
            for (int c = 0; c < 4; ++c) centre.row[c] = top.centre + smaller(first + c, top.count() - 1) * tree_.dim;
            float score[1][4];
            dot_four<1>(centre, sample, tree_.dim, score);
            for (int c = 0; c < smaller(4, top.count() - first); ++c) {
                if (!top.exists[first + c] || !(score[0][c] > best[FOLLOWED - 1])) continue;
                int place = FOLLOWED - 1;
                for (; place > 0 && score[0][c] > best[place - 1]; --place) {
                    best[place] = best[place - 1];
                    tile[place] = tile[place - 1];
                }
                best[place] = score[0][c];
                tile[place] = first + c;
            }
        }
        int n = 0;
        while (n < FOLLOWED && best[n] > -__builtin_inff()) ++n;
        return n;
    }

    // Each sample goes to the nearest tiles of all those that its tiles are made of, two samples at a time: one has too few products
    // to keep the processor busy. What it needs there is fetched while the others of its block are on their way.
    void descend(int level, std::int64_t first, std::int64_t count, Paths& paths) {
        const TileLevel& tiles = tree_.level[level];
        for (std::int64_t pair = 0; pair < count; pair += 2) {
            Four sample, centre;
            const std::uint32_t *codes[4], *z[4];
            PanelCode::Sum start[4], product[4];
            std::int64_t followed[4];
            for (int f = 0; f < 4; ++f) {
                const std::int64_t r = smaller(pair + f / FOLLOWED, count - 1);
                followed[f] = paths.count[r] == 0 ? 0 : paths.tile[r][f % FOLLOWED < paths.count[r] ? f % FOLLOWED : 0];
                sample.row[f] = s_.unit + (first + r) * tree_.dim;
                centre.row[f] = tiles.centre + followed[f] * tree_.dim;
                z[f] = s_.codes + (first + r) * tree_.words;
                codes[f] = tiles.codes + followed[f] * tree_.words * LANES;
                start[f] = tiles.panel[followed[f]].start;
            }
            float along[4];
            dot_each(sample, centre, tree_.dim, along);
            multiply_each(tree_.words, z, codes, start, product);
            for (std::int64_t r = pair; r < smaller(pair + 2, count); ++r) {
                const int begin = r == pair ? 0 : FOLLOWED;
                Lanes best = splat_lanes(-__builtin_inff());
                LaneInts best_place{}, place = lane_numbers();
                for (int f = begin; f < begin + paths.count[r]; ++f, place += LANES) {
                    const Panel& panel = tiles.panel[followed[f]];
                    const Lanes per_code = panel.scale * s_.reach[first + r].code.scale;
                    Lanes score = PanelCode::value(product[f]) * per_code + (panel.bias + panel.along * along[f]);
                    if (tree_.is_of_balls) score = score + beyond_ball(first + r, tiles.shells[followed[f]]);
                    keep_larger(score, place, best, best_place);
                }
                std::int64_t taken[FOLLOWED];
                paths.count[r] = take_best(best, best_place, taken);
                for (int f = 0; f < paths.count[r]; ++f) {
                    const Members below = tiles.tiling.members(followed[begin + taken[f] / LANES]);
                    paths.tile[r][f] = below[static_cast<int>(taken[f] % LANES)];
                    fetch_tile(level - 1, paths.tile[r][f]);
                }
            }
        }
    }

    void fetch_tile(int level, std::int64_t tile) const {
        const TileLevel& tiles = tree_.level[level];
        if (level == 0) {
            fetch(tiles.axes + 3 * tile * tree_.dim, 3 * tree_.dim);
            fetch(reinterpret_cast<const float*>(tiles.plane + tile), sizeof(Plane) / sizeof(float));
        } else {
            fetch(tiles.centre + tile * tree_.dim, tree_.dim);
            fetch(tiles.codes + tile * tree_.words * LANES, tree_.words * LANES);
            fetch(reinterpret_cast<const float*>(tiles.panel + tile), sizeof(Panel) / sizeof(float));
        }
    }

    // Scores the prototypes that the planes of its tiles bring closest to each sample.
    void score_first(std::int64_t first, std::int64_t rows, const Paths& paths) {
        std::int64_t index[WALK_ROWS][FIRST_CANDIDATES], n[WALK_ROWS];
        for (int r = 0; r < rows; ++r) {
            // Of tiles that were tried all, the first is as good as any: three more take 3 % of the search of a map of 64 x 64.
            const int count = tree_.num_levels == 1 ? static_cast<int>(smaller(1, paths.count[r])) : paths.count[r];
            n[r] = count == 0 ? 0 : find_candidates(first + r, paths.tile[r], count, index[r]);
        }
        for (int r = 0; r < rows; ++r) {
            if (n[r] > 0) score(first + r, index[r], n[r]);
        }
    }

    std::int64_t find_candidates(
        std::int64_t i, const std::int64_t (&tile)[FOLLOWED], int count, std::int64_t (&index)[FIRST_CANDIDATES]) {
        const TileLevel& tiles = tree_.level[0];
        const float* const sample[1] = {s_.unit + i * tree_.dim};
        Lanes likely[FOLLOWED];
        float most[FOLLOWED] = {};
        for (int f = 0; f < count; ++f) {
            const float* axes = tiles.axes + 3 * tile[f] * tree_.dim;
            const Four x{{axes, axes + tree_.dim, axes + 2 * tree_.dim, axes}};
            float products[1][4];
            dot_four<1>(x, sample, tree_.dim, products);
            const Plane& plane = tiles.plane[tile[f]];
            likely[f] = plane.along * (products[0][0] - plane.half_square) + plane.across * (products[0][1] - plane.across_centre) +
                        plane.down * (products[0][2] - plane.down_centre) + plane.slack;
            most[f] = largest(likely[f]);
        }
        std::int64_t n = 0;
        for (; n < FIRST_CANDIDATES; ++n) {
            int from = 0;
            for (int f = 1; f < count; ++f) from = most[f] > most[from] ? f : from;
            if (!(most[from] > -__builtin_inff())) break;
            if (n == 0) s_.progress[i].first_tile = static_cast<std::int32_t>(tile[from]);
            index[n] = tiles.tiling.members(tile[from])[take_lane(likely[from], most[from])];
            fetch(row(p_.prototypes, index[n]), p_.dim);
            most[from] = largest(likely[from]);
        }
        return n;
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

// One thread's way through the tree of tiles, with a block of samples.
#pragma once

#include "cpu/search/rescore.h"
#include "cpu/simd/masks.h"
#include "cpu/search/search_output.h"
#include "cpu/search/pruned/reach.h"
#include "cpu/search/pruned/seekers.h"

namespace vitsom {
namespace VITSOM_ISA {

// Of the first tile: those that its plane comes closest to the sample.
constexpr int FIRST_CANDIDATES = 4;

class TileWalk {
public:
    TileWalk(const Problem& p, const TileTree& tree, const SearchOutput& result, const Seekers& all, const WalkScratch& scratch)
        : p_(p), tree_(tree), result_(result), all_(all), s_(scratch) {}

    // Finds a first candidate for each of the samples [begin, end): down the tree by the best centre, it is the BMU or close to it.
    void set_out(std::int64_t begin, std::int64_t end) {
        const std::int64_t count = end - begin;
        for (std::int64_t i = 0; i < count; ++i) {
            s_.progress[i] = {Nearest::none(), 0, 0, 0, 0};
            read_sample(i, all_.rows[begin + i]);
        }
        for (std::int64_t first = 0; first < count; first += WALK_ROWS) {
            find_first_candidates(first, smaller(WALK_ROWS, count - first));
        }
        for (std::int64_t i = 0; i < count; ++i) {
            all_.progress[begin + i] = s_.progress[i];
            all_.progress[begin + i].threshold = s_.reach[i].found;
        }
    }

    // Finds the BMUs of up to a block of samples; gives up on them where that takes more than `most_work` tiles.
    void run(const std::int32_t* samples, std::int64_t count, std::int64_t most_work) {
        work_left_ = most_work;
        std::int32_t* kept = s_.kept + tree_.num_levels * s_.block;
        float* along = s_.along + tree_.num_levels * s_.block;
        std::int64_t n = 0;
        for (std::int64_t i = 0; i < count; ++i) {
            s_.progress[i] = all_.progress[samples[i]];
            if (s_.progress[i].threshold == UNDECIDED) continue;
            read_sample(i, all_.rows[samples[i]]);
            set_threshold(i, s_.progress[i].threshold);
            along[n] = dot_padded(s_.unit + i * tree_.dim, tree_.origin, tree_.dim);
            kept[n++] = static_cast<std::int32_t>(i);
        }
        for (std::int64_t root = 0; root < tree_.num_roots; ++root) {
            const std::uint32_t* codes = tree_.root_codes + root * tree_.words * LANES;
            go_below(tree_.num_levels, tree_.root[root], codes, kept, along, n, tree_.tiles_of_root(root));
        }
        for (std::int64_t i = 0; i < count; ++i) {
            all_.progress[samples[i]] = s_.progress[i];
            if (work_left_ < 0) all_.progress[samples[i]].threshold = UNDECIDED;
        }
    }

private:
    void read_sample(std::int64_t i, std::int64_t row_of_z) {
        const Row z = row(p_.z, row_of_z);
        const double inverse = result_.inverse_z[row_of_z] = inverse_norm(z, p_.dim);
        float* unit = s_.unit + i * tree_.dim;
        Reach& reach = s_.reach[i] = reach_of(tree_, z, inverse, unit, s_.seen + i);
        reach.code = encode_sample(unit, tree_.origin, tree_.dim, s_.codes + i * tree_.words);
        s_.row[i] = row_of_z;
    }

    void set_threshold(std::int64_t i, float found) { raise_reach(tree_, s_.seen[i], found, s_.reach[i]); }

    void find_first_candidates(std::int64_t first, std::int64_t count) {
        Lanes best[WALK_ROWS];
        LaneInts best_tile[WALK_ROWS];
        const std::uint32_t* z[WALK_ROWS];
        float scale[WALK_ROWS], along[WALK_ROWS];
        for (int r = 0; r < WALK_ROWS; ++r) {
            const std::int64_t i = first + smaller(r, count - 1);
            z[r] = s_.codes + i * tree_.words;
            scale[r] = s_.reach[i].code.scale;
            along[r] = dot_padded(s_.unit + i * tree_.dim, tree_.origin, tree_.dim);
            best[r] = splat_lanes(-__builtin_inff());
            best_tile[r] = LaneInts{};
        }
        LaneInts tile = lane_numbers();
        for (std::int64_t root = 0; root < tree_.num_roots; ++root, tile += LANES) {
            const Panel& panel = tree_.root[root];
            PanelCode::Sum product[WALK_ROWS];
            multiply_gathered<WALK_ROWS>(tree_.words, z, tree_.root_codes + root * tree_.words * LANES, panel.start, product);
            for (int r = 0; r < WALK_ROWS; ++r) {
                const Lanes score = PanelCode::value(product[r]) * (panel.scale * scale[r]) + (panel.bias + panel.along * along[r]);
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

    // Each sample goes to the nearest tiles of all those that its tiles are made of. What it needs there is fetched while the others
    // of its tile are on their way.
    void descend(int level, std::int64_t first, std::int64_t count, Paths& paths) {
        const TileLevel& tiles = tree_.level[level];
        for (int r = 0; r < count; ++r) {
            if (paths.count[r] == 0) continue;
            std::int64_t(&tile)[FOLLOWED] = paths.tile[r];
            Four centre;
            const std::uint32_t* codes[FOLLOWED];
            PanelCode::Sum start[FOLLOWED], product[FOLLOWED];
            for (int f = 0; f < FOLLOWED; ++f) {
                const std::int64_t followed = tile[f < paths.count[r] ? f : 0];
                centre.row[f] = tiles.centre + followed * tree_.dim;
                codes[f] = tiles.codes + followed * tree_.words * LANES;
                start[f] = tiles.panel[followed].start;
            }
            float along[1][FOLLOWED];
            const float* const sample[1] = {s_.unit + (first + r) * tree_.dim};
            dot_four<1>(centre, sample, tree_.dim, along);
            multiply_panels(tree_.words, s_.codes + (first + r) * tree_.words, codes, start, product);
            Lanes best = splat_lanes(-__builtin_inff());
            LaneInts best_place{}, place = lane_numbers();
            for (int f = 0; f < paths.count[r]; ++f, place += LANES) {
                const Panel& panel = tiles.panel[tile[f]];
                const Lanes per_code = panel.scale * s_.reach[first + r].code.scale;
                const Lanes score = PanelCode::value(product[f]) * per_code + (panel.bias + panel.along * along[0][f]);
                keep_larger(score, place, best, best_place);
            }
            std::int64_t taken[FOLLOWED];
            paths.count[r] = take_best(best, best_place, taken);
            for (int f = 0; f < paths.count[r]; ++f) {
                taken[f] = tiles.tiling.members(tile[taken[f] / LANES])[static_cast<int>(taken[f] % LANES)];
                fetch_tile(level - 1, taken[f]);
            }
            std::memcpy(tile, taken, sizeof tile);
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

    // Takes `n` samples to those tiles of a panel, of the level below, that may hold their BMU.
    void go_below(
        int level, const Panel& panel, const std::uint32_t* codes, const std::int32_t* kept, const float* along, std::int64_t n,
        const Members& tiles) {
        std::int32_t* list[LANES];
        std::int64_t count[LANES] = {};
        for (int lane = 0; lane < LANES; ++lane) list[lane] = s_.list + (level * LANES + lane) * (s_.block + LANES);
        for (std::int64_t first = 0; first < n; first += WALK_ROWS) {
            with_constant<WALK_ROWS>(smaller(WALK_ROWS, n - first), [&](auto constant) {
                constexpr int ROWS = decltype(constant)::value;
                alignas(64) std::uint32_t samples[LANES];  // that reach each lane, a bit each
                mark_reaching<ROWS>(panel, codes, kept + first, along + first, samples);
                const Places places = places_of(kept + first, ROWS);
                for (int lane = 0; lane < LANES; ++lane) {
                    count[lane] += append(list[lane] + count[lane], samples[lane], places);
                }
            });
        }
        for (int lane = 0; lane < LANES && work_left_ >= 0; ++lane) {
            if (count[lane] == 0) continue;
            if (level > 1) visit(level - 1, tiles[lane], list[lane], count[lane]);
            else look_into(tiles[lane], list[lane], count[lane]);
        }
    }

    // Which of some samples have bounds for a lane that reach what they need: a bit each in samples[lane].
    template <int ROWS>
    void mark_reaching(
        const Panel& panel, const std::uint32_t* codes, const std::int32_t* place, const float* along,
        std::uint32_t* samples) const {
        const std::uint32_t* z[ROWS];
        for (int r = 0; r < ROWS; ++r) z[r] = s_.codes + place[r] * tree_.words;
        PanelCode::Sum product[ROWS];
        multiply_gathered<ROWS>(tree_.words, z, codes, panel.start, product);
        LaneBits reaching{};
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
            const Reach& sample = s_.reach[place[r]];
            const Lanes score =
                PanelCode::value(product[r]) * (panel.scale * sample.code.scale) + (panel.bias + panel.along * along[r]);
            const Lanes bound = sample.code.residual * panel.norm + sample.code.norm * panel.residual + sample.slack;
            const Lanes needed = sample.threshold * panel.cosine - sample.sine * panel.sine - panel.more;
            mark_lanes_reaching(reaching, score + bound, needed, 1u << r);
        }
        std::memcpy(samples, &reaching, sizeof reaching);
    }

    // What `list` names, four at a time; the last one stands in for those that four lack.
    template <class Body>
    void by_fours(const std::int32_t* list, std::int64_t count, const Body& body) {
        for (std::int64_t first = 0; first < count; first += 4) {
            Four z;
            for (int r = 0; r < 4; ++r) z.row[r] = s_.unit + list[smaller(first + r, count - 1)] * tree_.dim;
            body(z, list + first, smaller(4, count - first));
        }
    }

    void visit(int level, std::int64_t tile, const std::int32_t* list, std::int64_t count) {
        const TileLevel& tiles = tree_.level[level];
        const float* const centre[1] = {tiles.centre + tile * tree_.dim};
        const Radius radius = tiles.radius[tile];
        std::int32_t* kept = s_.kept + level * s_.block;
        float* along = s_.along + level * s_.block;
        std::int64_t n = 0;
        by_fours(list, count, [&](const Four& z, const std::int32_t* place, std::int64_t rows) {
            float score[1][4];
            dot_four<1>(z, centre, tree_.dim, score);
            for (int r = 0; r < rows; ++r) {
                const Reach& sample = s_.reach[place[r]];
                kept[n] = place[r];
                along[n] = score[0][r];
                n += score[0][r] + sample.slack >= radius.cosine * sample.threshold - radius.sine * sample.sine - radius.more;
            }
        });
        const std::uint32_t* codes = tiles.codes + tile * tree_.words * LANES;
        go_below(level, tiles.panel[tile], codes, kept, along, n, tiles.tiling.members(tile));
    }

    // Scores the prototypes of a tile that its plane does not rule out.
    void look_into(std::int64_t tile, const std::int32_t* list, std::int64_t count) {
        const TileLevel& tiles = tree_.level[0];
        const Plane& plane = tiles.plane[tile];
        const Members members = tiles.tiling.members(tile);
        const float* axes = tiles.axes + 3 * tile * tree_.dim;
        const float* const axis[3] = {axes, axes + tree_.dim, axes + 2 * tree_.dim};
        work_left_ -= count;
        unsigned* likely = s_.likely;
        unsigned fetched = 0;
        by_fours(list, count, [&](const Four& z, const std::int32_t* place, std::int64_t rows) {
            float along[3][4];
            dot_four<3>(z, axis, tree_.dim, along);
            for (int r = 0; r < rows; ++r) {
                ++s_.progress[place[r]].tiles;
                const Reach& sample = s_.reach[place[r]];
                const float x = along[0][r] - plane.half_square, y = along[1][r] - plane.across_centre, w = along[2][r] - plane.down_centre;
                const float above = tree_.is_of_balls ? s_.seen[place[r]].square - 2 * x : 1 - x * x;
                const float left = above - y * y - w * w;
                const float rest = __builtin_sqrtf((left > 0 ? left : 0) + 4 * sample.slack);
                Lanes most = plane.along * x + plane.across * y + plane.down * w + plane.rest * rest + plane.slack;
                if (tree_.is_of_balls) {
                    most = most + (plane.slack_of_length * (s_.seen[place[r]].length + tree_.reach) + sample.slack);
                }
                const unsigned lanes = lanes_reaching(most, splat_lanes(sample.threshold));
                *likely++ = lanes;
                for (unsigned next = lanes & ~fetched; next != 0; next &= next - 1) {
                    fetch(row(p_.prototypes, members[__builtin_ctz(next)]), p_.dim);
                }
                fetched |= lanes;
            }
        });
        for (std::int64_t i = 0; i < count; ++i) {
            std::int64_t index[LANES], n = 0;
            for (unsigned lanes = s_.likely[i]; lanes != 0; lanes &= lanes - 1) index[n++] = members[__builtin_ctz(lanes)];
            if (n > 0) score(list[i], index, n);
        }
    }

    void score(std::int64_t i, const std::int64_t* index, std::int64_t n) {
        const Row z = row(p_.z, s_.row[i]);
        const double inverse = result_.inverse_z[s_.row[i]];
        Progress& progress = s_.progress[i];
        float found = s_.reach[i].found;
        const double offset = tree_.is_of_balls ? s_.seen[i].offset : 0;  // of a sample far from the map, a cosine less it is large
        const Leader leader{found, progress.nearest, result_.wanted, offset, 0x1p-22 * (1 + offset)};
        if (n > 8) rescore<LANES>(p_, z, inverse, result_.inverse_prototype, index, n, leader);
        else if (n > 4) rescore<8>(p_, z, inverse, result_.inverse_prototype, index, n, leader);
        else rescore<4>(p_, z, inverse, result_.inverse_prototype, index, n, leader);
        if (found > s_.reach[i].found) set_threshold(i, found);
        progress.candidates += static_cast<std::int32_t>(n);
        work_left_ -= n / 4;  // a tile takes as long as four candidates
    }

    const Problem& p_;
    const TileTree& tree_;
    const SearchOutput& result_;
    const Seekers& all_;
    const WalkScratch s_;
    std::int64_t work_left_ = INT64_MAX;
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

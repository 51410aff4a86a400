// One thread's way through the tree of tiles, with a block of samples, to all prototypes that may be their BMU.
#pragma once

#include "cpu/simd/masks.h"
#include "cpu/search/pruned/walk_state.h"

namespace vitsom {
namespace VITSOM_ISA {

class TileWalk : public WalkState {
public:
    using WalkState::WalkState;

    std::int64_t tiles() const { return tiles_; }

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
            along[n] = s_.progress[i].along_origin;
            kept[n++] = static_cast<std::int32_t>(i);
        }
        for (std::int64_t root = 0; root < tree_.num_roots; ++root) {
            const std::uint32_t* codes = tree_.root_codes + root * tree_.words * LANES;
            const ShellPanel* shells = tree_.is_of_balls ? tree_.root_shells + root : nullptr;
            go_below(tree_.num_levels, tree_.root[root], shells, codes, kept, along, n, tree_.tiles_of_root(root));
        }
        for (std::int64_t i = 0; i < count; ++i) {
            all_.progress[samples[i]] = s_.progress[i];
            if (work_left_ < 0) all_.progress[samples[i]].threshold = UNDECIDED;
        }
    }

private:
    // Takes `n` samples to those tiles of a panel, of the level below, that may hold their BMU.
    void go_below(
        int level, const Panel& panel, const ShellPanel* shells, const std::uint32_t* codes, const std::int32_t* kept,
        const float* along, std::int64_t n, const Members& tiles) {
        std::int32_t* list[LANES];
        std::int64_t count[LANES] = {};
        for (int lane = 0; lane < LANES; ++lane) list[lane] = s_.list + (level * LANES + lane) * (s_.block + LANES);
        for (std::int64_t first = 0; first < n; first += WALK_ROWS) {
            const int rows = static_cast<int>(smaller(WALK_ROWS, n - first));
            PanelCode::Sum product[WALK_ROWS];
            with_constant<WALK_ROWS>(rows, [&](auto constant) {
                constexpr int ROWS = decltype(constant)::value;
                const std::uint32_t* z[ROWS];
                for (int r = 0; r < ROWS; ++r) z[r] = s_.codes + kept[first + r] * tree_.words;
                multiply_gathered<ROWS>(tree_.words, z, codes, panel.start, product);
            });
            alignas(64) std::uint32_t samples[LANES];  // that reach each lane, a bit each
            mark_reaching(rows, panel, shells, product, kept + first, along + first, samples);
            const Places places = places_of(kept + first, rows);
            for (int lane = 0; lane < LANES; ++lane) count[lane] += append(list[lane] + count[lane], samples[lane], places);
        }
        for (int lane = 0; lane < LANES && work_left_ >= 0; ++lane) {
            if (count[lane] == 0) continue;
            if (level > 1) visit(level - 1, tiles[lane], list[lane], count[lane]);
            else look_into(tiles[lane], list[lane], count[lane]);
        }
    }

    // Which of some samples have bounds for a lane that reach what they need: a bit each in samples[lane].
    void mark_reaching(
        int rows, const Panel& panel, const ShellPanel* shells, const PanelCode::Sum* product, const std::int32_t* place,
        const float* along, std::uint32_t* samples) const {
        LaneBits reaching{};
        for (int r = 0; r < rows; ++r) {
            const Reach& sample = s_.reach[place[r]];
            Lanes score = PanelCode::value(product[r]) * (panel.scale * sample.code.scale) + (panel.bias + panel.along * along[r]);
            const Lanes bound = sample.code.residual * panel.norm + sample.code.norm * panel.residual + sample.slack;
            Lanes needed = sample.threshold * panel.cosine - sample.sine * panel.sine - panel.more;
            if (shells) {
                const Seen& seen = s_.seen[place[r]];
                score = score + seen.over_origin * shells->along_origin;
                needed = larger_of(needed, shells->needed(seen.stretch, sample.threshold, panel.sine, panel.more));
            }
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
        const Shell* shell = tree_.is_of_balls ? tiles.shell + tile : nullptr;
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
                const float most = score[0][r] + sample.slack;
                if (!(most >= radius.cosine * sample.threshold - radius.sine * sample.sine - radius.more)) continue;
                n += !shell || most >= s_.seen[place[r]].stretch.needed(sample.threshold, radius, *shell);
            }
        });
        const std::uint32_t* codes = tiles.codes + tile * tree_.words * LANES;
        const ShellPanel* shells = tree_.is_of_balls ? tiles.shells + tile : nullptr;
        go_below(level, tiles.panel[tile], shells, codes, kept, along, n, tiles.tiling.members(tile));
    }

    // Scores the prototypes of a tile that its plane does not rule out.
    void look_into(std::int64_t tile, const std::int32_t* list, std::int64_t count) {
        const TileLevel& tiles = tree_.level[0];
        const Plane& plane = tiles.plane[tile];
        const Members members = tiles.tiling.members(tile);
        const float* axes = tiles.axes + 3 * tile * tree_.dim;
        const float* const axis[3] = {axes, axes + tree_.dim, axes + 2 * tree_.dim};
        work_left_ -= count;
        tiles_ += count;
        unsigned* likely = s_.likely;
        unsigned fetched = 0;
        by_fours(list, count, [&](const Four& z, const std::int32_t* place, std::int64_t rows) {
            float along[3][4];
            dot_four<3>(z, axis, tree_.dim, along);
            Quad slack, above;
            for (int r = 0; r < 4; ++r) {
                const std::int32_t i = place[smaller(r, rows - 1)];
                above[r] = tree_.is_of_balls ? static_cast<float>(s_.seen[i].square) : 1;
                slack[r] = tree_.is_of_balls ? 3 * tree_.slack * (above[r] + tree_.reach * tree_.reach) : tree_.slack;
            }
            const Quad x = load_as<Quad>(along[0]) - plane.half_square;
            const Quad y = load_as<Quad>(along[1]) - plane.across_centre, w = load_as<Quad>(along[2]) - plane.down_centre;
            const Quad along_centre = x - plane.half_square;
            const Quad in_plane = (tree_.is_of_balls ? x + x + along_centre * along_centre * plane.inverse_square : x * x) + y * y;
            const Quad left = above - in_plane - w * w;
            const Quad rest = square_root_of_four((left > 0 ? left : Quad{}) + 4 * slack);
            for (int r = 0; r < rows; ++r) {
                const Reach& sample = s_.reach[place[r]];
                const Lanes most = plane.along * x[r] + plane.across * y[r] + plane.down * w[r] + plane.rest * rest[r] + plane.slack;
                float needed = sample.threshold;
                if (tree_.is_of_balls) needed -= plane.slack_of_length * (s_.seen[place[r]].length + tree_.reach) + sample.slack;
                const unsigned lanes = lanes_reaching(most, splat_lanes(needed));
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
            if (n == 0) continue;
            score(list[i], index, n);
            work_left_ -= n / 4;  // a tile takes as long as four candidates
        }
    }

    std::int64_t work_left_ = INT64_MAX, tiles_ = 0;
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

// One thread's way through the tree of tiles, with a block of samples.
#pragma once

#include "rescore.h"
#include "tile_tree.h"

namespace vitsom {
namespace VITSOM_ISA {

// What is known of a sample.
struct Seeker {
    float threshold;  // the BMU's cosine is no less; UNDECIDED where the search is left to others
    float sine;       // of its angle, no less
    CodedSample code;
    std::int32_t tiles, candidates;  // looked into
    double best;
    std::int64_t bmu;
};

// All samples, as the walk takes them.
struct Seekers {
    const std::int64_t* rows;  // [batch] which samples they are
    float* unit;               // [batch][dim]
    std::uint32_t* codes;      // [batch][words]
    Seeker* seeker;            // [batch]

    static Seekers take(Arena& arena, const TileTree& tree, const std::int64_t* rows, std::int64_t batch) {
        Seekers all{rows, nullptr, nullptr, nullptr};
        all.unit = arena.take<float>(batch * tree.dim);
        all.codes = arena.take<std::uint32_t>(batch * tree.words);
        all.seeker = arena.take<Seeker>(batch);
        return all;
    }
};

typedef std::uint16_t Place;  // of a sample in its block

// What a thread needs beside the tree.
struct WalkScratch {
    std::int64_t block;   // most samples at a time
    Place* kept;          // [num_levels + 1][block]
    float* along;         // [num_levels + 1][block]
    Place* list;          // [num_levels + 1][LANES][block]

    static WalkScratch take(Arena& arena, std::int64_t block, int num_levels, int threads) {
        WalkScratch scratch{};
        scratch.block = block;
        const std::int64_t count = threads * (num_levels + 1) * block;
        scratch.kept = arena.take<Place>(count);
        scratch.along = arena.take<float>(count);
        scratch.list = arena.take<Place>(count * LANES);
        return scratch;
    }
    WalkScratch of_thread(int thread, int num_levels) const {
        const std::int64_t offset = thread * (num_levels + 1) * block;
        return {block, kept + offset, along + offset, list + offset * LANES};
    }
};

// Samples that have to look into more than this share of the tiles, on average, are served faster by those who look at all.
constexpr double MOST_TILES = 0.4;

template <class T>
class TileWalk {
public:
    TileWalk(
        const Problem& p, const TileTree& tree, const Search& result, const Seekers& all, std::int64_t begin, std::int64_t end,
        WalkScratch scratch, bool at_any_cost)
        : p_(p), tree_(tree), result_(result), rows_(all.rows + begin), unit_(all.unit + begin * tree.dim),
          codes_(all.codes + begin * tree.words), seeker_(all.seeker + begin), count_(end - begin), scratch_(scratch),
          work_left_(at_any_cost ? INT64_MAX : static_cast<std::int64_t>(MOST_TILES * static_cast<double>(count_ * tree.level[0].count()))) {}

    void run() {
        for (std::int64_t i = 0; i < count_; ++i) read_sample(i);
        find_first_candidates();
        Place* kept = scratch_.kept + tree_.num_levels * scratch_.block;
        float* along = scratch_.along + tree_.num_levels * scratch_.block;
        std::int64_t n = 0;
        for (std::int64_t i = 0; i < count_; ++i) {
            if (seeker_[i].threshold == UNDECIDED) continue;
            along[n] = dot_padded(unit_ + i * tree_.dim, tree_.origin, tree_.dim);
            kept[n++] = static_cast<Place>(i);
        }
        for (std::int64_t root = 0; root < tree_.num_roots; ++root) {
            const std::uint32_t* codes = tree_.root_codes + root * tree_.words * LANES;
            go_below(tree_.num_levels, tree_.root[root], codes, kept, along, n, [&](int lane) { return root * LANES + lane; });
        }
        if (work_left_ >= 0) return;
        for (std::int64_t i = 0; i < count_; ++i) seeker_[i].threshold = UNDECIDED;
    }

private:
    void read_sample(std::int64_t i) {
        const T* z = row<T>(p_.z, rows_[i]);
        const double inverse = inverse_norm(z, p_.dim);
        result_.inverse_z[rows_[i]] = inverse;
        Seeker& seeker = seeker_[i];
        seeker = {};
        seeker.best = -__builtin_inf();
        seeker.threshold = UNDECIDED;
        float* unit = unit_ + i * tree_.dim;
        if (!(inverse == inverse)) {
            fill(unit, tree_.dim, 0.0f);
            fill(reinterpret_cast<float*>(codes_ + i * tree_.words), tree_.words, 0.0f);
            return;
        }
        write_unit(z, inverse, p_.dim, tree_.dim, unit);
        seeker.code = encode_sample(unit, tree_.origin, tree_.dim, codes_ + i * tree_.words);
        seeker.threshold = -1;
    }

    // Down the tree by the best centre: a sample ends near its BMU, or at it.
    void find_first_candidates() {
        Vec best[TILE_ROWS];
        Ints best_tile[TILE_ROWS];
        Ints lane_index;
        for (int lane = 0; lane < LANES; ++lane) lane_index[lane] = lane;
        for (std::int64_t first = 0; first < count_; first += TILE_ROWS) {
            const std::uint32_t* z[TILE_ROWS];
            for (int r = 0; r < TILE_ROWS; ++r) {
                z[r] = codes_ + smaller(first + r, count_ - 1) * tree_.words;
                best[r] = splat(-__builtin_inff());
                best_tile[r] = Ints{};
            }
            for (std::int64_t root = 0; root < tree_.num_roots; ++root) {
                const Panel& panel = tree_.root[root];
                Ints product[TILE_ROWS];
                multiply_gathered<TILE_ROWS>(tree_.words, z, tree_.root_codes + root * tree_.words * LANES, panel.start, product);
                for (int r = 0; r < TILE_ROWS; ++r) {
                    const std::int64_t i = smaller(first + r, count_ - 1);
                    // Nothing depends on how good it is: the square of the origin serves for its product with each sample.
                    const Vec score = Int8::value(product[r]) * (panel.scale * seeker_[i].code.scale) + panel.bias +
                                      panel.along * static_cast<float>(tree_.origin_squared);
                    best_tile[r] = score > best[r] ? lane_index + static_cast<std::int32_t>(root * LANES) : best_tile[r];
                    best[r] = score > best[r] ? score : best[r];
                }
            }
            for (int r = 0; r < TILE_ROWS && first + r < count_; ++r) {
                if (seeker_[first + r].threshold == UNDECIDED) continue;
                int lane = 0;
                for (int other = 1; other < LANES; ++other) {
                    if (best[r][other] > best[r][lane]) lane = other;
                }
                descend(first + r, best_tile[r][lane]);
            }
        }
    }

    void descend(std::int64_t i, std::int64_t tile) {
        Seeker& seeker = seeker_[i];
        const float* z = unit_ + i * tree_.dim;
        for (int level = tree_.num_levels - 1; level > 0; --level) {
            const TileLevel& below = tree_.level[level - 1];
            float most = -__builtin_inff();
            std::int64_t next = 0;
            for (int lane = 0; lane < LANES; ++lane) {
                const std::int64_t child = tree_.level[level].tiling.member(tile, lane);
                if (child < 0 || !below.exists[child]) continue;
                const float score = dot_padded(z, below.centre + child * tree_.dim, tree_.dim);
                if (score > most) {
                    most = score;
                    next = child;
                }
            }
            tile = next;
        }
        std::int64_t index[LANES], n = 0;
        for (int lane = 0; lane < LANES; ++lane) {
            const std::int64_t k = tree_.level[0].tiling.member(tile, lane);
            if (k >= 0 && tree_.inverse[k] == tree_.inverse[k]) index[n++] = k;
        }
        if (n > 0) score(i, index, n);
        if (!(seeker.threshold > 0)) seeker.threshold = UNDECIDED;
    }

    // Takes `n` samples to those tiles of a panel that may hold their BMU; `tile_of(lane)` is a tile of the level below.
    template <class TileOf>
    void go_below(
        int level, const Panel& panel, const std::uint32_t* codes, const Place* kept, const float* along, std::int64_t n,
        const TileOf& tile_of) {
        Place* list = scratch_.list + level * LANES * scratch_.block;
        std::int64_t count[LANES] = {};
        for (std::int64_t first = 0; first < n; first += TILE_ROWS) {
            with_tile_rows(smaller(TILE_ROWS, n - first), [&](auto constant) {
                reach<decltype(constant)::value>(panel, codes, kept + first, along + first, [&](Place sample, unsigned lanes) {
                    for (; lanes != 0; lanes &= lanes - 1) {
                        const int lane = __builtin_ctz(lanes);
                        list[lane * scratch_.block + count[lane]++] = sample;
                    }
                });
            });
        }
        for (int lane = 0; lane < LANES && work_left_ >= 0; ++lane) {
            if (count[lane] == 0) continue;
            const Place* samples = list + lane * scratch_.block;
            if (level > 1) visit(level - 1, tile_of(lane), samples, count[lane]);
            else look_into(tile_of(lane), samples, count[lane]);
        }
    }

    // What `list` names, four at a time; the last ones stand in for those that four lack.
    template <class Body>
    void by_fours(const Place* list, std::int64_t count, const Body& body) {
        for (std::int64_t first = 0; first < count; first += 4) {
            const float* z[4];
            for (int r = 0; r < 4; ++r) z[r] = unit_ + list[smaller(first + r, count - 1)] * tree_.dim;
            body(z, list + first, smaller(4, count - first));
        }
    }

    void visit(int level, std::int64_t tile, const Place* list, std::int64_t count) {
        const TileLevel& tiles = tree_.level[level];
        const float* const centre[1] = {tiles.centre + tile * tree_.dim};
        const Radius radius = tiles.radius[tile];
        Place* kept = scratch_.kept + level * scratch_.block;
        float* along = scratch_.along + level * scratch_.block;
        std::int64_t n = 0;
        by_fours(list, count, [&](const float* const (&z)[4], const Place* sample, std::int64_t rows) {
            float score[1][4];
            dot_four<1>(z, centre, tree_.dim, score);
            for (int r = 0; r < rows; ++r) {
                const Seeker& seeker = seeker_[sample[r]];
                kept[n] = sample[r];
                along[n] = score[0][r];
                n += score[0][r] + tree_.slack >= radius.cosine * seeker.threshold - radius.sine * seeker.sine;
            }
        });
        const std::uint32_t* codes = tiles.codes + tile * tree_.words * LANES;
        go_below(level, tiles.panel[tile], codes, kept, along, n, [&](int lane) { return tiles.tiling.member(tile, lane); });
    }

    // Scores the prototypes of a tile that its plane does not rule out.
    void look_into(std::int64_t tile, const Place* list, std::int64_t count) {
        const TileLevel& tiles = tree_.level[0];
        const Plane& plane = tiles.plane[tile];
        const float* axes = tiles.axes + 2 * tile * tree_.dim;
        const float* const axis[3] = {tiles.centre + tile * tree_.dim, axes, axes + tree_.dim};
        work_left_ -= count;
        by_fours(list, count, [&](const float* const (&z)[4], const Place* sample, std::int64_t rows) {
            float along[3][4];
            dot_four<3>(z, axis, tree_.dim, along);
            for (int r = 0; r < rows; ++r) {
                Seeker& seeker = seeker_[sample[r]];
                ++seeker.tiles;
                const float x = along[0][r], y = along[1][r], w = along[2][r], left = 1 - x * x - y * y - w * w;
                const float rest = __builtin_sqrtf((left > 0 ? left : 0) + 4 * tree_.slack);
                const Vec most = plane.along * x + plane.across * y + plane.down * w + plane.rest * rest + plane.present;
                unsigned lanes = _mm512_cmp_ps_mask(most, splat(seeker.threshold - tree_.slack), _CMP_GE_OQ);
                if (lanes == 0) continue;
                std::int64_t index[LANES], n = 0;
                for (; lanes != 0; lanes &= lanes - 1) index[n++] = tiles.tiling.member(tile, __builtin_ctz(lanes));
                score(sample[r], index, n);
            }
        });
    }

    // Calls body(sample, lanes) for the samples whose bounds for some lanes reach what they need.
    template <int ROWS, class Body>
    void reach(const Panel& panel, const std::uint32_t* codes, const Place* sample, const float* along, const Body& body) {
        const std::uint32_t* z[ROWS];
        for (int r = 0; r < ROWS; ++r) z[r] = codes_ + sample[r] * tree_.words;
        Ints product[ROWS];
        multiply_gathered<ROWS>(tree_.words, z, codes, panel.start, product);
        for (int r = 0; r < ROWS; ++r) {
            const Seeker& seeker = seeker_[sample[r]];
            const Vec score = Int8::value(product[r]) * (panel.scale * seeker.code.scale) + (panel.bias + panel.along * along[r]);
            const Vec bound = seeker.code.residual * panel.norm + seeker.code.norm * panel.residual + tree_.slack;
            const Vec needed = seeker.threshold * panel.cosine - seeker.sine * panel.sine;
            const unsigned lanes = _mm512_cmp_ps_mask(score + bound, needed, _CMP_GE_OQ);
            if (lanes != 0) body(sample[r], lanes);
        }
    }

    void score(std::int64_t i, const std::int64_t* index, std::int64_t n) {
        Seeker& seeker = seeker_[i];
        const T* z = row<T>(p_.z, rows_[i]);
        const double inverse = result_.inverse_z[rows_[i]];
        const Leader leader{seeker.threshold, seeker.best, seeker.bmu, 0, 0x1p-22};
        if (n > 8) rescore<LANES>(p_, z, inverse, tree_.inverse, index, n, leader);
        else if (n > 4) rescore<8>(p_, z, inverse, tree_.inverse, index, n, leader);
        else rescore<4>(p_, z, inverse, tree_.inverse, index, n, leader);
        seeker.candidates += static_cast<std::int32_t>(n);
        work_left_ -= n / 4;  // a tile takes as long as four candidates
        const double t = seeker.threshold < 1 ? seeker.threshold : 1;
        seeker.sine = static_cast<float>(__builtin_sqrt((1 - t) * (1 + t))) * (1 + 0x1p-20f);
    }

    const Problem& p_;
    const TileTree& tree_;
    const Search& result_;
    const std::int64_t* rows_;
    float* unit_;
    std::uint32_t* codes_;
    Seeker* seeker_;
    std::int64_t count_;
    WalkScratch scratch_;
    std::int64_t work_left_;
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

// The search in fp32: a matrix product whose epilogue notes what may be wanted. No score outlives its block.
//
// Prototypes are packed a group at a time, their norms computed while they are at hand and applied to the scores; latents are
// normalised and packed before, or where a part has but one group, a tile at a time: 512 latents of 49152 features would be
// 100 MB to write and to read back. Threads split the prototypes, or the samples, or both. What fp32 cannot tell apart is scored
// in fp64 in ascending order, so that ties go to the lowest index however many threads there are; a sample for which that is too
// much is left to the search in fp64.
#include <cstdint>

#include "cpu/search/exhaustive/contenders.h"
#include "cpu/runtime/interruption.h"
#include "cpu/module/kernel_table.h"
#include "cpu/search/work_split.h"

namespace vitsom {
namespace VITSOM_ISA {

// A group of packed prototypes (384 KB) and its scores (512 KB) stay in the second-level cache.
constexpr std::int64_t GROUP_PANELS = 256 / TILE_COLS, BLOCK_DIM = 384, BLOCK_BATCH = 528 / TILE_ROWS * TILE_ROWS;

// Products that are added up one by one. The roundings of a chain may all go one way, as where all features are alike, and the
// bound has to allow for that; chains of 96 cost 3 % on 192 features, those of 384 would leave three times as much in doubt.
constexpr std::int64_t CHAIN = 96;

// Samples are packed that short, for no product with a prototype to be beyond fp32, and scores are made up for it.
constexpr double PACKED_LENGTH = 0x1p-32;

// How far a score can be from the true one: a rounding of 2^-24 a product in a chain, a chain and a block, and those of the factors,
// of the packed elements and of the floor itself. Sums of parts of a cosine are at most 1 in size.
inline float score_error(std::int64_t dim) {
    const std::int64_t block = smaller(dim, BLOCK_DIM);
    return static_cast<float>(smaller(block, CHAIN) + ceil_div(block, CHAIN) + ceil_div(dim, BLOCK_DIM) + 8) * 0x1.02p-24f;
}

struct SearchPlan : Split {
    std::int64_t batch, group_panels, block_dim, block_batch;
    bool packs_tiles;       // of latents, one at a time
    float* packed_z;        // [batch * dim], or [parts][block_dim * TILE_ROWS]
    float* packed;          // [parts][block_dim * group_panels * TILE_COLS]
    float* partial;         // [parts][block_batch * group_panels * TILE_COLS], where dim takes several blocks
    float* first_floor;     // [batch] below any score, or UNDECIDED for a row without a direction
    Contenders* contenders; // [prototype_parts]

    std::int64_t packed_size() const { return block_dim * group_panels * TILE_COLS; }
    std::int64_t partial_size(std::int64_t dim) const {
        return dim > block_dim ? block_batch * group_panels * TILE_COLS : 0;
    }
};

inline SearchPlan plan_search(const Problem& p, std::int64_t batch) {
    SearchPlan plan{};
    static_cast<Split&>(plan) = split_search(p, batch, Contenders::BYTES);
    plan.batch = batch;
    plan.group_panels = smaller(GROUP_PANELS, plan.panels_a_part);
    plan.packs_tiles = plan.group_panels == plan.panels_a_part;
    plan.block_dim = smaller(BLOCK_DIM, p.dim);
    // Blocks of equal size: the prototypes are packed again for each.
    const std::int64_t blocks = p.dim > BLOCK_DIM ? ceil_div(plan.tiles_a_part * TILE_ROWS, BLOCK_BATCH) : 1;
    plan.block_batch = ceil_div(plan.tiles_a_part, blocks) * TILE_ROWS;
    return plan;
}

inline void take_search(Arena& arena, const Problem& p, int wanted, SearchPlan& plan) {
    plan.packed_z = arena.take<float>(plan.packs_tiles ? plan.parts() * plan.block_dim * TILE_ROWS : plan.batch * p.dim);
    plan.packed = arena.take<float>(plan.parts() * plan.packed_size());
    plan.partial = arena.take<float>(plan.parts() * plan.partial_size(p.dim));
    plan.first_floor = arena.take<float>(plan.batch);
    Contenders* contenders = arena.take<Contenders>(plan.prototype_parts);
    for (int part = 0; part < plan.prototype_parts; ++part) {
        Contenders taken = Contenders::take(arena, plan.batch, wanted);
        taken.error = score_error(p.dim);
        taken.most_scored = larger(4 * MOST_CONTENDERS, plan.panels_a_part * TILE_COLS / LARGEST_SHARE);
        if (contenders) contenders[part] = taken;
    }
    plan.contenders = contenders;
}

// A group of packed prototypes, for one block of features.
struct Group {
    const float* packed;   // [panels][count][TILE_COLS]
    const float* inverse;  // [panels * TILE_COLS], NaN beyond the last prototype: what multiplies to NaN reaches nothing
    std::int64_t first;    // index of its first prototype
    std::int64_t panels, columns, count;
    bool is_first, is_last;  // block of features
    bool is_opening;         // the first of a part, of whose scores nothing is known yet
};

// Whether any score of a panel may be that of a wanted unit is asked for all rows at once; this is for the row of which it is true.
template <class Exact>
__attribute__((noinline)) void note(
    Vec low, Vec high, std::int64_t i, std::int64_t first, const Contenders& contenders, const Exact& exact) {
    float scores[TILE_COLS];
    store(scores, low);
    store(scores + WIDTH, high);
    if (contenders.wanted == 1) {
        contenders.raise(i, largest(larger_of(low, larger_of(high, splat(-__builtin_inff())))) - 2 * contenders.error);
    } else {
        LanesLargestTwo seen;
        seen.note(low);
        seen.note(high);
        contenders.see_two(i, seen);
    }
    contenders.add(i, lanes_reaching(low, high, splat(contenders.floor[i])), first, scores, exact);
}

// The same of the first panels of a part, whose best score is found before any is noted.
template <int ROWS, class Exact>
void note_opening(
    const float (*scores)[ROWS][TILE_COLS], std::int64_t panels, std::int64_t start, std::int64_t first,
    const Contenders& contenders, const Exact& exact) {
    for (int r = 0; r < ROWS; ++r) {
        if (contenders.wanted == 1) {
            Vec best = splat(-__builtin_inff());
            for (std::int64_t panel = 0; panel < panels; ++panel) {
                best = larger_of(load(scores[panel][r]), larger_of(load(scores[panel][r] + WIDTH), best));
            }
            contenders.raise(first + r, largest(best) - 2 * contenders.error);
        } else {
            LanesLargestTwo seen;
            for (std::int64_t panel = 0; panel < panels; ++panel) {
                seen.note(load(scores[panel][r]));
                seen.note(load(scores[panel][r] + WIDTH));
            }
            contenders.see_two(first + r, seen);
        }
        const Vec floor = splat(contenders.floor[first + r]);
        for (std::int64_t panel = 0; panel < panels; ++panel) {
            const Vec low = load(scores[panel][r]), high = load(scores[panel][r] + WIDTH);
            contenders.add(first + r, lanes_reaching(low, high, floor), start + panel * TILE_COLS, scores[panel][r], exact);
        }
    }
}

// Scores of ROWS samples, from sample `first` on, against a group. Until the last block of features they are summed up in `partial`:
// a chain of at most CHAIN roundings, then one a chain, keeps 49152 features within the contract.
template <int ROWS, class Exact>
void score_tile(
    const float* z, const Group& group, float* partial, std::int64_t first, const Contenders& contenders, const Exact& exact) {
    float scores[GROUP_PANELS][ROWS][TILE_COLS];
    for (std::int64_t panel = 0; panel < group.panels; ++panel) {
        const float* x = group.packed + panel * group.count * TILE_COLS;
        const bool narrow = group.columns - panel * TILE_COLS <= WIDTH;
        Tile<ROWS> tile = narrow ? multiply_in_chains<ROWS, CHAIN, true>(group.count, z, x)
                                 : multiply_in_chains<ROWS, CHAIN>(group.count, z, x);
        if (!group.is_first) {
            for (int r = 0; r < ROWS; ++r) {
                tile.low[r] += load(partial + (panel * ROWS + r) * TILE_COLS);
                tile.high[r] += load(partial + (panel * ROWS + r) * TILE_COLS + WIDTH);
            }
        }
        if (!group.is_last) {
            for (int r = 0; r < ROWS; ++r) {
                store(partial + (panel * ROWS + r) * TILE_COLS, tile.low[r]);
                store(partial + (panel * ROWS + r) * TILE_COLS + WIDTH, tile.high[r]);
            }
            continue;
        }
        const float* inverse = group.inverse + panel * TILE_COLS;
        const Vec low_inverse = load(inverse), high_inverse = load(inverse + WIDTH);
        AnyReaching any;
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
            const Vec floor = splat(contenders.floor[first + r]);
            tile.low[r] *= low_inverse;
            tile.high[r] *= high_inverse;
            any.note(tile.low[r], floor);
            any.note(tile.high[r], floor);
        }
        if (group.is_opening) {
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r) {
                store(scores[panel][r], tile.low[r]);
                store(scores[panel][r] + WIDTH, tile.high[r]);
            }
        } else if (any) {
            for (int r = 0; r < ROWS; ++r) contenders.fetch(first + r);
            const std::int64_t start = group.first + panel * TILE_COLS;
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r) {
                if (lanes_reaching(tile.low[r], tile.high[r], splat(contenders.floor[first + r])) == 0) continue;
                note(tile.low[r], tile.high[r], first + r, start, contenders, exact);
            }
        }
    }
    if (group.is_opening && group.is_last) note_opening<ROWS>(scores, group.panels, group.first, first, contenders, exact);
}

// One part of the prototypes against one part of the samples.
inline void search_part(
    const Problem& p, const SearchPlan& plan, const std::int64_t* rows, const SearchOutput& result, int prototype_part,
    int batch_part, Interruption& interruption) {
    const int part = batch_part * plan.prototype_parts + prototype_part;
    float* packed = plan.packed + part * plan.packed_size();
    float* partial = plan.partial + part * plan.partial_size(p.dim);
    const Contenders& contenders = plan.contenders[prototype_part];
    const std::int64_t batch_begin = batch_part * plan.tiles_a_part * TILE_ROWS;
    const std::int64_t batch_end = smaller(plan.batch, batch_begin + plan.tiles_a_part * TILE_ROWS);
    const std::int64_t panel_begin = prototype_part * plan.panels_a_part;
    const std::int64_t panel_end = smaller(plan.panels, panel_begin + plan.panels_a_part);
    for (std::int64_t i = batch_begin; i < batch_end; ++i) contenders.start(i, plan.first_floor[i]);
    const auto exact = [&](std::int64_t i, const std::int64_t* index, std::int64_t n, Leader leader) {
        rescore_all(p, row(p.z, rows[i]), result.inverse_z[rows[i]], result.inverse_prototype, index, n, leader);
    };
    double squared[GROUP_PANELS * TILE_COLS];
    float inverse[GROUP_PANELS * TILE_COLS];
    for (std::int64_t panel = panel_begin; panel < panel_end; panel += plan.group_panels) {
        Group group{};
        group.packed = packed;
        group.inverse = inverse;
        group.first = panel * TILE_COLS;
        group.panels = smaller(plan.group_panels, panel_end - panel);
        group.is_opening = panel == panel_begin;
        const std::int64_t end = smaller(p.num_prototypes, group.first + group.panels * TILE_COLS);
        group.columns = end - group.first;
        for (std::int64_t block = batch_begin; block < batch_end; block += plan.block_batch) {
            const std::int64_t block_end = smaller(batch_end, block + plan.block_batch);
            for (std::int64_t k = 0; k < group.panels * TILE_COLS; ++k) squared[k] = 0;
            for (std::int64_t d = 0; d < p.dim; d += plan.block_dim) {
                if (interruption.is_wanted()) return;
                group.count = smaller(plan.block_dim, p.dim - d);
                group.is_first = d == 0;
                group.is_last = d + group.count == p.dim;
                for (std::int64_t i = 0; i < group.panels; ++i) {
                    const std::int64_t first = group.first + i * TILE_COLS;
                    pack_columns(p.prototypes, first, end, d, group.count, packed + i * group.count * TILE_COLS);
                    // The next panel is fetched meanwhile: no prefetcher follows the rows of one.
                    for (std::int64_t k = first; k < smaller(end, first + TILE_COLS); ++k) {
                        fetch(row(p.prototypes, smaller(end - 1, k + TILE_COLS)) + d, group.count);
                        squared[k - group.first] += squared_norm(row(p.prototypes, k) + d, group.count);
                    }
                }
                if (group.is_last) {
                    for (std::int64_t k = 0; k < group.panels * TILE_COLS; ++k) {
                        const bool exists = group.first + k < end;
                        double exact_inverse = exists ? inverse_norm(squared[k]) : __builtin_nan("");
                        inverse[k] = static_cast<float>(exact_inverse / PACKED_LENGTH);
                        // All parts that share a prototype write the same number.
                        if (exists) __atomic_store(result.inverse_prototype + group.first + k, &exact_inverse, __ATOMIC_RELAXED);
                    }
                }
                for (std::int64_t i = block; i < block_end; i += TILE_ROWS) {
                    const std::int64_t tile_rows = smaller(TILE_ROWS, block_end - i);
                    float* z = plan.packed_z;
                    z += plan.packs_tiles ? part * plan.block_dim * TILE_ROWS : d * plan.batch + i * group.count;
                    if (plan.packs_tiles) {
                        pack_tile_rows(p.z, rows + i, tile_rows, d, group.count, PACKED_LENGTH, result.inverse_z, z);
                    }
                    float* sums = partial + (i - block) * group.panels * TILE_COLS;
                    with_tile_rows(tile_rows, [&](auto constant) {
                        score_tile<decltype(constant)::value>(z, group, sums, i, contenders, exact);
                    });
                }
            }
        }
    }
}

// The wanted units of sample i of the batch, row `to` of z, out of what all parts have left of the prototypes. False where that is
// too much.
inline bool decide(const Problem& p, const SearchPlan& plan, std::int64_t i, std::int64_t to, const SearchOutput& result) {
    if (plan.first_floor[i] == UNDECIDED) {  // NaN, or zeros: at a distance of 1 from any prototype that is a number
        Nearest first = Nearest::none();
        std::int64_t k = result.inverse_z[to] == result.inverse_z[to] ? 0 : p.num_prototypes;
        for (; k < p.num_prototypes && first.score[result.wanted - 1] != 0; ++k) first.meet(0 * result.inverse_prototype[k], k);
        first.write(result, to);
        return true;
    }
    float least = -__FLT_MAX__;
    for (int part = 0; part < plan.prototype_parts; ++part) {
        const float floor = plan.contenders[part].floor[i];
        least = floor > least ? floor : least;
    }
    if (least == UNDECIDED) return false;
    std::int64_t known = 0, last = 0;
    for (int part = 0; part < plan.prototype_parts; ++part) {
        const Contest& contest = plan.contenders[part].of[i];
        plan.contenders[part].keep(i, least);
        known += contest.count + (contest.scored > 0);
        if (contest.count > 0) last = contest.list[0].index;
    }
    if (known == 1 && !result.score) {  // one unit of unknown cosine is wanted
        for (int part = 0; part < plan.prototype_parts; ++part) {
            if (plan.contenders[part].of[i].scored > 0) last = plan.contenders[part].of[i].nearest.unit[0];
        }
        result.bmu[to] = last;
        return true;
    }
    Nearest nearest = plan.contenders[0].of[i].nearest;
    for (int part = 1; part < plan.prototype_parts; ++part) {
        const Nearest& found = plan.contenders[part].of[i].nearest;
        for (int place = 0; place < result.wanted; ++place) nearest.meet(found.score[place], found.unit[place]);
    }
    float reached = least + plan.contenders[0].error;
    for (int part = 0; part < plan.prototype_parts; ++part) {
        std::int64_t index[MOST_CONTENDERS];
        const std::int64_t n = plan.contenders[part].of[i].indices(index);
        const Leader leader{reached, nearest, result.wanted, 0, SCORE_SLACK};
        rescore_all(p, row(p.z, to), result.inverse_z[to], result.inverse_prototype, index, n, leader);
    }
    nearest.write(result, to);
    return true;
}

// The contenders of sample i, of which several are to be scored: the first features of each, while other samples are decided.
inline void fetch_contenders(const Problem& p, const SearchPlan& plan, std::int64_t i) {
    for (int part = 0; part < plan.prototype_parts; ++part) {
        const Contest& contest = plan.contenders[part].of[i];
        for (std::int32_t c = 0; c < contest.count; ++c) {
            if (contest.list[c].score < plan.contenders[part].floor[i]) continue;
            fetch(row(p.prototypes, contest.list[c].index), smaller(p.dim, FETCHED_AHEAD));
        }
    }
}

std::int64_t search_fp32(
    const Problem& p, std::int64_t* rows, std::int64_t batch, const SearchOutput& result, SearchCounts&) {
    SearchPlan plan = plan_search(p, batch);
    Arena arena;
    bool* decided = nullptr;
    lay_out(arena, [&](Arena& a) {
        take_search(a, p, result.wanted, plan);
        decided = a.take<bool>(batch);
    });
    const int threads = plan.parts();
    Interruption interruption(p);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (std::int64_t tile = 0; tile < plan.tiles; ++tile) {
            const std::int64_t first = tile * TILE_ROWS, tile_rows = smaller(TILE_ROWS, batch - first);
            for (std::int64_t r = 0; r < tile_rows; ++r) {
                const std::int64_t i = rows[first + r];
                const double squared = squared_norm(row(p.z, i), p.dim);
                result.inverse_z[i] = inverse_norm(squared);
                plan.first_floor[first + r] = squared > 0 && squared <= __DBL_MAX__ ? -__FLT_MAX__ : UNDECIDED;
            }
            for (std::int64_t d = 0; d < p.dim && !plan.packs_tiles; d += plan.block_dim) {
                const std::int64_t count = smaller(plan.block_dim, p.dim - d);
                float* out = plan.packed_z + d * batch + first * count;
                pack_tile_rows(p.z, rows + first, tile_rows, d, count, PACKED_LENGTH, result.inverse_z, out);
            }
        }
#pragma omp for schedule(static)
        for (int part = 0; part < threads; ++part) {
            const int prototype_part = part % plan.prototype_parts, batch_part = part / plan.prototype_parts;
            search_part(p, plan, rows, result, prototype_part, batch_part, interruption);
        }
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i < batch; ++i) {
            if (i + 1 < batch) fetch_contenders(p, plan, i + 1);
            decided[i] = !interruption.has_come() && decide(p, plan, i, rows[i], result);
        }
    }
    interruption.end_here();
    std::int64_t undecided = 0;
    for (std::int64_t i = 0; i < batch; ++i) {
        if (!decided[i]) rows[undecided++] = rows[i];
    }
    return batch - undecided;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

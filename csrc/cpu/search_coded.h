// The search by codes of a quarter or half the size, and a certificate: scores of codes are within a known bound of the true ones,
// so a prototype can be the BMU only if its score plus the bound reaches the best score known so far. Those that can, a handful of
// 16384 random ones, are scored in fp32 and those still in doubt in fp64, which raises the best score in turn.
//
// A sample for which too many can is left undecided, and costs nothing from then on. As the prototypes are visited in an order that
// spreads over the map, this shows in the first of them.
#pragma once

#include "certificate.h"
#include "memory.h"
#include "search_result.h"
#include "split.h"

namespace vitsom {
namespace VITSOM_ISA {

// Below these, coding takes longer than it saves: 128 x 256 x 64 breaks even, 4096 x 256 x 32 takes 1.3 times as long as in fp32.
constexpr std::int64_t LEAST_SAMPLES = 64, LEAST_PROTOTYPES = 256, LEAST_DIM = 64, LEAST_PRODUCTS = 1 << 21;

// Words that a block of a tile of samples (24 KB) and of a panel of prototypes may have. A group of panels has 64 KB of codes, for
// its prototypes as they are given (256 KB) to stay in the second-level cache, too, while candidates are scored: with groups of
// 256 KB that took twice as long.
constexpr std::int64_t BLOCK_WORDS = 512, GROUP_WORDS = 1 << 14, BLOCK_TILES = 16;

constexpr float UNDECIDED = __builtin_inff();

// The share of the prototypes beyond which it does not pay to score the candidates. Beyond the second-level cache one takes as long
// as the codes of 32.
inline float most_of(std::int64_t dim) { return dim <= 8192 ? 0.375f : 1 / 64.0f; }

// The order in which prototypes are visited: steps of a golden section of the map never dwell in one part of it. Any of its first
// prototypes are a fair sample, the best score of which is close to the best of all.
struct Order {
    std::int64_t step, size;

    explicit Order(std::int64_t size) : step(static_cast<std::int64_t>(0.6180339887 * static_cast<double>(size))), size(size) {
        while (greatest_common_divisor(++step, size) != 1) continue;
    }
    std::int64_t operator()(std::int64_t position) const { return position * step % size; }

private:
    static std::int64_t greatest_common_divisor(std::int64_t a, std::int64_t b) {
        return b == 0 ? a : greatest_common_divisor(b, a % b);
    }
};

// A prototype that may be the BMU of a row.
struct Candidate {
    std::int32_t position;
    float most;  // its score is no more than that
};

template <class Code>
struct CodedSearch : Split {
    Order order;
    std::int64_t batch, words, block_words, group_panels, block_tiles;
    float* centre;  // [dim]
    double centre_squared;

    std::uint32_t* z;    // [tiles][words][TILE_ROWS]
    float* z_scale;      // [tiles * TILE_ROWS + WIDTH] and so are the next two
    float* z_norm;       // of the code
    float* z_residual;
    double* z_centre;    // [batch] what its scores lack of the cosine similarity

    std::uint32_t* prototypes;    // [panels][words][TILE_COLS]
    double* inverse;              // [num_prototypes]
    float* scale;                 // [panels * TILE_COLS]
    float* bias;                  // [panels * TILE_COLS] c . w^; -inf where there is no prototype
    typename Code::Sum* start;    // [panels * 2]
    float* norm;                  // [panels * TILE_COLS] and so is the next
    float* residual;
    float* panel_norm;            // [panels] the largest in it, and so is the next
    float* panel_residual;

    float* threshold;     // [prototype_parts][tiles * TILE_ROWS + WIDTH] a score that the BMU reaches, or UNDECIDED
    double* best;         // [prototype_parts][batch]
    std::int64_t* bmu;    // [prototype_parts][batch]
    std::int64_t* count;  // [prototype_parts][batch] candidates so far
    Candidate* candidates;        // [parts][group_panels * TILE_COLS * TILE_ROWS]
    typename Code::Sum* partial;  // [parts][block_tiles * group_panels * 2 * TILE_ROWS], where a row takes several blocks

    explicit CodedSearch(const Problem& p, std::int64_t batch)
        : Split(split_search(batch, p.num_prototypes, p.dim, p.threads)), order(p.num_prototypes), batch(batch) {
        words = ceil_div(p.dim, Code::PER_WORD * WIDTH) * WIDTH;
        block_words = smaller(BLOCK_WORDS, words);
        group_panels = smaller(panels_a_part, larger(2, GROUP_WORDS / (words * TILE_COLS)));
        block_tiles = words > block_words ? smaller(BLOCK_TILES, tiles_a_part) : tiles_a_part;
    }

    std::int64_t padded_batch() const { return tiles * TILE_ROWS + WIDTH; }
    std::int64_t group_candidates() const { return group_panels * TILE_COLS * TILE_ROWS; }
    std::int64_t partial_size() const { return words > block_words ? block_tiles * group_panels * 2 * TILE_ROWS : 0; }

    void take(Arena& arena, const Problem& p) {
        centre = arena.take<float>(p.dim);
        z = arena.take<std::uint32_t>(tiles * words * TILE_ROWS);
        z_scale = arena.take<float>(padded_batch());
        z_norm = arena.take<float>(padded_batch());
        z_residual = arena.take<float>(padded_batch());
        z_centre = arena.take<double>(batch);
        prototypes = arena.take<std::uint32_t>(panels * words * TILE_COLS);
        inverse = arena.take<double>(p.num_prototypes);
        scale = arena.take<float>(panels * TILE_COLS);
        bias = arena.take<float>(panels * TILE_COLS);
        start = arena.take<typename Code::Sum>(panels * 2);
        norm = arena.take<float>(panels * TILE_COLS);
        residual = arena.take<float>(panels * TILE_COLS);
        panel_norm = arena.take<float>(panels);
        panel_residual = arena.take<float>(panels);
        threshold = arena.take<float>(prototype_parts * padded_batch());
        best = arena.take<double>(prototype_parts * batch);
        bmu = arena.take<std::int64_t>(prototype_parts * batch);
        count = arena.take<std::int64_t>(prototype_parts * batch);
        candidates = arena.take<Candidate>(parts() * group_candidates());
        partial = arena.take<typename Code::Sum>(parts() * partial_size());
    }
};

// Any centre serves; the mean of 64 prototypes is as good as that of all.
template <class Code, class T>
void find_centre(const Problem& p, CodedSearch<Code>& s) {
    const std::int64_t members = smaller(64, p.num_prototypes), slice = 16 * WIDTH;
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < members; ++i) {
        const std::int64_t k = s.order(i);
        s.inverse[k] = inverse_norm(row<T>(p.prototypes, k), p.dim);
    }
#pragma omp for schedule(static)
    for (std::int64_t begin = 0; begin < p.dim; begin += slice) {
        const std::int64_t count = smaller(slice, p.dim - begin);
        float* centre = s.centre + begin;
        fill(centre, count, 0.0f);
        for (std::int64_t i = 0; i < members; ++i) {
            const std::int64_t k = s.order(i);
            if (!(s.inverse[k] == s.inverse[k])) continue;
            const T* x = row<T>(p.prototypes, k) + begin;
            const float factor = static_cast<float>(s.inverse[k] / static_cast<double>(members) * 0x1p32);
            for_each_vector(count, [&](std::int64_t d, auto load, auto store) {
                store(centre + d, load(centre + d) + load(x + d) * 0x1p-32f * factor);
            });
        }
    }
}

template <class Code, class T>
void encode_panel(const Problem& p, const Search& result, CodedSearch<Code>& s, std::int64_t panel) {
    const float rounding = 1.01f * Code::rounding(s.block_words, ceil_div(s.words, s.block_words));
    float norm = 0, residual = 0;
    for (std::int64_t half = 0; half < 2; ++half) {
        const std::int64_t first = panel * TILE_COLS + half * WIDTH;
        Centred<T> x[WIDTH];
        Coded coded[WIDTH];
        for (int i = 0; i < WIDTH; ++i) {
            const std::int64_t k = s.order(smaller(first + i, p.num_prototypes - 1));
            x[i] = centred(row<T>(p.prototypes, k), s.centre, s.centre_squared, p.dim);
            s.inverse[k] = x[i].inverse;
            result.inverse_prototype[k] = static_cast<float>(x[i].inverse);
        }
        encode<Code, WIDTH, TILE_COLS, false>(x, p.dim, coded, s.prototypes + panel * s.words * TILE_COLS + half * WIDTH);
        for (int i = 0; i < WIDTH; ++i) {
            const bool exists = first + i < p.num_prototypes && x[i].inverse == x[i].inverse;
            s.scale[first + i] = exists ? coded[i].scale : 0;
            s.bias[first + i] = exists ? static_cast<float>(x[i].along) : -__builtin_inff();
            s.start[panel * 2 + half][i] = exists ? Code::start(coded[i].sum) : 0;
            s.norm[first + i] = exists ? x[i].norm : 0;
            s.residual[first + i] = exists ? coded[i].residual + rounding * x[i].norm : 0;
            norm = s.norm[first + i] > norm ? s.norm[first + i] : norm;
            residual = s.residual[first + i] > residual ? s.residual[first + i] : residual;
        }
    }
    s.panel_norm[panel] = norm;
    s.panel_residual[panel] = residual;
}

template <class Code, class T>
void encode_samples(const Problem& p, const std::int64_t* rows, const Search& result, CodedSearch<Code>& s, std::int64_t tile) {
    const std::int64_t first = tile * TILE_ROWS;
    Centred<T> x[TILE_ROWS];
    Coded coded[TILE_ROWS];
    for (std::int64_t r = 0; r < TILE_ROWS; ++r) {
        const std::int64_t i = smaller(first + r, s.batch - 1);
        x[r] = centred(row<T>(p.z, rows[i]), s.centre, s.centre_squared, p.dim);
        result.inverse_z[rows[i]] = x[r].inverse;
        s.z_centre[i] = x[r].along - s.centre_squared;
        const bool exists = first + r < s.batch && x[r].inverse == x[r].inverse;
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
struct CodedTile {
    typename Code::Sum low[TILE_ROWS], high[TILE_ROWS];
};

template <class Code>
inline __attribute__((always_inline)) CodedTile<Code> multiply(
    std::int64_t words, const std::uint32_t* a, const std::uint32_t* x, typename Code::Sum low, typename Code::Sum high) {
    CodedTile<Code> tile;
#pragma GCC unroll 16
    for (int r = 0; r < TILE_ROWS; ++r) {
        tile.low[r] = low;
        tile.high[r] = high;
    }
    for (std::int64_t j = 0; j < words; ++j) {
        const Bits x_low = load_as<Bits>(x), x_high = load_as<Bits>(x + WIDTH);
#pragma GCC unroll 16
        for (int r = 0; r < TILE_ROWS; ++r) {
            const Bits word = Bits{} + a[r];
            tile.low[r] = Code::multiply_add(tile.low[r], word, x_low);
            tile.high[r] = Code::multiply_add(tile.high[r], word, x_high);
        }
        a += TILE_ROWS;
        x += TILE_COLS;
    }
    return tile;
}

// One part of the prototypes against one part of the samples.
template <class Code, class T>
struct CodedPart {
    const Problem& p;
    const CodedSearch<Code>& s;
    const std::int64_t* rows;
    const double* inverse_z;
    std::int64_t panel_begin, panel_end, tile_begin, tile_end;
    float* threshold;
    double* best;
    std::int64_t *bmu, *count;
    Candidate* candidates;
    typename Code::Sum* partial;
    std::int64_t found[TILE_ROWS];  // candidates that wait to be scored

    CodedPart(const Problem& p, const CodedSearch<Code>& s, const std::int64_t* rows, const double* inverse_z, int prototype_part, int batch_part)
        : p(p), s(s), rows(rows), inverse_z(inverse_z), panel_begin(prototype_part * s.panels_a_part),
          threshold(s.threshold + prototype_part * s.padded_batch()), best(s.best + prototype_part * s.batch),
          bmu(s.bmu + prototype_part * s.batch), count(s.count + prototype_part * s.batch), found{} {
        const int part = batch_part * s.prototype_parts + prototype_part;
        candidates = s.candidates + part * s.group_candidates();
        partial = s.partial + part * s.partial_size();
        panel_end = smaller(s.panels, panel_begin + s.panels_a_part);
        tile_begin = batch_part * s.tiles_a_part;
        tile_end = smaller(s.tiles, tile_begin + s.tiles_a_part);
        for (std::int64_t i = tile_begin * TILE_ROWS; i < smaller(s.batch, tile_end * TILE_ROWS); ++i) {
            best[i] = -__builtin_inf();
            bmu[i] = count[i] = 0;
        }
    }

    // Whether the bound tells prototypes apart, tried on the first samples and prototypes: for a quarter of the samples it must.
    bool is_promising() {
        const std::int64_t panels = smaller(2, s.group_panels);
        score_block(0, panels, 0, 1, false);
        int good = 0, samples = 0;
        for (std::int64_t r = 0; r < TILE_ROWS; ++r) {
            if (threshold[r] == UNDECIDED) continue;
            std::int64_t kept = 0;
            for (std::int64_t c = 0; c < found[r]; ++c) kept += candidates_of(r)[c].most >= threshold[r];
            good += static_cast<float>(kept) <= most_of(p.dim) * static_cast<float>(panels * TILE_COLS);
            ++samples;
        }
        return 4 * good >= samples;
    }

    void run() {
        for (std::int64_t panel = panel_begin; panel < panel_end; panel += s.group_panels) {
            const std::int64_t group_end = smaller(panel + s.group_panels, panel_end);
            for (std::int64_t tile = tile_begin; tile < tile_end; tile += s.block_tiles) {
                score_block(panel, group_end, tile, smaller(tile + s.block_tiles, tile_end), true);
            }
        }
    }

    void score_block(
        std::int64_t panel, std::int64_t panel_end, std::int64_t tile_begin, std::int64_t tile_end, bool and_settle) {
        for (std::int64_t word = 0; word < s.words; word += s.block_words) {
            for (std::int64_t tile = tile_begin; tile < tile_end; ++tile) {
                if (!is_open(tile)) continue;
                score_tile(panel, panel_end, tile, partial + (tile - tile_begin) * s.group_panels * 2 * TILE_ROWS, word);
                if (and_settle) settle(tile);
            }
        }
    }

    bool is_open(std::int64_t tile) const {
        for (int r = 0; r < TILE_ROWS; ++r) {
            if (threshold[tile * TILE_ROWS + r] < UNDECIDED) return true;
        }
        return false;
    }

    void score_tile(
        std::int64_t panel_begin, std::int64_t panel_end, std::int64_t tile, typename Code::Sum* sums, std::int64_t word) {
        const std::int64_t count = smaller(s.block_words, s.words - word), first = tile * TILE_ROWS;
        const std::uint32_t* z = s.z + (tile * s.words + word) * TILE_ROWS;
        const Vec z_norm = load(s.z_norm + first), z_residual = load(s.z_residual + first);
        const float* z_scale = s.z_scale + first;
        for (std::int64_t panel = panel_begin; panel < panel_end; ++panel, sums += 2 * TILE_ROWS) {
            const std::uint32_t* x = s.prototypes + (panel * s.words + word) * TILE_COLS;
            const typename Code::Sum zero{};
            CodedTile<Code> product =
                multiply<Code>(count, z, x, word == 0 ? s.start[2 * panel] : zero, word == 0 ? s.start[2 * panel + 1] : zero);
            if (word > 0) {
                for (int r = 0; r < TILE_ROWS; ++r) {
                    product.low[r] += sums[2 * r];
                    product.high[r] += sums[2 * r + 1];
                }
            }
            if (word + count < s.words) {
                for (int r = 0; r < TILE_ROWS; ++r) {
                    sums[2 * r] = product.low[r];
                    sums[2 * r + 1] = product.high[r];
                }
                continue;
            }
            const Vec bound = z_residual * s.panel_norm[panel] + z_norm * s.panel_residual[panel] + SLACK;
            const Vec needed = load(threshold + first) - bound;
            const Vec low_scale = load(s.scale + panel * TILE_COLS), high_scale = load(s.scale + panel * TILE_COLS + WIDTH);
            const Vec low_bias = load(s.bias + panel * TILE_COLS), high_bias = load(s.bias + panel * TILE_COLS + WIDTH);
            Vec low[TILE_ROWS], high[TILE_ROWS];
            unsigned reaching = 0;  // rows
#pragma GCC unroll 16
            for (int r = 0; r < TILE_ROWS; ++r) {
                low[r] = Code::value(product.low[r]) * low_scale * z_scale[r] + low_bias;
                high[r] = Code::value(product.high[r]) * high_scale * z_scale[r] + high_bias;
                reaching |= (lanes_reaching(low[r], high[r], splat(needed[r])) != 0) << r;
            }
            if (reaching == 0) continue;
            float scores[TILE_ROWS][TILE_COLS];
#pragma GCC unroll 16
            for (int r = 0; r < TILE_ROWS; ++r) {
                store(scores[r], low[r]);
                store(scores[r] + WIDTH, high[r]);
            }
            for (; reaching != 0; reaching &= reaching - 1) {
                const int r = __builtin_ctz(reaching);
                note(tile, r, panel, scores[r]);
            }
        }
    }

    static unsigned lanes_reaching(Vec low, Vec high, Vec floor) {
        return _mm512_cmp_ps_mask(low, floor, _CMP_GE_OQ) | static_cast<unsigned>(_mm512_cmp_ps_mask(high, floor, _CMP_GE_OQ)) << 16;
    }

    Candidate* candidates_of(std::int64_t r) const { return candidates + r * s.group_panels * TILE_COLS; }

    // What one prototype's own bound adds to its score, or takes from it, is less than the bound of the panel: the best score less
    // it is a new threshold, and those that reach that with it on top are candidates.
    void note(std::int64_t tile, std::int64_t r, std::int64_t panel, const float* scores) {
        const std::int64_t i = tile * TILE_ROWS + r, first = panel * TILE_COLS;
        const auto bound = [&](std::int64_t column) {
            return s.z_residual[i] * load(s.norm + column) + s.z_norm[i] * load(s.residual + column) + SLACK;
        };
        const Vec low = load(scores), high = load(scores + WIDTH), low_bound = bound(first), high_bound = bound(first + WIDTH);
        const Vec low_least = low - low_bound, high_least = high - high_bound;
        raise(i, largest(low_least > high_least ? low_least : high_least));
        float most[TILE_COLS];
        store(most, low + low_bound);
        store(most + WIDTH, high + high_bound);
        for (unsigned lanes = lanes_reaching(low + low_bound, high + high_bound, splat(threshold[i])); lanes != 0; lanes &= lanes - 1) {
            const int lane = __builtin_ctz(lanes);
            candidates_of(r)[found[r]++] = {static_cast<std::int32_t>(first + lane), most[lane]};
        }
        const std::int64_t visited = (panel + 1 - panel_begin) * TILE_COLS;
        if (static_cast<float>(count[i] + found[r] - 64) > most_of(p.dim) * static_cast<float>(visited)) threshold[i] = UNDECIDED;
    }

    void settle(std::int64_t tile) {
        for (std::int64_t r = 0; r < TILE_ROWS; ++r) {
            const std::int64_t i = tile * TILE_ROWS + r, waiting = found[r];
            std::int64_t positions[WIDTH], n = 0;
            found[r] = 0;
            for (std::int64_t c = 0; c < waiting; ++c) {
                if (candidates_of(r)[c].most < threshold[i]) continue;
                positions[n++] = candidates_of(r)[c].position;
                if (n == WIDTH) {
                    score<WIDTH>(i, positions, n);
                    n = 0;
                }
            }
            if (n > 4) score<WIDTH>(i, positions, n);
            else if (n > 0) score<4>(i, positions, n);
        }
    }

    // n of MOST candidates: in fp32 at first, and in fp64 those that could still be the BMU.
    template <int MOST>
    void score(std::int64_t i, const std::int64_t* positions, std::int64_t n) {
        const T* z = row<T>(p.z, rows[i]);
        std::int64_t index[MOST];
        const T* prototype[MOST];
        for (std::int64_t c = 0; c < MOST; ++c) {
            index[c] = s.order(positions[smaller(c, n - 1)]);
            prototype[c] = row<T>(p.prototypes, index[c]);
        }
        const float factor = static_cast<float>(inverse_z[rows[i]] * 0x1p32);
        Vec sums[MOST] = {};
        for_each_vector(p.dim, [&](std::int64_t d, auto load, auto) {
            const Vec unit = load(z + d) * 0x1p-32f * factor;
#pragma GCC unroll 16
            for (int c = 0; c < MOST; ++c) sums[c] += unit * load(prototype[c] + d);
        });
        const double bound = static_cast<double>(p.dim / WIDTH + 32) * 0x1p-23 + SLACK;
        double close[MOST];
        for (std::int64_t c = 0; c < n; ++c) {
            close[c] = sum(sums[c]) * s.inverse[index[c]] - s.z_centre[i];
            raise(i, close[c] - bound);
        }
        for (std::int64_t c = 0; c < n; ++c) {
            if (close[c] + bound < threshold[i]) continue;  // not a number where fp32 overflows
            const std::int64_t k = index[c];
            const double exact = dot(z, prototype[c], p.dim) * inverse_z[rows[i]] * s.inverse[k];
            if (exact > best[i] || (exact == best[i] && k < bmu[i])) {
                best[i] = exact;
                bmu[i] = k;
                raise(i, exact - s.z_centre[i] - SLACK);
            }
        }
        count[i] += n;
    }

    void raise(std::int64_t i, double score) {
        if (score > threshold[i]) threshold[i] = static_cast<float>(score);
    }
};

// Finds the BMUs of `batch` of the samples, those that `rows` lists; those that it cannot decide are left in `rows`. Returns how
// many it has decided, and adds to `candidates` how many prototypes it scored for them.
template <class Code, class T>
std::int64_t search_coded(
    const Problem& p, std::int64_t* rows, std::int64_t batch, const Search& result, std::int64_t& candidates) {
    if (batch < LEAST_SAMPLES || p.num_prototypes < LEAST_PROTOTYPES || p.dim < LEAST_DIM) return 0;
    if (batch * p.num_prototypes * p.dim < LEAST_PRODUCTS) return 0;
    CodedSearch<Code> s(p, batch);
    if (s.words > Code::MAX_WORDS) return 0;
    Arena arena;
    lay_out(arena, [&](Arena& a) { s.take(a, p); });
    const int threads = s.parts();
    bool promising = false;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        find_centre<Code, T>(p, s);
#pragma omp single
        s.centre_squared = squared_norm(s.centre, p.dim);
        const std::int64_t first_panels = smaller(2, s.panels);
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i <= first_panels; ++i) {
            if (i < first_panels) encode_panel<Code, T>(p, result, s, i);
            else encode_samples<Code, T>(p, rows, result, s, 0);
        }
#pragma omp single
        promising = CodedPart<Code, T>(p, s, rows, result.inverse_z, 0, 0).is_promising();
        if (promising) {
#pragma omp for schedule(static)
            for (std::int64_t i = first_panels; i < s.panels + s.tiles; ++i) {
                if (i < s.panels) encode_panel<Code, T>(p, result, s, i);
                else encode_samples<Code, T>(p, rows, result, s, i - s.panels);
            }
#pragma omp for schedule(static)
            for (int part = 0; part < threads; ++part) {
                CodedPart<Code, T>(
                    p, s, rows, result.inverse_z, part % s.prototype_parts, part / s.prototype_parts).run();
            }
        }
    }
    if (!promising) return 0;
    std::int64_t undecided = 0;
    for (std::int64_t i = 0; i < batch; ++i) {
        const std::int64_t to = rows[i];
        double best = -__builtin_inf();
        std::int64_t bmu = 0;
        bool decided = true;
        for (int part = 0; part < s.prototype_parts; ++part) {
            const double score = s.best[part * batch + i];
            const std::int64_t k = s.bmu[part * batch + i];
            decided = decided && s.threshold[part * s.padded_batch() + i] < UNDECIDED;
            if (score > best || (score == best && k < bmu)) {
                best = score;
                bmu = k;
            }
        }
        if (decided || result.inverse_z[to] != result.inverse_z[to]) {
            result.score[to] = static_cast<float>(best);
            result.bmu[to] = bmu;
            for (int part = 0; part < s.prototype_parts; ++part) candidates += s.count[part * batch + i];
        } else {
            rows[undecided++] = to;
        }
    }
    return batch - undecided;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

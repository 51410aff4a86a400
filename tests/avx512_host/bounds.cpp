// The bounds of the search against exact products in fp64, on random vectors and on those that come close to them; it ends with the
// number of what is wrong. A bound that is too tight by 1e-6 shows here, not as one wrong BMU in a million.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <random>
#include <vector>

#include "cpu/neighborhood/low_rank.h"
#include "cpu/search/lanes/group.h"
#include "cpu/search/pruned/tile_build.h"
#include "cpu/search/pruned/seekers.h"
#include "cpu/search/quantized/coded_operands.h"

// What the arena of the low-rank factors asks for.
namespace vitsom {
Memory allocate(std::size_t bytes) { return {std::aligned_alloc(64, (bytes + 127) / 64 * 64), bytes}; }
void release(Memory memory) { std::free(memory.data); }
void use_huge_pages(void*, std::size_t) {}
}  // namespace vitsom

namespace {

using namespace vitsom;
using namespace vitsom::VITSOM_ISA;

std::mt19937 generator;
int wrong = 0;

struct Margin {
    const char* what;
    double allowed = 0;  // for roundings, which a bound has on top of what is exact
    double least = 1e30;

    void hold(double bound, double exact) {
        least = std::fmin(least, bound - exact);
        if (bound >= exact) return;
        if (++wrong < 20) std::printf("%s: bound %.9g is below %.9g\n", what, bound, exact);
    }

    // So close that a bound tighter by little more than 1e-6 would be wrong.
    void be_sharp() const {
        std::printf("%s: least margin %.3g\n", what, least);
        if (least < allowed + 1.2e-6) return;
        std::printf("%s: no vector comes close to the bound\n", what);
        ++wrong;
    }
};

typedef std::vector<float> Row32;

Row32 random_row(std::int64_t n) {
    std::normal_distribution<float> normal;
    Row32 x(n);
    for (float& v : x) v = normal(generator);
    return x;
}

double product(const float* x, const float* y, std::int64_t n) {
    double total = 0;
    for (std::int64_t d = 0; d < n; ++d) total += static_cast<double>(x[d]) * y[d];
    return total;
}

// x + size * y, of length 1 to the last bits of fp32.
Row32 unit(const Row32& x, float size, const Row32& y) {
    Row32 sum(x.size());
    for (std::size_t d = 0; d < x.size(); ++d) sum[d] = x[d] + size * y[d];
    const double length = std::sqrt(product(sum.data(), sum.data(), static_cast<std::int64_t>(sum.size())));
    for (float& v : sum) v = static_cast<float>(v / length);
    return sum;
}

// How alike vectors are: far apart, as neighbours are, nearly the same, the same.
const float SPREADS[] = {3, 0.5f, 0.05f, 1e-3f, 1e-5f, 0};

// A sample that may come close to a bound: a member, one near it, between two, opposite to one, or any.
Row32 sample(const std::vector<Row32>& members, int kind) {
    const std::int64_t n = static_cast<std::int64_t>(members[0].size());
    const Row32& x = members[generator() % members.size()];
    switch (kind % 5) {
        case 0: return x;
        case 1: return unit(x, 1e-4f, random_row(n));
        case 2: return unit(x, 1, members[generator() % members.size()]);
        case 3: return unit(x, -3, members[0]);
        default: return unit(random_row(n), 0, x);
    }
}

template <class Code>
void check_codes(const char* what, std::int64_t dim, float seen_in) {
    Margin above{what};
    for (const float spread : SPREADS) {
        const Row32 base = random_row(dim);
        std::vector<Row32> prototypes, samples;
        for (int i = 0; i < WIDTH; ++i) prototypes.push_back(unit(base, spread, random_row(dim)));
        for (int r = 0; r < TILE_ROWS; ++r) samples.push_back(sample(prototypes, r));
        if (spread == 3) samples[1].assign(static_cast<std::size_t>(dim), 0.01f), samples[1][3] = 1;  // one drowns the others
        const Row32 centre = unit(base, 0.3f, random_row(dim));
        const View view{centre.data(), product(centre.data(), centre.data(), dim), seen_in};
        const std::int64_t words = ceil_div(dim, Code::PER_WORD * WIDTH) * WIDTH;
        std::vector<std::uint32_t> z(words * TILE_ROWS), w(words * TILE_COLS);
        Centred<float> x[TILE_ROWS], y[WIDTH];
        Coded<Code> coded_x[TILE_ROWS], coded_y[WIDTH];
        for (int r = 0; r < TILE_ROWS; ++r) {
            x[r] = centred(samples[r].data(), view, dim);
            coded_x[r].scale = Code::scale(x[r].largest);
        }
        for (int i = 0; i < WIDTH; ++i) {
            y[i] = centred(prototypes[i].data(), view, dim);
            coded_y[i].scale = Code::scale(y[i].largest);
        }
        encode<Code, TILE_ROWS, TILE_ROWS, true>(x, dim, coded_x, z.data());
        encode<Code, WIDTH, TILE_COLS, false>(y, dim, coded_y, w.data());
        const float rounding = 1.01f * Code::rounding(words, 1);
        for (int r = 0; r < TILE_ROWS; ++r) {
            typename Code::Sum sum{};
            for (int i = 0; i < WIDTH; ++i) sum[i] = coded_y[i].start;
            for (std::int64_t j = 0; j < words; ++j) {
                sum = Code::multiply_add(sum, Bits{} + z[j * TILE_ROWS + r], load_as<Bits>(w.data() + j * TILE_COLS));
            }
            const Vec value = Code::value(sum);
            for (int i = 0; i < WIDTH; ++i) {
                const double length = seen_in == 0 ? std::sqrt(product(samples[r].data(), samples[r].data(), dim)) : 1 / seen_in;
                const double per_length = seen_in == 0 ? 1 : seen_in;
                double exact = 0, square = 0;
                for (std::int64_t d = 0; d < dim; ++d) {
                    const double apart = static_cast<double>(prototypes[i][d]) * per_length - centre[d];
                    exact += (samples[r][d] / length - centre[d]) * apart;
                    square += apart * apart;
                }
                if (seen_in != 0) above.hold(SLACK_OF_SQUARE * square, std::fabs(y[i].along + square / 2));
                const double found = static_cast<double>(value[i]) * coded_x[r].scale * coded_y[i].scale;
                const double bound = static_cast<double>(coded_x[r].residual) * y[i].norm +
                                     static_cast<double>(x[r].norm + coded_x[r].residual) *
                                         (coded_y[i].residual + rounding * y[i].norm) +
                                     (seen_in == 0 ? SLACK : SLACK_OF_SQUARE * y[i].norm * y[i].norm);
                above.hold(bound, std::fabs(found - exact));
            }
        }
    }
    std::printf("%s, %d features: least margin %.3g\n", what, static_cast<int>(dim), above.least);
}

// Members to either side of a direction, by as much in every feature: int8 holds what they differ by exactly.
std::vector<Row32> opposite_members(std::int64_t dim) {
    Row32 base(dim, 1), to_the_side(dim);
    for (std::int64_t d = 0; d < dim; ++d) to_the_side[d] = dim % 2 == 1 && d == dim - 1 ? 0.0f : d % 2 == 0 ? 1.0f : -1.0f;
    std::vector<Row32> members;
    for (int lane = 0; lane < LANES; ++lane) members.push_back(unit(base, lane % 2 == 0 ? 0.5f : -0.5f, to_the_side));
    return members;
}

// A sample whose int8 code leaves out 0.49 of a unit in every feature, all of it in the direction of what a member has beside the
// pole: products of codes are then as far off as Cauchy and Schwarz allow.
Row32 misleading_sample(const Row32& member, float along, const float* pole, const float* origin, std::int64_t dim) {
    const float scale = 0.5f / (127 * std::sqrt(static_cast<float>(dim)));
    Row32 z(dim);
    for (std::int64_t d = 0; d < dim; ++d) {
        const float rest = member[d] - along * pole[d];
        const float whole = d == 0 ? 126.0f : static_cast<float>(generator() % 100);
        z[d] = origin[d] + scale * (d == 1 ? 127.0f : whole + (rest < 0 ? -0.49f : 0.49f));
    }
    return z;
}

// The plane and the cone of a tile of prototypes, and a panel of codes of such.
void check_tiles(std::int64_t dim, Margin& plane_margin, Margin& panel_margin, Margin& cone_margin) {
    const Cells cells{4, 4};
    Problem p{};
    p.num_prototypes = cells.count();
    p.dim = dim;
    TileTree tree(p, cells);
    const std::int64_t n = tree.dim;
    std::vector<std::vector<Row32>> tiles{opposite_members(dim)};
    for (const float spread : SPREADS) {
        const Row32 base = random_row(dim), along = random_row(dim), across = random_row(dim);
        std::vector<Row32> members;
        for (int lane = 0; lane < LANES; ++lane) {
            Row32 bend = random_row(dim);
            for (std::int64_t d = 0; d < dim; ++d) {
                bend[d] = 0.1f * bend[d] + static_cast<float>(lane % 4) * along[d] + static_cast<float>(lane / 4) * across[d];
            }
            members.push_back(unit(base, spread, bend));
        }
        tiles.push_back(members);
    }
    for (const std::vector<Row32>& members : tiles) {
        Row32 side_by_side(n * LANES), axes(3 * n), axis(n), pole(n), origin(n);
        for (int lane = 0; lane < LANES; ++lane) {
            const Row row{reinterpret_cast<const char*>(members[lane].data()), DType::float32};
            write_unit(row, 1, dim, n, side_by_side.data() + lane * WIDTH, SIDE_BY_SIDE);
        }
        Radius radius{};
        const Vec present{};
        const Plane plane =
            describe_members(tree, side_by_side.data(), present, present, axes.data(), axis.data(), WIDTH, radius, nullptr);
        sum_members(side_by_side.data(), n, pole.data());
        normalise(pole.data(), n);
        for (std::int64_t d = 0; d < dim; ++d) origin[d] = 0.05f * members[0][d];
        Panel panel{};
        std::vector<std::uint32_t> codes(tree.words * LANES), sample_codes(tree.words);
        encode_members(side_by_side.data(), present, pole.data(), origin.data(), n, panel, codes.data());
        for (int kind = 0; kind < 30; ++kind) {
            Row32 z = kind % 6 == 5 ? misleading_sample(members[kind % 2], panel.along[kind % 2], pole.data(), origin.data(), dim)
                                    : sample(members, kind);
            z.resize(n);
            const float* axis_rows[3] = {axes.data(), axes.data() + n, axes.data() + 2 * n};
            const Four four{{z.data(), z.data(), z.data(), z.data()}};
            float product_with[3][4];
            dot_four<3>(four, axis_rows, n, product_with);
            const float x = product_with[0][0], y = product_with[1][0], w = product_with[2][0], left = 1 - x * x - y * y - w * w;
            const float rest = std::sqrt((left > 0 ? left : 0) + 4 * tree.slack);
            const Vec most = plane.along * x + plane.across * y + plane.down * w + plane.rest * rest + plane.slack;
            const CodedSample coded = encode_sample(z.data(), origin.data(), 1, n, sample_codes.data());
            const std::uint32_t* rows[1] = {sample_codes.data()};
            Ints sum[1];
            multiply_gathered<1>(tree.words, rows, codes.data(), panel.start, sum);
            const Vec score = Int8::value(sum[0]) * (panel.scale * coded.scale) +
                              (panel.bias + panel.along * dot_padded(z.data(), pole.data(), n));
            const Vec bound = coded.residual * panel.norm + coded.norm * panel.residual + tree.slack;
            for (int lane = 0; lane < LANES; ++lane) {
                const double exact = product(z.data(), members[lane].data(), dim);
                plane_margin.hold(most[lane], exact);
                panel_margin.hold(static_cast<double>(score[lane]) + bound[lane], exact);
                if (exact <= 0) continue;  // bounds of cones tell nothing of what is at a right angle or more
                // A sample whose BMU is this one has to look into the tile.
                const float threshold = static_cast<float>(std::fmin(exact, 1.0)) * (1 - 0x1p-24f);
                const double t = threshold;
                const float sine = static_cast<float>(std::sqrt((1 - t) * (1 + t))) * (1 + 0x1p-20f);
                cone_margin.hold(
                    dot_padded(z.data(), axis.data(), n) + tree.slack, radius.cosine * threshold - radius.sine * sine);
            }
        }
    }
}

// A map of 8 x 8 prototypes in tiles of balls, as the search builds it; the last of each tile is the longest, and the farthest from
// its middle. `apart` is how far it is from the origin, in spreads.
struct BallMap {
    static constexpr std::int64_t SIDE = 8;
    std::vector<float> prototypes;
    Problem p{};
    TileTree tree{p, {1, 1}};
    Arena arena;
    std::vector<double> inverse;
    SearchOutput result{};

    BallMap(std::int64_t dim, float spread, float apart) : prototypes(SIDE * SIDE * dim), inverse(SIDE * SIDE) {
        const Row32 base = random_row(dim), along = random_row(dim), across = random_row(dim);
        for (std::int64_t k = 0; k < SIDE * SIDE; ++k) {
            const Row32 bend = random_row(dim);
            const auto r = static_cast<float>(k / SIDE), c = static_cast<float>(k % SIDE);
            const float longer = k % 4 == 3 && k / SIDE % 4 == 3 ? 1 + 3 * spread : 1;
            for (std::int64_t d = 0; d < dim; ++d) {
                const float x = apart * base[d] + spread * (r * along[d] + c * across[d] + 0.1f * bend[d]);
                prototypes[k * dim + d] = longer * x;
            }
        }
        p.prototypes = {prototypes.data(), dim, DType::float32};
        p.num_prototypes = SIDE * SIDE;
        p.dim = dim;
        p.distance = Distance::squared_euclidean;
        result.inverse_prototype = inverse.data();
        new (&tree) TileTree(p, {SIDE, SIDE});
        lay_out(arena, [&](Arena& a) { tree.take(a); });
        std::vector<float> scratch(LANES * tree.dim);
        find_origin(p, tree, scratch.data());
        for (std::int64_t tile = 0; tile < tree.level[0].count(); ++tile) {
            build_tile(p, tree, tile, tile, result, scratch.data(), tree.level[0].centre + tile * tree.dim, WIDTH);
        }
        build_root(tree, 0, scratch.data());
        tree.reach = 0;
        for (std::int64_t tile = 0; tile < tree.level[0].count(); ++tile) {
            tree.reach = std::fmax(tree.reach, std::sqrt(tree.level[0].shell[tile].most));
        }
    }
};

// No tile that holds a prototype whose score is known is ruled out by that score: by its ball and its shell, in a panel of codes and
// alone, nor the prototype by its plane.
void check_balls(std::int64_t dim, Margin& plane_margin, Margin& panel_margin, Margin& shell_margin) {
    for (const float spread : {1.0f, 0.1f, 0.01f}) {
        for (const float apart : {0.0f, 1.0f, 30.0f}) {
            BallMap map(dim, spread, apart);
            const TileTree& tree = map.tree;
            if (!(tree.unit > 0)) continue;
            const std::int64_t n = tree.dim;
            for (int kind = 0; kind < 60; ++kind) {
                const std::int64_t k = kind % 3 == 0 ? 27 : static_cast<std::int64_t>(generator() % 64);  // 27: a longest one
                const std::int64_t tile = k / 8 / 4 * 2 + k % 8 / 4;
                const int lane = static_cast<int>(k / 8 % 4 * 4 + k % 4);
                const float* w = map.prototypes.data() + k * dim;
                const float* centre = tree.level[0].centre + tile * n;
                // From the middle of the tile through the prototype and on, then longer or shorter: where the bound is nearly exact.
                const float on = 0.01f * static_cast<float>(1 << generator() % 10);
                const float longer = kind % 2 == 0 ? 1 : 0.75f * (1 << kind % 5);
                const Row32 aside = random_row(dim);
                Row32 z(dim), unit(n);
                for (std::int64_t d = 0; d < dim; ++d) {
                    const float middle = centre[d] / tree.unit + tree.seen_from[d];
                    const float far = kind % 5 == 4 ? spread * aside[d] : 0;
                    z[d] = longer * (w[d] + on * (w[d] - middle) + far);
                }
                const Row row_z{reinterpret_cast<const char*>(z.data()), DType::float32};
                const Row row_w{reinterpret_cast<const char*>(w), DType::float32};
                Seen seen{};
                Reach reach = reach_of(tree, row_z, 1, unit.data(), &seen);
                if (reach.found == UNDECIDED) continue;
                const double scale = static_cast<double>(tree.unit) * tree.unit;
                const float found = static_cast<float>(Leader::less(-0.5 * exact_squared_distance(row_z, row_w, dim) * scale));
                // As long as it takes for the sample to be seen at the length where it was put.
                const float about = static_cast<float>((seen.square / 2 + found) / (longer - 0.5f));
                const Shell near = kind % 2 == 0 || !(about > 0) ? tree.level[0].shell[kind % 7 == 6 ? 0 : tile] : Shell{about, about};
                raise_reach(tree, &near, found, seen, reach);
                // In relation to the lengths that roundings are in proportion to.
                const double size = 1.0 / (tree.reach * (seen.length + tree.reach));
                const Radius& ball = tree.level[0].radius[tile];
                const float along = dot_padded(unit.data(), centre, n);
                shell_margin.hold(size * (along + reach.slack), size * (reach.threshold - ball.sine * reach.sine - ball.more));
                shell_margin.hold(
                    size * (along + reach.slack), size * seen.stretch.needed(reach.threshold, ball, tree.level[0].shell[tile]));

                const float along_origin = dot_padded(unit.data(), tree.origin, n);
                const float share = along_origin > 0 ? along_origin / tree.origin_square : 1;
                std::vector<std::uint32_t> codes(tree.words);
                reach.code = encode_sample(unit.data(), tree.origin, share, n, codes.data());
                const std::uint32_t* rows[1] = {codes.data()};
                Ints sum[1];
                const Panel& panel = tree.root[0];
                multiply_gathered<1>(tree.words, rows, tree.root_codes, panel.start, sum);
                const Vec score = Int8::value(sum[0]) * (panel.scale * reach.code.scale) + (panel.bias + panel.along * along_origin) +
                                  (share - 1) * tree.root_shells[0].along_origin;
                const Vec bound = reach.code.residual * panel.norm + reach.code.norm * panel.residual + reach.slack;
                const Vec needed = larger_of(
                    reach.threshold - reach.sine * panel.sine - panel.more,
                    tree.root_shells[0].needed(seen.stretch, reach.threshold, panel.sine, panel.more));
                panel_margin.hold(size * (score[tile] + bound[tile]), size * needed[tile]);

                const Plane& plane = tree.level[0].plane[tile];
                const float* axes = tree.level[0].axes + 3 * tile * n;
                const float* axis_rows[3] = {axes, axes + n, axes + 2 * n};
                const Four four{{unit.data(), unit.data(), unit.data(), unit.data()}};
                float product_with[3][4];
                dot_four<3>(four, axis_rows, n, product_with);
                const float x = product_with[0][0] - plane.half_square, y = product_with[1][0] - plane.across_centre;
                const float v = product_with[2][0] - plane.down_centre, past = x - plane.half_square;
                const float square = static_cast<float>(seen.square);
                const float left = square - (x + x + past * past * plane.inverse_square + y * y) - v * v;
                const float slack = 3 * tree.slack * (square + tree.reach * tree.reach);
                const float rest = std::sqrt((left > 0 ? left : 0) + 4 * slack);
                const Vec most = plane.along * x + plane.across * y + plane.down * v + plane.rest * rest + plane.slack;
                const float least = reach.threshold - (plane.slack_of_length * (seen.length + tree.reach) + reach.slack);
                plane_margin.hold(size * most[lane], size * least);
            }
        }
    }
}

// As far from a member as that is from the plane of its tile, where it is nearest: for the one farthest aside the bound is exact.
Row32 straight_aside(const Row32& members, const Row32& centre, const Row32& axes, int one, std::int64_t dim) {
    double x = 0, y = 0;
    for (std::int64_t d = 0; d < dim; ++d) {
        const double apart = static_cast<double>(members[d * LANES + one]) - centre[d * LANES];
        x += apart * axes[2 * d];
        y += apart * axes[2 * d + 1];
    }
    Row32 z(dim);
    for (std::int64_t d = 0; d < dim; ++d) {
        const double apart = static_cast<double>(members[d * LANES + one]) - centre[d * LANES];
        const double rest = apart - x * axes[2 * d] - y * axes[2 * d + 1];
        z[d] = static_cast<float>(members[d * LANES + one] + rest);
    }
    return z;
}

// The ball and the box of a tile of few features, which may be at any distance from the origin.
void check_boxes(std::int64_t dim, Margin& box_margin, Margin& ball_margin) {
    const Cells cells{4, 4};
    Problem p{};
    p.num_prototypes = cells.count();
    p.dim = dim;
    GroupedMap map(p, cells);
    for (const float spread : SPREADS) {
        const Row32 base = random_row(dim), along = random_row(dim), across = random_row(dim);
        Row32 members(dim * LANES), radii(LANES), centre(dim * LANES), half_square(LANES), radius(LANES), axes(2 * dim);
        for (int lane = 0; lane < LANES; ++lane) {
            const Row32 bend = random_row(dim);
            for (std::int64_t d = 0; d < dim; ++d) {
                const float place = static_cast<float>(lane % 4) * along[d] + static_cast<float>(lane / 4) * across[d];
                members[d * LANES + lane] = base[d] + spread * (place + 0.1f * bend[d]);
            }
        }
        const Balls balls{centre.data(), half_square.data(), radius.data()};
        write_ball(members.data(), radii.data(), dim, balls, 0);
        const Box box = box_of(members.data(), splat_lanes(1), centre.data(), map.contrast, dim, axes.data());
        for (int kind = 0; kind < 60; ++kind) {
            const int one = static_cast<int>(generator() % LANES), other = static_cast<int>(generator() % LANES);
            const Row32 aside = random_row(dim);
            const float far = kind % 3 == 0 ? 0 : SPREADS[kind % 5], on = kind % 7 == 0 ? 2 : 0.5f;
            Row32 z(dim);
            float squares = 0, x = 0, y = 0;
            for (std::int64_t d = 0; d < dim; ++d) {
                const float w = members[d * LANES + one];
                z[d] = w + on * (w - members[d * LANES + other]) + far * aside[d];
            }
            if (kind % 4 == 3) z = straight_aside(members, centre, axes, one, dim);
            for (std::int64_t d = 0; d < dim; ++d) {
                const float apart = z[d] - centre[d * LANES];
                squares += apart * apart;
                x += apart * axes[2 * d];
                y += apart * axes[2 * d + 1];
            }
            const double beyond = square_beyond(box, splat(squares), splat(x), splat(y))[0];
            for (int lane = 0; lane < LANES; ++lane) {
                double exact = 0;
                for (std::int64_t d = 0; d < dim; ++d) {
                    const double apart = static_cast<double>(z[d]) - members[d * LANES + lane];
                    exact += apart * apart;
                }
                // In relation to the square of the distance to the middle.
                const double scale = squares > 0 ? 1.0 / squares : 1.0;
                box_margin.hold(exact * scale + BOX_ERROR, beyond * scale);
                ball_margin.hold((std::sqrt(exact) + radius[0]) * std::sqrt(scale) * (1 + BALL_ERROR), std::sqrt(squares * scale));
            }
        }
    }
}

// A thin factor within its tolerance of the Gaussian that it stands for.
void check_factors(std::int64_t size, float temperature, bool fold) {
    std::vector<float> weights(size * size), left(size * size), right(size * size);
    for (std::int64_t i = 0; i < size * size; ++i) {
        const auto offset = static_cast<float>(i / size - i % size);
        weights[i] = std::exp(-offset * offset / (2 * temperature * temperature));
    }
    Arena arena;
    Decomposition decomposition{};
    lay_out(arena, [&](Arena& a) { decomposition.take(a, size); });
    LowRank thin{};
    thin.left = left.data();
    thin.right = right.data();
    decomposition.run(Factor{weights.data(), size, 1}, size, fold, thin);
    if (thin.rank == 0) return;
    // The outer products are rounded to fp32 on top of it.
    const double most = RANK_TOLERANCE + static_cast<double>(thin.rank) * 0x1p-24;
    Margin margin{"thin factor"};
    for (std::int64_t i = 0; i < size * size; ++i) {
        double sum = 0;
        for (std::int64_t k = 0; k < thin.rank; ++k) {
            sum += static_cast<double>(left[k * size + i / size]) * right[k * size + i % size];
        }
        margin.hold(most, std::fabs(sum - weights[i]));
    }
}

}  // namespace

int main() {
    Margin plane{"plane"}, panel{"panel of codes"}, cone{"cone"};
    Margin plane_of_ball{"plane of a ball"}, panel_of_balls{"panel of balls"}, shell{"shell", 2e-6};
    for (int round = 0; round < 4; ++round) {
        for (const std::int64_t dim : {64, 65, 100, 192}) {
            for (const float unit : {0.0f, 1.0f, 4.0f}) check_codes<Int8>("int8 codes", dim, unit);
#if defined(__AVX512BF16__)
            for (const float unit : {0.0f, 1.0f, 4.0f}) check_codes<BFloat16>("bf16 codes", dim, unit);
#endif
            check_tiles(dim, plane, panel, cone);
            check_balls(dim, plane_of_ball, panel_of_balls, shell);
        }
    }
    Margin box{"box", BOX_ERROR}, ball{"ball", BALL_ERROR};
    for (int round = 0; round < 20; ++round) {
        for (const std::int64_t dim : {1, 2, 3, 10, 17, 57}) check_boxes(dim, box, ball);
    }
    plane.be_sharp();
    shell.be_sharp();
    std::printf("plane of a ball: least margin %.3g, panel of balls: %.3g\n", plane_of_ball.least, panel_of_balls.least);
    box.be_sharp();
    ball.be_sharp();
    std::printf("panel: least margin %.3g, cone: %.3g\n", panel.least, cone.least);
    for (const std::int64_t size : {33, 64, 128, 129}) {
        for (const float temperature : {2.0f, 8.0f, 40.0f}) {
            check_factors(size, temperature, false);
            check_factors(size, temperature, true);
        }
    }
    return wrong;
}

// Gradients: dL/dz^ = -scale * S_b; dL/dw^ = -scale * (G A), A_k the sum of z^ over the samples whose BMU is k; both through the
// normalisation, whose norms and products with z the forward pass has left in its saved. Under the squared Euclidean distance the
// same with other numbers, as squared_euclidean.h has it: either gradient is a multiple of what is smoothed less a multiple of the
// row.
//
// A is sparse: the samples are summed up by BMU first, in the same pass over z that writes its gradient. Then, a slab of grid
// rows at a time, the sums of each column of the grid are spread along its rows, and each row of the slab is smoothed along the
// columns and projected, a few prototypes at a time that stay in cache. Where the factors are thin, the sums are first reduced
// to ranks along both axes, which are then spread in their place.
//
// Passes over memory: z, S and the prototypes are read once and both gradients written once; the sums, at most a row a
// prototype, are written once and read once a slab, or once in all where they are reduced to ranks.
#include "cpu/step/saved_for_backward.h"
#include "cpu/step/backward_plan.h"
#include "cpu/step/squared_euclidean.h"
#include "cpu/module/kernel_table.h"
#include "cpu/simd/nontemporal.h"

namespace vitsom {
namespace VITSOM_ISA {

using Saved = SavedForBackward<const double>;

// Features of the samples of a BMU that are summed up together.
constexpr std::int64_t MOST_FEATURES = 1024;

// A sample z as seen from a centre, if any: it adds `share` of that to the sum of its BMU, and its gradient is
// `outer * (S_b - inner * z)`.
struct Epilogue {
    double scale;
    const double* shares;  // [batch] the gradients of the losses
    const float* centre;   // [chunks * TILE_COLS], zero beyond dim; of the squared Euclidean distance alone

    struct OfSample {
        double share;
        Scaling inner;
        float outer;
    };
    OfSample operator()(const Saved& saved, std::int64_t i) const {
        if (centre) return {shares[i], in_one_step(saved.total_weight[i]), static_cast<float>(-2 * shares[i])};
        const double inverse = saved.inverse_z[i];
        const Scaling inner = scaling(inverse >= 1 / EPS ? 0.0 : saved.z_dot_attraction[i] * inverse * inverse);
        return {inverse, inner, static_cast<float>(-scale * inverse)};
    }
};

// Features [first, first + count) of the samples of a BMU: their gradient, and the sum of their z^ where `sums` is wanted, spaced
// `stride` from one chunk to the next. It is summed up in fp64: 20000 samples of one BMU in fp32 are wrong by 6e-6.
template <bool CENTRED, class T>
void visit_samples(
    const Problem& p, const BmuGroups& samples, const Saved& saved, const Epilogue& epilogue, std::int64_t group, std::int64_t first,
    std::int64_t count, const float* attraction, T* grad_z, bool streamed, float* sums, std::int64_t stride) {
    DoublePair total[MOST_FEATURES / WIDTH];
    const std::int64_t vectors = 2 * ceil_div(count, TILE_COLS);
    for (std::int64_t v = 0; v < vectors; ++v) total[v] = DoublePair{};
    const float* pull = attraction + group * p.dim + first;
    const float* centre = epilogue.centre + first;
    for (std::int64_t s = samples.start[group]; s < samples.start[group + 1]; ++s) {
        const std::int64_t i = samples.order[s];
        const T* z = typed_row<T>(p.z, i) + first;
        T* out = grad_z + i * p.dim + first;
        const auto [share, inner, outer] = epilogue(saved, i);
        for_each_vector(count, [&](std::int64_t d, auto load, auto store) {
            const Vec v = CENTRED ? load(z + d) - load(centre + d) : load(z + d);
            if (grad_z) {
                const Vec result = outer * inner.from(load(pull + d), v);
                if (streamed) stream(out + d, result);
                else store(out + d, result);
            }
            if (sums) {
                const DoublePair wide = widen(v);
                total[d / WIDTH].low += wide.low * share;
                total[d / WIDTH].high += wide.high * share;
            }
        });
    }
    for (std::int64_t v = 0; v < vectors && sums; ++v) store(sums + v / 2 * stride + v % 2 * WIDTH, narrow(total[v]));
}

inline void visit_all_samples(
    const Problem& p, const BmuGroups& samples, const Saved& saved, const Epilogue& epilogue, const float* attraction, void* grad_z,
    const BackwardPlan* b) {
    const int threads = useful_threads(8 * p.batch * p.dim, p.threads);
    // A few tasks a thread, however few BMUs there are.
    const std::int64_t parts = ceil_div(4 * threads, samples.groups);
    const std::int64_t features = smaller(MOST_FEATURES, ceil_div(ceil_div(p.dim, parts), TILE_COLS) * TILE_COLS);
    const std::int64_t blocks = ceil_div(p.dim, features);
    const bool streamed = grad_z && is_streamed(grad_z, p.z.dtype, p.dim, p.batch * p.dim);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (std::int64_t task = 0; task < samples.groups * blocks; ++task) {
        const std::int64_t group = task / blocks, first = task % blocks * features;
        const std::int64_t column = samples.col[group], stride = samples.bmus_of(column) * TILE_COLS;
        float* sums = nullptr;
        if (b) {
            sums = b->sums_of(samples, column) + first / TILE_COLS * stride + (group - samples.column[column]) * TILE_COLS;
        }
        with_dtype(p.z.dtype, [&](auto t) {
            using T = decltype(t);
            const auto visit = epilogue.centre ? visit_samples<true, T> : visit_samples<false, T>;
            visit(
                p, samples, saved, epilogue, group, first, smaller(features, p.dim - first), attraction, static_cast<T*>(grad_z),
                streamed, sums, stride);
        });
        finish_stream();
    }
}

// The sums of one chunk of the features, reduced to ranks along the rows of the grid, then along its columns.
inline void reduce_to_ranks(const BackwardPlan& b, const BmuGroups& samples, const Sources& s, std::int64_t chunk) {
    const BackwardScratch& scratch = b.scratch[omp_get_thread_num()];
    for (std::int64_t full = 0; full < samples.full_count; ++full) {
        const std::int64_t column = samples.full[full];
        const float* x = b.sums_of(samples, column) + chunk * samples.bmus_of(column) * TILE_COLS;
        s.rows_to_ranks[full].apply(x, OutputRows{scratch.reduced + full * TILE_COLS, samples.full_count * TILE_COLS});
    }
    for (std::int64_t i = 0; i < s.row_ranks; ++i) {
        const float* x = scratch.reduced + i * samples.full_count * TILE_COLS;
        s.cols_to_ranks.fold_all([&](std::int64_t full) { return load_row(x + full * TILE_COLS); }, scratch.folded);
        const std::int64_t stride = s.row_ranks * TILE_COLS;
        s.cols_to_ranks.apply(scratch.folded, OutputRows{s.ranks + chunk * stride + i * TILE_COLS, b.chunks * stride});
    }
}

// One term of the grid rows order[first, first + count): [slab row][chunk][source][TILE_COLS].
inline void spread_along_rows(
    const Neighborhood& h, const BackwardPlan& b, const BmuGroups& samples, const Sources& s, std::int64_t first, std::int64_t count,
    BackwardScratch& scratch, float* spread) {
    const auto spread_source = [&](std::int64_t source, const auto& rows, const float* x, std::int64_t ins) {
        for (std::int64_t chunk = 0; chunk < b.chunks; ++chunk) {
            float* out = spread + (chunk * s.cols.ranks() + source) * TILE_COLS;
            rows.apply(x + chunk * ins * TILE_COLS, OutputRows{out, b.spread_size});
        }
    };
    if (s.is_thin) {
        for (std::int64_t r = 0; r < h.rows; ++r) scratch.place[r] = -1;
        for (std::int64_t r = 0; r < count; ++r) scratch.place[b.order[first + r]] = r;
        scratch.rows_from_ranks.pack(s.rows_from_ranks, [&](std::int64_t r) { return scratch.place[r]; });
        for (std::int64_t source = 0; source < s.cols.ranks(); ++source) {
            spread_source(source, scratch.rows_from_ranks, s.ranks + source * b.chunks * s.row_ranks * TILE_COLS, s.row_ranks);
        }
        return;
    }
    for (std::int64_t source = 0; source < samples.full_count; ++source) {
        const std::int64_t column = samples.full[source], ins = samples.bmus_of(column);
        scratch.rows.pack(s.spread, b.order + first, count, samples.row + samples.column[column], ins);
        spread_source(source, scratch.rows, b.sums_of(samples, column), ins);
    }
}

// Which columns are smoothed and projected together: a tile of pairs of mirror images, or of single ones.
struct ColumnTile {
    const Pairs& pairs;
    std::int64_t first, end;  // pairs

    ColumnTile(const Expansion& cols, std::int64_t first)
        : pairs(cols.pairs), first(first), end(smaller(cols.pairs.count, first + cols.tile_pairs())) {}

    std::int64_t column(std::int64_t pair, bool is_far) const { return is_far ? pairs.far[pair] : pairs.near[pair]; }
    std::int64_t place(std::int64_t pair, bool is_far) const {
        return pairs.is_folded ? 2 * (pair - first) + is_far : pair - first;
    }

    template <class Body>
    void for_each(const Body& body) const {
        for (std::int64_t pair = first; pair < end; ++pair) {
            body(pairs.near[pair], place(pair, false));
            if (pairs.far[pair] >= 0) body(pairs.far[pair], place(pair, true));
        }
    }
};

// gradient [columns of the tile][chunk][TILE_COLS] = or, to add, += one term of one grid row. Its prototypes `w` are fetched
// meanwhile.
inline void smooth_along_columns(
    const Problem& p, const BackwardPlan& b, const Sources& s, const ColumnTile& tile, const float* spread, Row w, bool add,
    float* gradient) {
    for (std::int64_t chunk = 0; chunk < b.chunks; ++chunk) {
        const std::int64_t d = chunk * TILE_COLS;
        const float* x = spread + chunk * s.cols.ranks() * TILE_COLS;
        s.cols.apply_tile(tile.first, x, [&](std::int64_t pair, bool is_far, Vec low, Vec high) {
            store_row(gradient + tile.place(pair, is_far) * b.gradient_size() + d, low, high, add);
            const Row next = w + (tile.column(pair, is_far) * p.prototypes.stride + d);
            __builtin_prefetch(next.data);
            __builtin_prefetch((next + WIDTH).data);
        });
    }
}

// out = factor * (grad - w^ (w^ . grad)) / max(|w|, eps); below eps the normalisation is linear and nothing is projected away.
template <class T>
__attribute__((noinline)) void project(
    const T* w, const float* grad, double inverse, double factor, T* out, std::int64_t n, bool streamed) {
    // A row whose products are near the ends of fp32 takes the long way.
    const bool is_ordinary = inverse > 0x1p-64 && inverse < 0x1p64;
    const double product = is_ordinary ? quick_dot(w, grad, n) : dot(w, grad, n);
    const double along = inverse >= 1 / EPS ? 0.0 : product * inverse;
    const float outer = static_cast<float>(factor * inverse);
    const Scaling inner = scaling(along * inverse);
    for_each_vector(n, [&](std::int64_t i, auto load, auto store) {
        const Vec result = outer * inner.from(load(grad + i), load(w + i));
        if (streamed) stream(out + i, result);
        else store(out + i, result);
    });
}

// out = 2 (weight * v - grad) for the prototype as seen from the centre.
template <class T>
__attribute__((noinline)) void pull_from_centre(
    const T* w, const float* centre, const float* grad, double weight, T* out, std::int64_t n, bool streamed) {
    const Scaling inner = in_one_step(weight);
    for_each_vector(n, [&](std::int64_t i, auto load, auto store) {
        const Vec result = -2 * inner.from(load(grad + i), load(w + i) - load(centre + i));
        if (streamed) stream(out + i, result);
        else store(out + i, result);
    });
}

// The gradient of the prototypes of one grid row. `weight` [cols][rows] is G' C under the squared Euclidean distance.
inline void finish_row(
    const Problem& p, const Neighborhood& h, const BackwardPlan& b, const Saved& saved, const Epilogue& epilogue,
    const double* weight, std::int64_t grid_row, const float* spread, float* gradient, void* grad_prototypes) {
    const Expansion& cols = b.sources[0].cols;
    const bool streamed = is_streamed(grad_prototypes, p.prototypes.dtype, p.dim, p.num_prototypes * p.dim);
    const std::int64_t row_start = grid_row * h.cols;
    for (std::int64_t first = 0; first < cols.pairs.count; first += cols.tile_pairs()) {
        const ColumnTile tile(cols, first);
        bool is_written = false;
        for (std::int64_t t = 0; t < h.terms; ++t) {
            const float* x = spread + t * b.slab_rows * b.spread_size;
            const Row w = row(p.prototypes, row_start);
            if (!b.sources[t].reached[grid_row]) continue;
            smooth_along_columns(p, b, b.sources[t], tile, x, w, is_written, gradient);
            is_written = true;
        }
        if (!is_written) fill(gradient, b.columns_at_once * b.gradient_size(), 0.0f);
        tile.for_each([&](std::int64_t column, std::int64_t place) {
            const std::int64_t k = row_start + column;
            with_dtype(p.prototypes.dtype, [&](auto t) {
                using T = decltype(t);
                const T* w = typed_row<T>(p.prototypes, k);
                const float* grad = gradient + place * b.gradient_size();
                T* out = static_cast<T*>(grad_prototypes) + k * p.dim;
                const double inverse = saved.inverse_prototype[k];
                if (!epilogue.centre) project(w, grad, inverse, -epilogue.scale, out, p.dim, streamed);
                else pull_from_centre(w, epilogue.centre, grad, weight[column * h.rows + grid_row], out, p.dim, streamed);
            });
        });
    }
}

// The gradient of a prototype is its pull over its length: where a far one is so much shorter than others that the smallest weights
// make the largest gradients, these count, too. Lengths that differ 16 times leave 2^-24 of the gradients out at most.
inline float negligible_weight(const double* inverse_prototype, std::int64_t count) {
    constexpr double AT_EASE = 16;
    double least = __DBL_MAX__, most = 0;
    for (std::int64_t k = 0; k < count; ++k) {
        least = inverse_prototype[k] < least ? inverse_prototype[k] : least;
        most = inverse_prototype[k] > most ? inverse_prototype[k] : most;
    }
    if (!(AT_EASE * least < most)) return NEGLIGIBLE;
    const double weight = NEGLIGIBLE * AT_EASE * least / most;
    return weight > __FLT_MIN__ ? static_cast<float>(weight) : __FLT_MIN__;
}

void backward(
    const Problem& p, const Neighborhood& h, double scale, const std::int64_t* bmu, const float* attraction,
    const double* context, const double* shares, void* grad_z, void* grad_prototypes) {
    const auto fill_prototypes = [&](float value) {
        if (!grad_prototypes) return;
        with_dtype(p.prototypes.dtype, [&](auto t) {
            fill(static_cast<decltype(t)*>(grad_prototypes), p.num_prototypes * p.dim, value);
        });
    };
    if (p.batch == 0) return fill_prototypes(0);
    const std::int64_t element_bytes = row(p.z, 0).element_bytes();
    use_huge_pages(grad_z, static_cast<std::size_t>(p.batch * p.dim * element_bytes));
    use_huge_pages(grad_prototypes, static_cast<std::size_t>(p.num_prototypes * p.dim * element_bytes));
    const Saved saved(context, p.batch);
    const bool is_squared = p.distance == Distance::squared_euclidean;
    Arena sorting;
    BmuGroups samples{};
    float* centre = nullptr;
    lay_out(sorting, [&](Arena& a) {
        BmuGroups::take(a, samples, p.batch, h.rows, h.cols);
        centre = a.take<float>(is_squared ? p.dim : 0);
    });
    samples.sort(bmu, p.batch, h.rows, h.cols);
    if (is_squared) write_centre(p, saved.inverse_prototype, 0, p.dim, centre);
    const Epilogue epilogue{scale, shares, is_squared ? centre : nullptr};
    bool finite = true;
    for (std::int64_t i = 0; i < p.batch; ++i) {
        finite &= saved.inverse_z[i] == saved.inverse_z[i] && !(is_squared && shares[i] != shares[i]);
    }
    if (!finite) fill_prototypes(__builtin_nanf(""));  // a bad sample pulls on every one, be its weight 0: 0 * NaN is NaN
    if (!grad_prototypes || !finite) {
        if (grad_z) visit_all_samples(p, samples, saved, epilogue, attraction, grad_z, nullptr);
        return;
    }

    // Where all rows count as of length 1, it is that of the loss.
    const float negligible = negligible_weight(saved.inverse_prototype, p.num_prototypes);
    const ThinTerms thin(p, h, negligible);
    BackwardPlan b{};
    Arena arena;
    double *weight = nullptr, *shares_of_bmu = nullptr, *columns = nullptr;
    lay_out(arena, [&](Arena& a) {
        b.take(a, p, h, thin, samples);
        weight = a.take<double>(is_squared ? p.num_prototypes : 0);
        columns = a.take<double>(is_squared ? p.num_prototypes : 0);
        shares_of_bmu = a.take<double>(is_squared ? samples.groups : 0);
    });
    b.prepare(h, thin, samples, negligible);
    if (is_squared) {
        sum_by_group(samples, shares, shares_of_bmu);
        smooth_from_bmus(h, samples, shares_of_bmu, p.threads, columns, weight);
    }
    visit_all_samples(p, samples, saved, epilogue, attraction, grad_z, &b);
    for (std::int64_t t = 0; t < h.terms; ++t) {
        if (!b.sources[t].is_thin) continue;
#pragma omp parallel for schedule(static) num_threads(b.threads) if (b.threads > 1)
        for (std::int64_t chunk = 0; chunk < b.chunks; ++chunk) reduce_to_ranks(b, samples, b.sources[t], chunk);
    }
    const std::int64_t slabs = ceil_div(h.rows, b.slab_rows);
#pragma omp parallel for schedule(dynamic) num_threads(b.slab_threads) if (b.slab_threads > 1)
    for (std::int64_t slab = 0; slab < slabs; ++slab) {
        const std::int64_t first = slab * b.slab_rows, count = smaller(b.slab_rows, h.rows - first);
        BackwardScratch& s = b.scratch[omp_get_thread_num()];
        for (std::int64_t t = 0; t < h.terms; ++t) {
            spread_along_rows(h, b, samples, b.sources[t], first, count, s, s.spread + t * b.slab_rows * b.spread_size);
        }
        for (std::int64_t r = 0; r < count; ++r) {
            finish_row(
                p, h, b, saved, epilogue, weight, b.order[first + r], s.spread + r * b.spread_size, s.gradient, grad_prototypes);
        }
        finish_stream();
    }
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

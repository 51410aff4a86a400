// Loss and attraction: loss = scale * sum over i of (n_b - z^_i . S_b), S = G W^, n = G 1, b the BMU of sample i.
//
// The prototypes are seen from a centre, W^ = c + X, and S_b = n_b c + (G X)_b: what is smoothed is short where n_b - z^ . S_b is.
//
// S is wanted at the BMUs only, once for all samples of a BMU. Per term of the neighborhood: smooth the prototypes along the
// columns of the grid, then combine rows for the distinct BMUs of each column; a slice of the features at a time, so that the
// smoothed map never leaves the cache, each on one thread where there are features for all. Where the factors are thin, both axes
// are reduced to ranks in between, and the ranks expanded again to the columns that hold a BMU.
//
// Passes over memory: z is read twice (search, loss), the prototypes are read twice (search, smoothing), and S is written once,
// at most a row a prototype, and read back in cache.
#include "cpu/search/centre.h"
#include "cpu/step/saved_for_backward.h"
#include "cpu/step/few_features.h"
#include "cpu/step/forward_plan.h"
#include "cpu/step/squared_euclidean.h"
#include "cpu/module/kernel_table.h"

namespace vitsom {
namespace VITSOM_ISA {

// A range of chunks of the features.
struct Slice {
    std::int64_t first, last;  // chunks [first, last)

    std::int64_t begin() const { return first * TILE_COLS; }
    std::int64_t count(std::int64_t dim) const { return smaller(dim, last * TILE_COLS) - begin(); }
};

// How the columns are smoothed: one entering grid row, a few chunks of a slice at a time.
struct Tasks {
    Slice slice;
    std::int64_t a_row, count;

    Tasks(Slice slice, const Term& term)
        : slice(slice), a_row(ceil_div(slice.last - slice.first, CHUNKS_AT_ONCE)), count(term.entering * a_row) {}
    std::int64_t row(std::int64_t task) const { return task / a_row; }
    std::int64_t chunk(std::int64_t task) const { return slice.first + task % a_row * CHUNKS_AT_ONCE; }
};

// A prototype of length 1, as seen from the centre.
template <class T>
struct CentredPrototype {
    const T* w;
    Scaling scaled;
    const float* centre;
    std::int64_t dim;

    Features operator()(std::int64_t chunk) const {
        const std::int64_t d = chunk * TILE_COLS;
        const Features x = load_features(w + d, dim - d), c = load_row(centre + d);
        return {scaled.less(x.low, c.low), scaled.less(x.high, c.high)};
    }
};

// Those of a grid row.
struct CentredRow {
    Matrix w;               // [cols, dim]
    std::int64_t dim;
    const double* inverse;  // [cols]
    const float* centre;

    template <class T>
    CentredPrototype<T> at(std::int64_t column) const {
        return {typed_row<T>(w, column), scaling(inverse[column]), centre, dim};
    }
};

// A few chunks of it times the factor of the columns; `fetch(column)` is called as each is read.
template <class Fetch, class OutputOf>
void smooth_row(
    const CentredRow& row, const PackedFactor& cols, std::int64_t first_chunk, std::int64_t last_chunk, float* packed,
    const Fetch& fetch, const OutputOf& output_of) {
    const std::int64_t packed_size = cols.ins * TILE_COLS;
    for (std::int64_t c = 0; c < cols.ins; ++c) {
        fetch(c);
        with_dtype(row.w.dtype, [&](auto t) {
            const auto prototype = row.at<decltype(t)>(c);
            for (std::int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
                const Features x = prototype(chunk);
                store_row(packed + (chunk - first_chunk) * packed_size + c * TILE_COLS, x.low, x.high);
            }
        });
    }
    for (std::int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
        cols.apply(packed + (chunk - first_chunk) * packed_size, output_of(chunk));
    }
}

// The same, reduced to the ranks of the columns.
template <class Fetch, class OutputOf>
void reduce_row(
    const CentredRow& row, const Reduction& cols, std::int64_t first_chunk, std::int64_t last_chunk, float* packed,
    const Fetch& fetch, const OutputOf& output_of) {
    const std::int64_t packed_size = 2 * cols.pairs.count * TILE_COLS;
    for (std::int64_t pair = 0; pair < cols.pairs.count; ++pair) {
        const std::int64_t near = cols.pairs.near[pair], far = cols.pairs.far[pair];
        fetch(near);
        if (far >= 0) fetch(far);
        with_dtype(row.w.dtype, [&](auto t) {
            const auto x = row.at<decltype(t)>(near), y = row.at<decltype(t)>(far >= 0 ? far : near);
            for (std::int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
                cols.fold(pair, x(chunk), far >= 0 ? y(chunk) : Features{}, packed + (chunk - first_chunk) * packed_size);
            }
        });
    }
    for (std::int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
        cols.apply(packed + (chunk - first_chunk) * packed_size, output_of(chunk));
    }
}

// A task of a term. The prototypes of the next one are fetched meanwhile: no prefetcher follows so many rows at a time.
inline void smooth_along_columns(
    const Problem& p, const Neighborhood& h, const Term& term, const Tasks& tasks, std::int64_t task, const double* inverse,
    const float* centre, float* packed, const Workspace& workspace) {
    const Slice slice = tasks.slice;
    const std::int64_t in = tasks.row(task), first_chunk = tasks.chunk(task);
    const std::int64_t last_chunk = smaller(slice.last, first_chunk + CHUNKS_AT_ONCE), next = smaller(task + 1, tasks.count - 1);
    const std::int64_t row_start = term.in_rows[in] * h.cols;
    const Matrix grid_row_w{row(p.prototypes, row_start).data, p.prototypes.stride, p.prototypes.dtype};
    const CentredRow grid_row{grid_row_w, p.dim, inverse + row_start, centre};
    const Row next_w = row(p.prototypes, term.in_rows[tasks.row(next)] * h.cols) + tasks.chunk(next) * TILE_COLS;
    const auto fetch = [&](std::int64_t column) {
        const Row x = next_w + column * p.prototypes.stride;
        for (std::int64_t d = 0; d < (last_chunk - first_chunk) * TILE_COLS; d += WIDTH) fetch_line<2>((x + d).data);
    };
    float* out = (term.is_thin ? workspace.reduced : workspace.smoothed) + in * TILE_COLS;
    const std::int64_t stride = term.entering * TILE_COLS;
    const auto output_of = [&](std::int64_t chunk) {
        return OutputRows{out + (chunk - slice.first) * term.col_outs() * stride, stride};
    };
    if (term.is_thin) reduce_row(grid_row, term.cols_to_ranks, first_chunk, last_chunk, packed, fetch, output_of);
    else smooth_row(grid_row, term.cols, first_chunk, last_chunk, packed, fetch, output_of);
}

// One chunk of the rows of the grid reduced to ranks, then the ranks of the columns expanded to those that hold a BMU.
inline void pass_through_ranks(
    const Term& term, std::int64_t full_count, std::int64_t chunk_of_slice, ForwardScratch& s, const Workspace& workspace) {
    const std::int64_t row_ranks = term.rows_to_ranks.ranks(), col_ranks = term.cols_to_ranks.ranks();
    for (std::int64_t j = 0; j < col_ranks; ++j) {
        const float* x = workspace.reduced + (chunk_of_slice * col_ranks + j) * term.entering * TILE_COLS;
        term.rows_to_ranks.fold_all([&](std::int64_t r) { return load_row(x + r * TILE_COLS); }, s.folded);
        term.rows_to_ranks.apply(s.folded, OutputRows{s.ranks + j * TILE_COLS, col_ranks * TILE_COLS});
    }
    for (std::int64_t i = 0; i < row_ranks; ++i) {
        float* out = workspace.smoothed + (chunk_of_slice * full_count * row_ranks + i) * TILE_COLS;
        term.ranks_to_cols.apply(s.ranks + i * col_ranks * TILE_COLS, OutputRows{out, row_ranks * TILE_COLS});
    }
}

// Writes or adds a term to the attraction of each BMU of a column.
inline void combine_rows(
    const Problem& p, const ForwardPlan& f, const Term& term, bool add, Slice slice, std::int64_t full, ForwardScratch& s,
    const Workspace& workspace, float* attraction) {
    const std::int64_t column = f.samples.full[full];
    std::int64_t count = 0;
    for (std::int64_t g = f.samples.column[column]; g < f.samples.column[column + 1]; ++g) {
        if (term.wanted[f.samples.row[g]]) {
            s.group[count] = g;
            s.group_row[count++] = f.samples.row[g];
        } else if (!add) {
            fill(attraction + g * p.dim + slice.begin(), slice.count(p.dim), 0.0f);
        }
    }
    s.rows.pack(term.combine, s.group_row, count, term.combine_in, term.combine_count);
    for (std::int64_t chunk = slice.first; chunk < slice.last; ++chunk) {
        const std::int64_t d = chunk * TILE_COLS;
        const float* x =
            workspace.smoothed + ((chunk - slice.first) * f.samples.full_count + full) * term.combine_count * TILE_COLS;
        const bool is_whole = p.dim - d >= TILE_COLS;
        s.rows.apply(x, [&](std::int64_t out, Vec low, Vec high) {
            if (is_whole) store_row(attraction + s.group[out] * p.dim + d, low, high, add);
            else store_row(s.folded + out * TILE_COLS, low, high);
        });
        for (std::int64_t out = 0; out < count && !is_whole; ++out) {
            const float* part = s.folded + out * TILE_COLS;
            float* pull = attraction + s.group[out] * p.dim + d;
            for (std::int64_t i = 0; i < p.dim - d; ++i) pull[i] = add ? pull[i] + part[i] : part[i];
        }
    }
}

// What the rows of a column write to and the loss reads: pieces that are too short for a prefetcher.
inline void fetch_column(const Problem& p, const ForwardPlan& f, Slice slice, std::int64_t full, const float* attraction) {
    if (full >= f.samples.full_count) return;
    const std::int64_t column = f.samples.full[full], begin = slice.begin(), count = slice.count(p.dim);
    for (std::int64_t g = f.samples.column[column]; g < f.samples.column[column + 1]; ++g) {
        for (std::int64_t d = begin; d < begin + count; d += WIDTH) fetch_line<2>(attraction + g * p.dim + d);
        for (std::int64_t s = f.samples.start[g]; s < f.samples.start[g + 1]; ++s) {
            const Row z = row(p.z, f.samples.order[s]) + begin;
            for (std::int64_t d = 0; d < count; d += WIDTH) fetch_line<2>((z + d).data);
        }
    }
}

// Adds z . S_b of a slice, and then the centre to what has been made without it. Under the squared Euclidean distance, where latents
// are seen from the centre, too, what it has of the loss.
inline void finish_column(const Problem& p, const ForwardPlan& f, Slice slice, std::int64_t full, float* attraction, double* along) {
    const std::int64_t column = f.samples.full[full], begin = slice.begin(), count = slice.count(p.dim);
    const float* centre = f.centre + begin;
    const bool is_squared = p.distance == Distance::squared_euclidean;
    for (std::int64_t g = f.samples.column[column]; g < f.samples.column[column + 1]; ++g) {
        float* pull = attraction + g * p.dim + begin;
        const double weight = f.weight[g];
        for (std::int64_t s = f.samples.start[g]; s < f.samples.start[g + 1]; ++s) {
            const std::int64_t i = f.samples.order[s];
            const Row z = row(p.z, i) + begin;
            along[i] += is_squared ? loss_without_squares(z, pull, weight, centre, count)
                                   : dot_with_sum(z, pull, weight, centre, count);
        }
        if (is_squared) continue;
        const float rounded = static_cast<float>(weight);
        for_each_vector(count, [&](std::int64_t d, auto load, auto store) {
            store(pull + d, load(pull + d) + rounded * load(centre + d));
        });
    }
}

// The attraction, and z . S_b of each sample. In a parallel region, by all of its threads: each takes a share of every slice.
inline void smooth_slice(
    const Problem& p, const Neighborhood& h, const ForwardPlan& f, Slice slice, const double* inverse, ForwardScratch& s,
    const Workspace& workspace, float* attraction) {
    for (std::int64_t t = 0; t < h.terms; ++t) {
        const Term& term = f.terms[t];
        const Tasks tasks(slice, term);
        const auto combine = [&](std::int64_t full) {
            if (t == h.terms - 1) fetch_column(p, f, slice, full + 1, attraction);
            combine_rows(p, f, term, t > 0, slice, full, s, workspace, attraction);
            if (t == h.terms - 1) finish_column(p, f, slice, full, attraction, s.along);
        };
        const std::int64_t chunks = term.is_thin ? slice.last - slice.first : 0;
        if (f.own_slices) {
            for (std::int64_t task = 0; task < tasks.count; ++task) {
                smooth_along_columns(p, h, term, tasks, task, inverse, f.centre, s.packed, workspace);
            }
            for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
                pass_through_ranks(term, f.samples.full_count, chunk, s, workspace);
            }
            for (std::int64_t full = 0; full < f.samples.full_count; ++full) combine(full);
        } else {
#pragma omp for schedule(static)
            for (std::int64_t task = 0; task < tasks.count; ++task) {
                smooth_along_columns(p, h, term, tasks, task, inverse, f.centre, s.packed, workspace);
            }
#pragma omp for schedule(static)
            for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
                pass_through_ranks(term, f.samples.full_count, chunk, s, workspace);
            }
#pragma omp for schedule(static)
            for (std::int64_t full = 0; full < f.samples.full_count; ++full) combine(full);
        }
    }
}

inline bool has_negative_weights(const Neighborhood& h) {
    bool found = false;
    for (std::int64_t i = 0; i < h.terms * h.rows * h.rows; ++i) found |= h.row_factors[i] < 0;
    for (std::int64_t i = 0; i < h.terms * h.cols * h.cols; ++i) found |= h.col_factors[i] < 0;
    return found;
}

bool attract(
    const Problem& p, const Neighborhood& h, double scale, float* loss, const std::int64_t* bmu, float* attraction,
    double* context, double* losses) {
    const bool is_squared = p.distance == Distance::squared_euclidean, is_in_fp64 = is_squared || p.dim <= FEW_FEATURES;
    const SavedForBackward saved(context, p.batch);
    const std::int64_t attraction_rows = smaller(p.batch, p.num_prototypes);
    use_huge_pages(attraction, static_cast<std::size_t>(attraction_rows * p.dim) * sizeof(float));
    const ThinTerms thin(p, h);
    ForwardPlan f{};
    Arena arena;
    double *wide = nullptr, *columns = nullptr, *at_bmu = nullptr;  // one number of each prototype, smoothed in fp64
    std::int64_t* imprecise = nullptr;
    lay_out(arena, [&](Arena& a) {
        f.take(a, p, h, thin);
        wide = a.take<double>(is_in_fp64 ? p.num_prototypes : 0);
        columns = a.take<double>(is_in_fp64 ? p.num_prototypes : 0);
        at_bmu = a.take<double>(is_in_fp64 ? attraction_rows : 0);
        imprecise = a.take<std::int64_t>(is_squared ? p.batch : 0);
    });
    f.prepare(p, h, thin, bmu);
    if (is_squared) mark_members_of_centre(p, saved.inverse_prototype);
    write_centre(p, saved.inverse_prototype, 0, p.dim, f.centre);
    fill(f.centre + p.dim, f.chunks * TILE_COLS - p.dim, 0.0f);
    const double largest = is_squared ? square_prototypes(p, h, f.centre, saved.inverse_prototype, wide) : 0;
    const std::int64_t slices = ceil_div(f.chunks, f.slice_chunks);
    const auto smooth = [&](std::int64_t i, ForwardScratch& s, const Workspace& workspace) {
        const Slice slice{i * f.slice_chunks, smaller(f.chunks, (i + 1) * f.slice_chunks)};
        smooth_slice(p, h, f, slice, saved.inverse_prototype, s, workspace, attraction);
    };
#pragma omp parallel num_threads(f.threads) if (f.threads > 1)
    {
        const int thread = omp_get_thread_num();
        ForwardScratch& s = f.scratch[thread];
        if (f.own_slices) {
#pragma omp for schedule(static)
            for (std::int64_t i = 0; i < slices; ++i) smooth(i, s, f.workspace[thread]);
        } else {
            for (std::int64_t i = 0; i < slices; ++i) smooth(i, s, f.workspace[0]);
        }
    }
    for (std::int64_t i = 0; i < p.batch; ++i) {
        saved.z_dot_attraction[i] = 0;
        for (int thread = 0; thread < f.sums(); ++thread) saved.z_dot_attraction[i] += f.scratch[thread].along[i];
    }
    fill(attraction + f.samples.groups * p.dim, (attraction_rows - f.samples.groups) * p.dim, 0.0f);

    bool finite = true;
    for (std::int64_t k = 0; k < p.num_prototypes; ++k) {
        finite &= saved.inverse_prototype[k] == saved.inverse_prototype[k];
    }
    // A bad prototype may lie outside every band, where its weight is 0: 0 * NaN is NaN all the same.
    if (!finite) fill(attraction, attraction_rows * p.dim, __builtin_nanf(""));
    if (is_squared) {
        smooth_at_bmus(h, f.samples, wide, p.threads, columns, at_bmu);
        const std::int64_t count = finish_losses(p, f.samples, saved, f.weight, at_bmu, largest, losses, imprecise);
        for (std::int64_t i = 0; i < p.batch && !finite; ++i) losses[i] = __builtin_nan("");
        if (!finite || count == 0) return true;
        if (count * FEW > p.batch) return false;
        const int threads = useful_threads(count * p.num_prototypes * p.dim, p.threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
        for (std::int64_t i = 0; i < count; ++i) losses[imprecise[i]] = literal_loss(p, h, imprecise[i], bmu[imprecise[i]]);
        return true;
    }
    double total = 0;
    for (std::int64_t g = 0; g < f.samples.groups; ++g) {
        for (std::int64_t s = f.samples.start[g]; s < f.samples.start[g + 1]; ++s) {
            const std::int64_t i = f.samples.order[s];
            total += f.weight[g] - saved.z_dot_attraction[i] * saved.inverse_z[i];
        }
    }
    if (is_in_fp64) total = loss_of_few(p, h, f.samples, saved, f.weight, wide, columns, at_bmu);
    if (total < 0 && !has_negative_weights(h)) total = 0;  // by roundings, on a collapsed map
    *loss = static_cast<float>(scale * (finite ? total : __builtin_nan("")));
    return true;
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

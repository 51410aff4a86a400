// The functions of the module: which kernels run in which order, and where in the workspace their results lie.
#include "launch.h"
#include "steps.h"

namespace vitsom::cuda {
namespace {

// Hands out a piece of memory in turn; without memory it only counts.
class Arena {
public:
    explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}

    template <class T>
    T* take(std::int64_t count) {
        char* piece = memory_ ? memory_ + used_ : nullptr;
        used_ += (static_cast<std::size_t>(count) * sizeof(T) + 255) / 256 * 256;
        return reinterpret_cast<T*>(piece);
    }

    std::size_t used() const { return used_; }

private:
    char* memory_;
    std::size_t used_ = 0;
};

Features take_features(Arena& arena, std::int64_t rows, std::int64_t dim) {
    const std::int64_t pitch = ceil_div(dim, 4) * 4;
    return {arena.take<float>(rows * pitch), pitch, pitch, true};
}

Packed take_packed(Arena& arena, const Problem& p, std::int64_t rows) {
    Packed packed{};
    packed.planes = p.z.dtype == DType::float32 ? 2 : 1;
    packed.pitch = ceil_div(p.dim * packed.planes, PACKED_STEP) * PACKED_STEP;
    packed.halves = arena.take<__half>(rows * packed.pitch);
    packed.inverse = arena.take<float>(rows);
    packed.packed_inverse = arena.take<float>(rows);
    return packed;
}

struct SearchPieces {
    Packed z, prototypes;
    Best* best;

    SearchPieces(Arena& arena, const Problem& p)
        : z(take_packed(arena, p, p.batch)),
          prototypes(take_packed(arena, p, p.num_prototypes)),
          best(arena.take<Best>(p.batch)) {}
};

struct ForwardPieces : SearchPieces {
    Features centre, smoothed, combined;
    double *factor_sums, *losses;
    int* next;

    ForwardPieces(Arena& arena, const Problem& p, const Neighborhood& h)
        : SearchPieces(arena, p),
          centre(take_features(arena, 1, p.dim)),
          smoothed(take_features(arena, p.num_prototypes, p.dim)),
          combined(take_features(arena, p.batch, p.dim)),
          factor_sums(arena.take<double>(h.terms * (h.rows + h.cols))),
          losses(arena.take<double>(p.batch)),
          next(arena.take<int>(p.num_prototypes)) {
        prototypes.inverse_rest = arena.take<float>(p.num_prototypes);
    }
};

struct BackwardPieces {
    Features sums, spread, pull;

    BackwardPieces(Arena& arena, const Problem& p)
        : sums(take_features(arena, p.batch, p.dim)),
          spread(take_features(arena, p.num_prototypes, p.dim)),
          pull(take_features(arena, p.num_prototypes, p.dim)) {}
};

// The samples sorted by their BMU, of which `words` are 4 * batch + 2 * cols + 1.
Groups make_groups(int* words, std::int64_t batch, std::int64_t cols) {
    Groups groups{};
    for (int** piece : {&groups.order, &groups.group_row, &groups.group_start, &groups.group_size}) {
        *piece = words;
        words += batch;
    }
    groups.column_groups = words;
    groups.column_start = words + cols;
    return groups;
}

// Units on a grid of their own, about as wide as it is high, whatever map they are of: a block sorts a column, and every block looks
// at all samples.
struct SumPieces {
    std::int64_t rows, cols = 1;
    Groups groups;
    int* next;

    SumPieces(Arena& arena, std::int64_t batch, std::int64_t num_prototypes) {
        while (cols * cols < num_prototypes) ++cols;
        rows = ceil_div(num_prototypes, cols);
        groups = make_groups(arena.take<int>(4 * batch + 2 * cols + 1), batch, cols);
        next = arena.take<int>(rows * cols);
    }
};

// What a forward pass keeps: LIFT / max(|z|, eps) and the samples sorted by BMU.
struct Context {
    float* inverse;  // [batch]
    Groups groups;

    Context(void* memory, std::int64_t batch, std::int64_t cols) {
        inverse = static_cast<float*>(memory);
        groups = make_groups(reinterpret_cast<int*>(inverse + batch), batch, cols);
    }
};

Rows<const float> as_input(const Features& x) { return {x.data, x.stride, x.dim, x.aligned}; }

void run_search(const Problem& p, const SearchPieces& s, cudaStream_t stream) {
    pack(p.z, p.batch, p.dim, s.z, s.best, stream);
    pack(p.prototypes, p.num_prototypes, p.dim, s.prototypes, nullptr, stream);
    search(s.z, s.prototypes, p.batch, p.num_prototypes, s.best, stream);
}

template <class Sum>
void sum_for_units(
    const Execution& on, const Matrix& x, std::int64_t batch, std::int64_t dim, const std::int64_t* bmu,
    std::int64_t num_prototypes, const Sums<Sum>& sums) {
    const DeviceGuard guard(on.device);
    const auto stream = static_cast<cudaStream_t>(on.stream);
    Arena arena(on.workspace);
    const SumPieces pieces(arena, batch, num_prototypes);
    group(bmu, batch, pieces.rows, pieces.cols, pieces.groups, pieces.next, stream);
    sum_units(x, dim, pieces.groups, num_prototypes, pieces.cols, sums, stream);
}

}  // namespace

std::size_t find_bmu_workspace(const Problem& p) {
    Arena arena(nullptr);
    SearchPieces(arena, p);
    return arena.used();
}

std::size_t som_forward_workspace(const Problem& p, const Neighborhood& h) {
    Arena arena(nullptr);
    ForwardPieces(arena, p, h);
    return arena.used();
}

std::size_t som_backward_workspace(const Problem& p) {
    Arena arena(nullptr);
    BackwardPieces(arena, p);
    return arena.used();
}

void find_bmu(const Execution& on, const Problem& p, std::int64_t* bmu, float* distance) {
    const DeviceGuard guard(on.device);
    const auto stream = static_cast<cudaStream_t>(on.stream);
    Arena arena(on.workspace);
    const SearchPieces pieces(arena, p);
    run_search(p, pieces, stream);
    decode(pieces.best, pieces.z, p.batch, bmu, distance, stream);
}

void som_forward(
    const Execution& on, const Problem& p, const Neighborhood& h, double scale, float* loss, std::int64_t* bmu,
    float* attraction, void* context) {
    const DeviceGuard guard(on.device);
    const auto stream = static_cast<cudaStream_t>(on.stream);
    Arena arena(on.workspace);
    ForwardPieces pieces(arena, p, h);
    const Context kept(context, p.batch, h.cols);
    pieces.z.inverse = kept.inverse;
    run_search(p, pieces, stream);
    decode(pieces.best, pieces.z, p.batch, bmu, nullptr, stream);
    group(bmu, p.batch, h.rows, h.cols, kept.groups, pieces.next, stream);
    survey(p, h, pieces.prototypes.inverse, pieces.factor_sums, pieces.centre, stream);
    for (std::int64_t term = 0; term < h.terms; ++term) {
        smooth_prototypes(p, h, term, pieces.prototypes, pieces.centre, pieces.smoothed, stream);
        combine_rows(p, h, term, pieces.smoothed, kept.groups, pieces.combined, stream);
    }
    attract(
        p, h, bmu, kept.groups, pieces.factor_sums, pieces.centre, pieces.combined, pieces.prototypes.inverse, scale,
        attraction, pieces.losses, loss, stream);
}

void som_backward(
    const Execution& on, const Problem& p, const Neighborhood& h, double scale, const float* grad_loss, const float* attraction,
    const void* context, void* grad_z, void* grad_prototypes) {
    const DeviceGuard guard(on.device);
    const auto stream = static_cast<cudaStream_t>(on.stream);
    Arena arena(on.workspace);
    if (grad_z) project(p.z, p.batch, p.dim, make_rows(attraction, p.dim, p.dim), scale, grad_loss, grad_z, stream);
    if (!grad_prototypes) return;
    const BackwardPieces pieces(arena, p);
    const Context kept(const_cast<void*>(context), p.batch, h.cols);
    sum_samples(p, kept.groups, kept.inverse, pieces.sums, stream);
    for (std::int64_t term = 0; term < h.terms; ++term) {
        spread_rows(p, h, term, pieces.sums, kept.groups, pieces.spread, stream);
        smooth_along(Axis::cols, h, term, true, as_input(pieces.spread), pieces.pull, term == 0, stream);
    }
    project(p.prototypes, p.num_prototypes, p.dim, as_input(pieces.pull), scale, grad_loss, grad_prototypes, stream);
}

std::size_t sums_workspace(std::int64_t batch, std::int64_t num_prototypes) {
    Arena arena(nullptr);
    SumPieces(arena, batch, num_prototypes);
    return arena.used();
}

void sum_by_bmu(
    const Execution& on, const Matrix& x, std::int64_t batch, std::int64_t dim, const std::int64_t* bmu,
    std::int64_t num_prototypes, float* sums, float* counts) {
    sum_for_units(on, x, batch, dim, bmu, num_prototypes, Sums<float>{sums, dim, counts, 1});
}

void add_by_bmu(
    const Execution& on, const Matrix& x, std::int64_t batch, std::int64_t dim, const std::int64_t* bmu,
    std::int64_t num_prototypes, double* sums) {
    sum_for_units(on, x, batch, dim, bmu, num_prototypes, Sums<double>{sums, dim + 1, sums + dim, dim + 1});
}

std::size_t smooth_workspace(const Neighborhood& h, std::int64_t dim) {
    Arena arena(nullptr);
    take_features(arena, h.rows * h.cols, dim);
    return arena.used();
}

void smooth(const Execution& on, const Neighborhood& h, bool transposed, const Matrix& x, std::int64_t dim, float* smoothed) {
    const DeviceGuard guard(on.device);
    const auto stream = static_cast<cudaStream_t>(on.stream);
    Arena arena(on.workspace);
    const Features along_cols = take_features(arena, h.rows * h.cols, dim);
    for (std::int64_t term = 0; term < h.terms; ++term) {
        smooth_along(Axis::cols, h, term, transposed, make_rows<float>(x, dim), along_cols, true, stream);
        smooth_along(
            Axis::rows, h, term, transposed, as_input(along_cols), make_rows(smoothed, dim, dim), term == 0, stream);
    }
}

int driver_version() {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

int runtime_version() { return CUDART_VERSION; }

int lowest_architecture() {
    constexpr int architectures[] = {__CUDA_ARCH_LIST__};  // in ascending order
    return architectures[0] / 10;
}

}  // namespace vitsom::cuda

// vitsom_fast._cpu: the kernels under Python, in plain addresses, so that one build serves every version of torch.
#include <pybind11/pybind11.h>

#include <chrono>
#include <stdexcept>
#include <string>

#include "cpu/module/dispatch.h"
#include "cpu/search/search.h"
#include "cpu/step/saved_for_backward.h"
#include "cpu/step/step.h"

namespace py = pybind11;

namespace {

using vitsom::DType;
using vitsom::Neighborhood;
using vitsom::Problem;
using vitsom::SearchCounts;

const vitsom::Kernels& kernels() {
    static const vitsom::Kernels& selected = vitsom::select_kernels();
    return selected;
}

template <class T>
T* address(std::uintptr_t value) {
    return reinterpret_cast<T*>(value);
}

// Whether Python has an answer to a signal waiting, Ctrl-C above all: it is looked for ten times a second.
class SignalWatch {
public:
    SignalWatch() { last_look = Clock::now(); }  // a short call never waits for the interpreter

    static bool has_seen_one() {
        const auto now = Clock::now();
        if (now - last_look < std::chrono::milliseconds(100)) return false;
        last_look = now;
        py::gil_scoped_acquire locked;
        return PyErr_CheckSignals() != 0;
    }

private:
    using Clock = std::chrono::steady_clock;
    static inline thread_local Clock::time_point last_look;
};

// Calls a kernel without the interpreter's lock; what it was interrupted for is raised.
template <class Call>
auto run(const Call& call) {
    try {
        const SignalWatch watch;
        py::gil_scoped_release unlocked;
        return call();
    } catch (const vitsom::Interrupted&) {
        throw py::error_already_set();
    }
}

Problem problem(
    std::uintptr_t z, std::int64_t z_stride, std::uintptr_t prototypes, std::int64_t prototype_stride, int dtype,
    std::int64_t batch, std::int64_t num_prototypes, std::int64_t dim, int threads,
    std::int64_t map_rows, std::int64_t map_cols, bool is_squared) {
#if !defined(_OPENMP)
    threads = 1;
#endif
    const auto type = static_cast<DType>(dtype);
    const auto distance = is_squared ? vitsom::Distance::squared_euclidean : vitsom::Distance::cosine;
    return {{address<void>(z), z_stride, type}, {address<void>(prototypes), prototype_stride, type}, batch, num_prototypes, dim,
            map_rows, map_cols, threads, vitsom::select_pruning(), SignalWatch::has_seen_one, distance};
}

Neighborhood neighborhood(
    std::int64_t rows, std::int64_t cols, std::int64_t terms, std::uintptr_t row_factors, std::uintptr_t col_factors) {
    return {rows, cols, terms, address<const float>(row_factors), address<const float>(col_factors)};
}

void check_units(const std::int64_t* bmu, std::int64_t batch, std::int64_t num_prototypes) {
    for (std::int64_t i = 0; i < batch; ++i) {
        if (bmu[i] >= 0 && bmu[i] < num_prototypes) continue;
        throw std::invalid_argument(
            "bmu[" + std::to_string(i) + "] must be an index of one of " + std::to_string(num_prototypes) +
            " prototypes, got " + std::to_string(bmu[i]));
    }
}

SearchCounts find_bmu(const Problem& p, int wanted, bool rooted, std::uintptr_t bmu, std::uintptr_t distance) {
    return run([&, &k = kernels()] {
        return vitsom::find_bmu(k, p, wanted, rooted, address<std::int64_t>(bmu), address<float>(distance));
    });
}

void som_forward(
    const Problem& p, const Neighborhood& h, double scale, std::uintptr_t loss, std::uintptr_t bmu,
    std::uintptr_t attraction, std::uintptr_t context) {
    run([&, &k = kernels()] {
        vitsom::som_forward(
            k, p, h, scale, address<float>(loss), address<std::int64_t>(bmu), address<float>(attraction), address<double>(context));
    });
}

void som_backward(
    const Problem& p, const Neighborhood& h, double scale, std::uintptr_t bmu, std::uintptr_t attraction,
    std::uintptr_t context, std::uintptr_t grad_z, std::uintptr_t grad_prototypes) {
    const auto* units = address<const std::int64_t>(bmu);
    check_units(units, p.batch, p.num_prototypes);
    run([&, &k = kernels()] {
        vitsom::som_backward(
            k, p, h, scale, units, address<const float>(attraction), address<const double>(context), address<void>(grad_z),
            address<void>(grad_prototypes));
    });
}

void lift(const Problem& p, std::uintptr_t z, std::uintptr_t prototypes, std::int64_t stride) {
    run([&, &k = kernels()] { k.lift(p, address<float>(z), address<float>(prototypes), stride); });
}

// Losses [batch] in fp64; returns whether they are precise.
bool squared_losses(
    const Problem& p, const Neighborhood& h, std::uintptr_t bmu, std::uintptr_t attraction, std::uintptr_t context,
    std::uintptr_t losses) {
    const auto* units = address<const std::int64_t>(bmu);
    check_units(units, p.batch, p.num_prototypes);
    return run([&, &k = kernels()] {
        return vitsom::squared_losses(k, p, h, units, address<float>(attraction), address<double>(context), address<double>(losses));
    });
}

void squared_gradients(
    const Problem& p, const Neighborhood& h, std::uintptr_t bmu, std::uintptr_t attraction, std::uintptr_t context,
    std::uintptr_t shares, std::uintptr_t grad_z, std::uintptr_t grad_prototypes) {
    const auto* units = address<const std::int64_t>(bmu);
    check_units(units, p.batch, p.num_prototypes);
    run([&, &k = kernels()] {
        vitsom::squared_gradients(
            k, p, h, units, address<const float>(attraction), address<const double>(context), address<const double>(shares),
            address<void>(grad_z), address<void>(grad_prototypes));
    });
}

void sum_by_bmu(
    std::uintptr_t x, std::int64_t stride, int dtype, std::int64_t batch, std::int64_t dim, std::uintptr_t bmu,
    std::int64_t num_units, int threads, std::uintptr_t sums, std::uintptr_t counts) {
    const auto* units = address<const std::int64_t>(bmu);
    check_units(units, batch, num_units);
    run([&, &k = kernels()] {
        const vitsom::Matrix rows{address<void>(x), stride, static_cast<DType>(dtype)};
        k.sum_by_bmu(rows, batch, dim, units, num_units, threads, address<float>(sums), address<float>(counts));
    });
}

void add_by_bmu(
    std::uintptr_t x, std::int64_t stride, int dtype, std::int64_t batch, std::int64_t dim, std::uintptr_t bmu,
    std::int64_t num_units, int threads, std::uintptr_t sums) {
    const auto* units = address<const std::int64_t>(bmu);
    check_units(units, batch, num_units);
    run([&, &k = kernels()] {
        const vitsom::Matrix rows{address<void>(x), stride, static_cast<DType>(dtype)};
        k.add_by_bmu(rows, batch, dim, units, num_units, threads, address<double>(sums));
    });
}

// Returns how many rows are left, and the sum of the distances of all others.
py::tuple add_nearest(
    const Problem& p, std::uintptr_t centre, float unit, bool squared, std::uintptr_t sums, std::uintptr_t left) {
    double distance = 0;
    const auto count = run([&, &k = kernels()] {
        auto* places = address<std::int64_t>(left);
        return k.add_nearest(p, address<const float>(centre), unit, squared, address<double>(sums), &distance, places);
    });
    return py::make_tuple(count, distance);
}

void smooth(std::uintptr_t x, std::int64_t dim, const Neighborhood& h, int threads, std::uintptr_t out) {
    run([&, &k = kernels()] { k.smooth(address<const float>(x), dim, h, threads, address<float>(out)); });
}

vitsom::PairDistance pair_distance(const std::string& name) {
    if (name == "euclidean") return vitsom::PairDistance::euclidean;
    if (name == "manhattan") return vitsom::PairDistance::manhattan;
    throw std::invalid_argument("distance must be one of ('euclidean', 'manhattan'), got '" + name + "'");
}

void pair_losses(
    const Problem& p, const Neighborhood& h, const std::string& distance, std::uintptr_t bmu, std::uintptr_t losses) {
    const auto* units = address<const std::int64_t>(bmu);
    check_units(units, p.batch, p.num_prototypes);
    const auto kind = pair_distance(distance);
    run([&, &k = kernels()] { k.pair_losses(p, h, kind, units, address<double>(losses)); });
}

void pair_gradients(
    const Problem& p, const Neighborhood& h, const std::string& distance, std::uintptr_t grad_losses, std::uintptr_t bmu,
    std::uintptr_t grad_z, std::uintptr_t grad_prototypes) {
    const auto* units = address<const std::int64_t>(bmu);
    check_units(units, p.batch, p.num_prototypes);
    const auto kind = pair_distance(distance);
    run([&, &k = kernels()] {
        k.pair_gradients(
            p, h, kind, address<const double>(grad_losses), units, address<void>(grad_z), address<void>(grad_prototypes));
    });
}

void search_manhattan(const Problem& p, std::uintptr_t bmu, std::uintptr_t distance) {
    run([&, &k = kernels()] { k.search_manhattan(p, address<std::int64_t>(bmu), address<float>(distance)); });
}

py::list instruction_sets() {
    py::list names;
    for (const auto* supported : vitsom::supported_kernels()) names.append(supported->name);
    return names;
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "CPU kernels of vitsom_fast; the caller guarantees addresses, sizes and dtypes.";
    py::class_<Problem>(m, "Problem", py::module_local()).def(py::init(&problem));
    py::class_<Neighborhood>(m, "Neighborhood", py::module_local()).def(py::init(&neighborhood));
    py::class_<SearchCounts>(m, "SearchCounts", py::module_local())
        .def_readonly("pruned", &SearchCounts::pruned)
        .def_readonly("int8", &SearchCounts::int8)
        .def_readonly("bf16", &SearchCounts::bf16)
        .def_readonly("grouped", &SearchCounts::grouped)
        .def_readonly("small", &SearchCounts::small)
        .def_readonly("fp32", &SearchCounts::fp32)
        .def_readonly("narrow", &SearchCounts::narrow)
        .def_readonly("fp64", &SearchCounts::fp64)
        .def_readonly("candidates", &SearchCounts::candidates)
        .def_readonly("tiles", &SearchCounts::tiles);
    m.def("find_bmu", &find_bmu);
    m.def("som_forward", &som_forward);
    m.def("som_backward", &som_backward);
    m.def("lift", &lift);
    m.attr("lifted") = vitsom::LIFTED;
    m.def("squared_losses", &squared_losses);
    m.def("squared_gradients", &squared_gradients);
    m.def("sum_by_bmu", &sum_by_bmu);
    m.def("add_by_bmu", &add_by_bmu);
    m.def("add_nearest", &add_nearest);
    m.def("smooth", &smooth);
    m.def("pair_losses", &pair_losses);
    m.def("pair_gradients", &pair_gradients);
    m.def("search_manhattan", &search_manhattan);
    // Doubles that a forward pass keeps for its backward pass, of each sample and of each prototype.
    m.attr("saved_per_sample") = vitsom::SAVED_PER_SAMPLE;
    m.attr("saved_per_prototype") = vitsom::SAVED_PER_PROTOTYPE;
    m.def("instruction_sets", &instruction_sets, "Instruction sets that this processor can run, the widest first.");
    m.def("selected", [] { return std::string(kernels().name); }, "The instruction set in use.");
}

// The rows of a gradient while they are summed up: in fp64, whatever the number of samples.
//
// WIDTH features of all rows lie together, and those of a tile in one piece: a row after the other, to add to them took a third of
// all time.
#pragma once

#include "cpu/runtime/arena.h"
#include "cpu/simd/packing.h"

namespace vitsom {
namespace VITSOM_ISA {

struct Totals {
    double* data;  // [vectors of a row][rows][WIDTH]; nullptr where there is nothing to sum up
    std::int64_t rows, vectors;

    void take(Arena& arena, std::int64_t count, std::int64_t dim) {
        rows = count;
        vectors = ceil_div(dim, WIDTH);
        data = arena.take<double>(vectors * rows * WIDTH);
    }

    // In a parallel region, by all of its threads, as is `write`.
    void clear() const {
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i < vectors * rows; ++i) std::memset(data + i * WIDTH, 0, WIDTH * sizeof *data);
    }

    // To TILE_COLS features of a row; where NARROW, to WIDTH.
    template <bool NARROW>
    void add(std::int64_t row, std::int64_t feature, Features x) const {
        double* at = data + feature * rows + row * WIDTH;
        add(at, x.low);
        if (!NARROW) add(at + rows * WIDTH, x.high);
    }

    // Each times a factor, row i as row to[i] of `out`; nullptr: as row i.
    void write(DType dtype, double factor, const std::int64_t* to, std::int64_t dim, void* out) const {
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i < rows; ++i) {
            with_dtype(dtype, [&](auto t) {
                auto* row = static_cast<decltype(t)*>(out) + (to ? to[i] : i) * dim;
                for_each_vector(dim, [&](std::int64_t d, auto, auto store) {
                    const double* sum = data + d * rows + i * WIDTH;
                    store(row + d, narrow({load_as<Doubles>(sum) * factor, load_as<Doubles>(sum + WIDTH / 2) * factor}));
                });
            });
        }
    }

private:
    // Halves come back from memory: to take a vector apart costs as much as to convert it.
    static void add(double* at, Vec v) {
        float given[WIDTH];
        store(given, v);
        const DoublePair wide = load_wide(given);
        const Doubles low = load_as<Doubles>(at) + wide.low, high = load_as<Doubles>(at + WIDTH / 2) + wide.high;
        std::memcpy(at, &low, sizeof low);
        std::memcpy(at + WIDTH / 2, &high, sizeof high);
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

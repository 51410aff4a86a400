// Rows sorted by the unit that each is of, as by its BMU.
#pragma once

#include <cstdint>

#include "cpu/runtime/arena.h"

namespace vitsom {
namespace VITSOM_ISA {

// The rows in the order of their units.
struct RowsByUnit {
    std::int64_t* begin;  // [num_units + 1] into order
    std::int64_t* order;  // [batch]

    void take(Arena& arena, std::int64_t batch, std::int64_t num_units) {
        begin = arena.take<std::int64_t>(num_units + 1);
        order = arena.take<std::int64_t>(batch);
    }

    // A counting sort, which keeps the rows of a unit in their order.
    void sort(const std::int64_t* bmu, std::int64_t batch, std::int64_t num_units) {
        for (std::int64_t k = 0; k <= num_units; ++k) begin[k] = 0;
        for (std::int64_t i = 0; i < batch; ++i) ++begin[bmu[i] + 1];
        for (std::int64_t k = 0; k < num_units; ++k) begin[k + 1] += begin[k];
        for (std::int64_t i = batch - 1; i >= 0; --i) order[--begin[bmu[i] + 1]] = i;
        for (std::int64_t k = 0; k < num_units; ++k) begin[k] = begin[k + 1];
        begin[num_units] = batch;
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

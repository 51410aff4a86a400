// The samples sorted by their BMU, column by column of the grid: what is done for one BMU is done once for all its samples.
#pragma once

#include <cstdint>

#include "cpu/runtime/arena.h"
#include "cpu/simd/integers.h"

namespace vitsom {
namespace VITSOM_ISA {

struct BmuGroups {
    std::int64_t* order;   // [batch] sample indices by (column, row, index)
    std::int64_t groups;   // distinct BMUs
    std::int64_t* row;     // [groups] grid row of each
    std::int64_t* col;     // [groups] and its grid column
    std::int64_t* start;   // [groups + 1] into order
    std::int64_t* column;  // [cols + 1] into row and start
    std::int64_t full_count;
    std::int64_t* full;    // [full_count] columns that hold a BMU
    std::int64_t* full_index;  // [cols] of each among these, or -1
    std::int64_t* next;    // [num_prototypes + 1] scratch

    std::int64_t bmus_of(std::int64_t c) const { return column[c + 1] - column[c]; }

    static void take(Arena& arena, BmuGroups& s, std::int64_t batch, std::int64_t rows, std::int64_t cols) {
        const std::int64_t most = smaller(batch, rows * cols);
        s.order = arena.take<std::int64_t>(batch);
        s.row = arena.take<std::int64_t>(most);
        s.col = arena.take<std::int64_t>(most);
        s.start = arena.take<std::int64_t>(most + 1);
        s.column = arena.take<std::int64_t>(cols + 1);
        s.full = arena.take<std::int64_t>(cols);
        s.full_index = arena.take<std::int64_t>(cols);
        s.next = arena.take<std::int64_t>(rows * cols + 1);
    }

    // A counting sort, which keeps the samples of a BMU in their order: sums over them never change from run to run.
    void sort(const std::int64_t* bmu, std::int64_t batch, std::int64_t rows, std::int64_t cols) {
        const auto key = [=](std::int64_t i) { return bmu[i] % cols * rows + bmu[i] / cols; };
        for (std::int64_t k = 0; k <= rows * cols; ++k) next[k] = 0;
        for (std::int64_t i = 0; i < batch; ++i) ++next[key(i) + 1];
        std::int64_t position = 0;
        groups = full_count = 0;
        for (std::int64_t c = 0; c < cols; ++c) {
            column[c] = groups;
            for (std::int64_t r = 0; r < rows; ++r) {
                const std::int64_t count = next[c * rows + r + 1];
                if (count > 0) {
                    row[groups] = r;
                    col[groups] = c;
                    start[groups++] = position;
                }
                next[c * rows + r] = position;
                position += count;
            }
            full_index[c] = column[c] < groups ? full_count : -1;
            if (column[c] < groups) full[full_count++] = c;
        }
        column[cols] = groups;
        start[groups] = position;
        for (std::int64_t i = 0; i < batch; ++i) order[next[key(i)]++] = i;
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

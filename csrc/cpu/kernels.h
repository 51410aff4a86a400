// What one instruction set's build of the kernels offers, in plain pointers and sizes.
//
// z is (batch, dim) and the prototypes (rows * cols, dim), both of one dtype, each row contiguous. All offsets are 64-bit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vitsom {

enum class DType : int { float32 = 0, bfloat16 = 1, float16 = 2 };

struct Matrix {
    const void* data;
    std::int64_t stride;  // elements from one row to the next; may be 0 (an expanded row)
    DType dtype;
};

// Whether the search is to rule out tiles of the map; automatic: where that looks faster.
enum class Pruning { automatic, always, never };

struct Problem {
    Matrix z;           // [batch, dim]
    Matrix prototypes;  // [num_prototypes, dim]
    std::int64_t batch, num_prototypes, dim;
    int threads;  // at most this many
    Pruning pruning;
    bool (*interrupted)();  // whether to give up, with an Interrupted; only the thread that called asks
};

struct Interrupted {};

// h[(r, c), (s, d)] = sum over t of row_factors[t, r, s] * col_factors[t, c, d]; unit k = r * cols + c
struct Neighborhood {
    std::int64_t rows, cols, terms;
    const float* row_factors;  // [terms, rows, rows]
    const float* col_factors;  // [terms, cols, cols]
};

// How a search went: the samples that each pass decided, the prototypes that had to be scored anew for them, and the tiles of
// prototypes that the first pass, which rules out the rest, had to look into.
struct SearchCounts {
    std::int64_t pruned, int8, bf16, fp32, fp64, candidates, tiles;
};

struct Kernels {
    const char* name;

    SearchCounts (*find_bmu)(const Problem&, std::int64_t* bmu, float* distance);  // [batch], [batch]

    // loss = scale * sum over i of (n_b - z^_i . S_b); attraction [min(batch, num_prototypes), dim] is S_b of each distinct BMU,
    // column by column of the grid, then zeros; context [2 * batch + num_prototypes] doubles is for the backward pass alone.
    void (*som_forward)(
        const Problem&, const Neighborhood&, double scale, float* loss, std::int64_t* bmu, float* attraction, float* context);

    // Gradients in the dtype of the problem, each row contiguous; nullptr for one that is not wanted.
    void (*som_backward)(
        const Problem&, const Neighborhood&, double scale, const std::int64_t* bmu, const float* attraction, float* context,
        void* grad_z, void* grad_prototypes);
};

// One a build; which of them this processor can run is for the dispatcher to say.
const Kernels* kernels_avx512bf16();
const Kernels* kernels_avx512vnni();
const Kernels* kernels_avx512();
const Kernels* kernels_avx2();
const Kernels* kernels_baseline();

struct Memory {
    void* data;
    std::size_t size;
};

// At least so many bytes, 64-byte aligned, with whatever they last held; throws std::bad_alloc.
Memory allocate(std::size_t bytes);
void release(Memory memory);

// Asks for large pages under memory that is about to be written. The first touch of fresh memory costs 1.6 us for 4 KB, 51 ms for
// 128 MB; in pages of 2 MB, 10 ms.
void use_huge_pages(void* memory, std::size_t bytes);

}  // namespace vitsom

// The kernels for one instruction set; compiled once for each, with VITSOM_ISA naming it.
//
// Everything here lives in a namespace of that name: an inline function shared between the builds could be taken from the wider
// one by the linker, and fault on a processor that has only the narrower. For the same reason nothing of the standard library
// with code of its own is used.
#include "backward.h"
#include "forward.h"
#include "kernels.h"
#include "search.h"

namespace vitsom {
namespace VITSOM_ISA {
namespace {

SearchCounts find_bmu(const Problem& p, std::int64_t* bmu, float* distance) {
    Search found{bmu, nullptr, nullptr, nullptr};
    Arena arena;
    lay_out(arena, [&](Arena& a) {
        found.inverse_z = a.take<double>(p.batch);
        found.inverse_prototype = a.take<double>(p.num_prototypes);
        found.score = a.take<double>(p.batch);
    });
    const SearchCounts counts = search(p, found);
    for (std::int64_t i = 0; i < p.batch; ++i) {
        // Of rows that are the same, or opposite, roundings leave 1e-16 below 0, or above 2.
        const double d = 1 - found.score[i];
        distance[i] = !(d <= 3) ? __builtin_nanf("") : d < 0 ? 0 : d > 2 ? 2 : static_cast<float>(d);
    }
    return counts;
}

#define VITSOM_STRING_OF(x) #x
#define VITSOM_STRING(x) VITSOM_STRING_OF(x)
#define VITSOM_JOIN_OF(a, b) a##b
#define VITSOM_JOIN(a, b) VITSOM_JOIN_OF(a, b)

constexpr Kernels table{VITSOM_STRING(VITSOM_ISA), find_bmu, som_forward, som_backward};

}  // namespace
}  // namespace VITSOM_ISA

const Kernels* VITSOM_JOIN(kernels_, VITSOM_ISA)() { return &VITSOM_ISA::table; }

}  // namespace vitsom

#include "cpu/search/quantized/search_coded.h"

namespace vitsom {
namespace VITSOM_ISA {

std::int64_t search_bf16(
    const Problem& p, std::int64_t* rows, std::int64_t batch, const SearchOutput& output, SearchCounts& counts) {
    return search_coded<BFloat16>(p, rows, batch, output, counts);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

// An order of visits whose first ones are a fair sample, whatever is organised.
#pragma once

#include <cstdint>

namespace vitsom {
namespace VITSOM_ISA {

// Steps of a golden section of the map never dwell in one part of it: the best score of the first prototypes is close to that of
// all, and rules out most of what comes after.
struct Order {
    std::int64_t step, size;

    explicit Order(std::int64_t size) : step(static_cast<std::int64_t>(0.6180339887 * static_cast<double>(size))), size(size) {
        while (greatest_common_divisor(++step, size) != 1) continue;
    }
    std::int64_t operator()(std::int64_t position) const { return position * step % size; }

private:
    static std::int64_t greatest_common_divisor(std::int64_t a, std::int64_t b) {
        return b == 0 ? a : greatest_common_divisor(b, a % b);
    }
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

// The distances that do not factorise, as loops over pairs take them: what the difference in a feature adds to a sum, the distance
// that the sum is, and how it changes with the difference.
#pragma once

#include "cpu/problem.h"
#include "cpu/simd/lanes.h"

namespace vitsom {
namespace VITSOM_ISA {

constexpr std::uint32_t SIGN = 0x80000000u;

inline Vec magnitude(Vec v) { return as_floats(as_bits(v) & ~SIGN); }

struct Euclidean {
    static constexpr bool PULLS_BY_DISTANCE = true;
    static Vec add(Vec sum, Vec difference) { return sum + difference * difference; }
    static Vec distance(Vec sum) { return square_root(sum); }
    // Of a pair whose weight is h; without a distance it pulls nowhere.
    static Vec strength(Vec h, Vec sum) { return sum > Vec{} ? h / square_root(sum) : Vec{}; }
    static Vec pull(float strength, Vec difference) { return strength * difference; }
};

struct Manhattan {
    static constexpr bool PULLS_BY_DISTANCE = false;
    static Vec add(Vec sum, Vec difference) { return sum + magnitude(difference); }
    static Vec distance(Vec sum) { return sum; }
    static Vec strength(Vec h, Vec) { return h; }
    static Vec pull(float strength, Vec difference) {  // 0 in a feature that is the same
        std::uint32_t bits;
        std::memcpy(&bits, &strength, sizeof bits);
        return difference != Vec{} ? as_floats(bits ^ (as_bits(difference) & SIGN)) : Vec{};
    }
};

// Calls `body` with a distance of the type that is asked for.
template <class Body>
void with_distance(PairDistance distance, const Body& body) {
    if (distance == PairDistance::euclidean) body(Euclidean{});
    else body(Manhattan{});
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

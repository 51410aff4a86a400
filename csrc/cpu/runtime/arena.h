// One allocation a call, handed out piece by piece.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/runtime/allocation.h"

namespace vitsom {
namespace VITSOM_ISA {

// Asks twice: a first pass with no memory behind it adds up the sizes, a second hands out the addresses.
class Arena {
public:
    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() { release(memory_); }

    template <class T>
    T* take(std::int64_t count) {
        char* piece = memory_.data ? static_cast<char*>(memory_.data) + used_ : nullptr;
        used_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
        return reinterpret_cast<T*>(piece);
    }

    void allocate_taken() {
        // A name of its own: GCC takes what is assigned from a call for overwritten, and where the call throws, the destructor
        // would release what was on the stack.
        const Memory taken = allocate(used_);
        memory_ = taken;
        used_ = 0;
    }

private:
    Memory memory_{};
    std::size_t used_ = 0;
};

// Takes all pieces of a workspace: `layout(arena)` names each piece once and is run for the sizes, then for the addresses.
template <class Layout>
void lay_out(Arena& arena, const Layout& layout) {
    layout(arena);
    arena.allocate_taken();
    layout(arena);
}

}  // namespace VITSOM_ISA
}  // namespace vitsom

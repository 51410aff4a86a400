#include "cpu/runtime/allocation.h"

#include <cstdint>
#include <mutex>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace vitsom {
namespace {

// Below this, the C library hands out memory that has been touched before.
constexpr std::size_t LARGE = 4 << 20;

// One block of up to this size outlives the call that it was made for: the passes of a step take turns with it.
constexpr std::size_t LARGEST_KEPT = 128 << 20;

constexpr std::size_t HUGE_PAGE = 2 << 20;

std::mutex kept_lock;
Memory kept{};

std::align_val_t alignment(std::size_t bytes) { return std::align_val_t{bytes >= LARGE ? HUGE_PAGE : 64}; }

void free_block(Memory memory) {
    if (memory.data) ::operator delete(memory.data, alignment(memory.size));
}

}  // namespace

Memory allocate(std::size_t bytes) {
    if (bytes >= LARGE) {
        const std::lock_guard<std::mutex> locked(kept_lock);
        if (kept.size >= bytes) return std::exchange(kept, Memory{});
    }
    void* data = ::operator new(bytes ? bytes : 1, alignment(bytes));
    use_huge_pages(data, bytes);
    return {data, bytes};
}

void release(Memory memory) {
    if (memory.size >= LARGE && memory.size <= LARGEST_KEPT) {
        const std::lock_guard<std::mutex> locked(kept_lock);
        if (memory.size > kept.size) std::swap(memory, kept);
    }
    free_block(memory);
}

void use_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (!memory || bytes < LARGE) return;
    const auto begin = (reinterpret_cast<std::uintptr_t>(memory) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    const auto end = (reinterpret_cast<std::uintptr_t>(memory) + bytes) / HUGE_PAGE * HUGE_PAGE;
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace vitsom

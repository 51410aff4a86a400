#include "kernels.h"

#include <cstdint>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace vitsom {
namespace {

// Below this, glibc hands out memory of the heap that has been touched before.
constexpr std::size_t LARGE = 4 << 20;

constexpr std::size_t HUGE_PAGE = 2 << 20;

std::size_t alignment(std::size_t bytes) { return bytes >= LARGE ? HUGE_PAGE : 64; }

}  // namespace

void* allocate(std::size_t bytes) {
    void* memory = ::operator new(bytes ? bytes : 1, std::align_val_t{alignment(bytes)});
    use_huge_pages(memory, bytes);
    return memory;
}

void release(void* memory, std::size_t bytes) {
    if (memory) ::operator delete(memory, std::align_val_t{alignment(bytes)});
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

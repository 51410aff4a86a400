// A long search ends when its caller wants it to, as by Ctrl-C.
#pragma once

#include "cpu/problem.h"
#include "cpu/runtime/threads.h"

namespace vitsom {
namespace VITSOM_ISA {

// Shared by the threads of a region: the one that called asks, all learn the answer, and what is left is left undone.
class Interruption {
public:
    explicit Interruption(const Problem& p) : wanted_(p.interrupted) {}

    // To be called every few milliseconds of work.
    bool is_wanted() {
        if (wanted_ && omp_get_thread_num() == 0 && wanted_()) __atomic_store_n(&is_set_, true, __ATOMIC_RELAXED);
        return has_come();
    }

    bool has_come() const { return __atomic_load_n(&is_set_, __ATOMIC_RELAXED); }

    // After the region.
    void end_here() const {
        if (has_come()) throw Interrupted{};
    }

private:
    bool (*wanted_)();
    bool is_set_ = false;
};

}  // namespace VITSOM_ISA
}  // namespace vitsom

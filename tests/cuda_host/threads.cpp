// The threads of a block as fibers, on one thread of the host.
#include <link.h>
#include <sys/mman.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"

#if !defined(__x86_64__)
#error "the switch between fibers is written for x86-64"
#endif

// Saves what a function must preserve on the stack in use, and goes on where another stack was left.
extern "C" void vitsom_switch_stack(void** left, void* entered);
asm(R"(
    .text
    .hidden vitsom_switch_stack
    .globl vitsom_switch_stack
    .type vitsom_switch_stack, @function
vitsom_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size vitsom_switch_stack, . - vitsom_switch_stack
)");

namespace host {
namespace {

constexpr std::size_t STACK = 64 << 10;
constexpr unsigned WARP = 32;

enum class State { ready, at_block_barrier, in_warp_operation, finished };

struct Fiber {
    void* stack = nullptr;  // where it was left
    State state = State::finished;
};

// What the lanes that wait for a warp operation brought.
struct Meeting {
    unsigned arrived = 0;
    void* brought[WARP] = {};
};

std::vector<Fiber> fibers;         // of the block that runs
std::size_t current, on_their_way;  // the fiber that runs; those that have neither finished nor come to the block's barrier
std::vector<Meeting> meetings;     // one a warp
void* scheduler;
Run run;
const void* kernel;

char* stacks() {
    constexpr std::size_t most = 1024;
    static char* const memory = static_cast<char*>(
        mmap(nullptr, most * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    return memory;
}

// Until the other fibers have come as far.
void wait(State why) {
    fibers[current].state = why;
    const dim3 me = threadIdx;
    vitsom_switch_stack(&fibers[current].stack, scheduler);
    threadIdx = me;
}

void leave_the_way() {
    if (--on_their_way > 0) return;
    for (Fiber& fiber : fibers) {
        if (fiber.state == State::at_block_barrier) {
            fiber.state = State::ready;
            ++on_their_way;
        }
    }
}

void fiber_main() {
    run(kernel);
    fibers[current].state = State::finished;
    leave_the_way();
    vitsom_switch_stack(&fibers[current].stack, scheduler);
    std::abort();  // a finished fiber is not entered again
}

void start(std::size_t index) {
    void** top = reinterpret_cast<void**>(stacks() + (index + 1) * STACK);
    *--top = nullptr;  // the address that fiber_main would return to
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    fibers[index] = {top, State::ready};
}

// What is in shared memory when a block begins is of no use to it: NaN for whoever reads it as a number, and no index.
[[maybe_unused]] void poison_shared_memory() {
    struct Memory {
        char* begin = nullptr;
        std::size_t size = 0;
    };
    static const Memory memory = [] {
        static thread_local char touched;  // a module's thread-local memory is allotted when it is first used
        touched = 1;
        Memory found;
        dl_iterate_phdr(
            [](dl_phdr_info* module, std::size_t, void* found) {
                auto* begin = static_cast<char*>(module->dlpi_tls_data);
                for (int i = 0; i < module->dlpi_phnum; ++i) {
                    const auto& segment = module->dlpi_phdr[i];
                    if (segment.p_type != PT_TLS || !begin) continue;
                    if (&touched >= begin && &touched < begin + segment.p_memsz) {
                        *static_cast<Memory*>(found) = {begin, segment.p_memsz};
                    }
                }
                return 0;
            },
            &found);
        if (!found.begin) throw std::runtime_error("shared memory was not found");
        return found;
    }();
    std::memset(memory.begin, 0xff, memory.size);
}

// Threads and blocks run in ascending order in one launch and in descending order in the next, or as VITSOM_THREAD_ORDER says.
bool is_descending() {
    static unsigned launches = 0;
    const char* order = std::getenv("VITSOM_THREAD_ORDER");
    if (!order) return ++launches % 2 == 0;
    return std::string(order) == "descending";
}

// Each lane up to where it has to wait; whether any could move. A warp runs ahead of the others as far as barriers let it.
bool run_warp(std::size_t warp, bool descending) {
    bool has_moved = false;
    for (unsigned i = 0; i < WARP; ++i) {
        current = warp * WARP + (descending ? WARP - 1 - i : i);
        if (current >= fibers.size() || fibers[current].state != State::ready) continue;
        has_moved = true;
        threadIdx = dim3(static_cast<unsigned>(current), 0, 0);
        vitsom_switch_stack(&scheduler, fibers[current].stack);
    }
    return has_moved;
}

void run_block(bool descending) {
#if !defined(__SANITIZE_ADDRESS__)
    poison_shared_memory();
#endif
    const std::size_t count = fibers.size();
    for (std::size_t i = 0; i < count; ++i) start(i);
    on_their_way = count;
    for (bool has_moved = true; has_moved;) {
        has_moved = false;
        for (std::size_t w = 0; w < meetings.size(); ++w) {
            while (run_warp(descending ? meetings.size() - 1 - w : w, descending)) has_moved = true;
        }
    }
    for (const Fiber& fiber : fibers) {
        if (fiber.state != State::finished) throw std::runtime_error("threads wait at different barriers");
    }
}

}  // namespace

void run_grid(unsigned blocks, unsigned threads, Run run_kernel, const void* argument) {
    const bool descending = is_descending();
    run = run_kernel;
    kernel = argument;
    gridDim = dim3(blocks);
    blockDim = dim3(threads);
    fibers.assign(threads, Fiber{});
    meetings.assign((threads + WARP - 1) / WARP, Meeting{});
    for (unsigned block = 0; block < blocks; ++block) {
        blockIdx = dim3(descending ? blocks - 1 - block : block, 0, 0);
        run_block(descending);
    }
}

void block_barrier() {
    fibers[current].state = State::at_block_barrier;
    leave_the_way();
    if (fibers[current].state == State::at_block_barrier) wait(State::at_block_barrier);
}

void warp_operation(unsigned mask, void* brought, Act act) {
    Meeting& meeting = meetings[current / WARP];
    meeting.arrived |= 1u << current % WARP;
    meeting.brought[current % WARP] = brought;
    if ((meeting.arrived & mask) != mask) return wait(State::in_warp_operation);
    act(meeting.brought, mask);
    meeting.arrived &= ~mask;
    for (unsigned lane = 0; lane < WARP; ++lane) {
        if (mask >> lane & 1) fibers[current / WARP * WARP + lane].state = State::ready;
    }
}

}  // namespace host

"""Clocks: CUDA events on a GPU, the host's clock in a dry run; and the rates of a GPU that others are held to."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.gpu.roofline import Gpu

Run = Callable[[], tuple[Tensor, ...]]

_FLUSH = 256 << 20  # bytes: several times the 50 MB of an H100's L2
_CYCLES_PER_SECOND = 2e9  # of the fastest clock; at a slower one the wait is longer, which does no harm
_LONGEST_WAIT = 0.02  # seconds


class Clock(Protocol):
    def queueing(self, run: Run) -> float:
        """Seconds for which the host is busy with a run."""

    def seconds(self, run: Run, queueing: float) -> float:
        """One run, by itself; ``queueing`` as above."""

    def synchronize(self) -> None: ...

    def peak_bytes(self, run: Run) -> int | None:
        """Memory at the peak of one run beyond what was there before it and the gradients that it returns."""


class CudaClock:
    """Device time: the L2 flushed, and the GPU kept waiting until the host has queued all launches of the run."""

    def __init__(self, device: torch.device) -> None:
        self._flush = torch.empty(_FLUSH, dtype=torch.int8, device=device)

    def queueing(self, run: Run) -> float:
        self.synchronize()
        start = time.perf_counter()
        result = run()
        elapsed = time.perf_counter() - start
        del result
        return elapsed

    def seconds(self, run: Run, queueing: float) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        torch.cuda._sleep(int(min(1.5 * queueing + 1e-4, _LONGEST_WAIT) * _CYCLES_PER_SECOND))
        start.record()
        result = run()
        end.record()
        end.synchronize()
        del result  # freed after the clock has stopped
        return start.elapsed_time(end) / 1e3

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def peak_bytes(self, run: Run) -> int | None:
        self.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = run()
        self.synchronize()
        gradients = sum(x.numel() * x.element_size() for x in result[2:])
        return max(0, torch.cuda.max_memory_allocated() - before - gradients)


class HostClock:
    """For a dry run."""

    def queueing(self, run: Run) -> float:
        return 0.0

    def seconds(self, run: Run, queueing: float) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def synchronize(self) -> None:
        pass

    def peak_bytes(self, run: Run) -> int | None:
        return None


def race(runs: Mapping[str, Run], clock: Clock, budget: float, fewest: int = 3) -> dict[str, list[float]]:
    """Seconds of every round of every run, taken in turns and in an order that is turned round from turn to turn.

    As many rounds as fit into the budget (in seconds), up to 50. Every run is warm: it was checked before.
    """
    queueing = {name: clock.queueing(run) for name, run in runs.items()}
    first = sum(clock.seconds(run, queueing[name]) for name, run in runs.items())
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(max(fewest, min(50, int(budget / first)))):
        for name in list(runs)[::-1] if turn % 2 else runs:
            seconds[name].append(clock.seconds(runs[name], queueing[name]))
    return seconds


def back_to_back(run: Run, clock: Clock, median: float, budget: float, fewest: int = 3) -> float:
    """Seconds of wall time a run, one after another and without a pause: what a loop of such steps takes."""
    count = max(fewest, min(200, int(budget / median)))
    clock.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        run()
    clock.synchronize()
    return (time.perf_counter() - start) / count


def measured_gpu(clock: Clock, device: torch.device) -> Gpu:
    """Rates of this GPU: a bf16 product of 8192 x 8192 x 8192 random numbers, and a copy of 4 GB, read and written."""
    size, count = 8192, 4 << 30
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.empty(count, dtype=torch.int8, device=device).random_()
    target = torch.empty_like(source)
    runs: dict[str, Run] = {
        "matmul": lambda: (torch.mm(a, b, out=product),),
        "copy": lambda: (target.copy_(source),),
    }
    for run in runs.values():
        run()
    median = {name: statistics.median(times) for name, times in race(runs, clock, budget=0.2).items()}
    return Gpu(bandwidth=2 * count / median["copy"], bf16=2 * size**3 / median["matmul"])


def kernel_times(run: Run, clock: Clock, rounds: int = 5) -> dict[str, tuple[float, float]]:
    """Launches and device seconds of every kernel in one run, by its name."""
    clock.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(rounds):
            run()
        clock.synchronize()
    return {
        event.key: (event.count / rounds, event.self_device_time_total / rounds * 1e-6)
        for event in profile.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    }

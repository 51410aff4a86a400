"""Rates of a GPU that others are held to, and the time of each kernel in a run."""

from __future__ import annotations

import statistics

import torch

from benchmarks.gpu.roofline import Gpu
from benchmarks.harness.clock import Clock, Run, race

MOST_ROUNDS = 50  # each flushes the L2 and waits for the host


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
    median = {
        name: statistics.median(times) for name, times in race(runs, clock, budget=0.2, fewest=3, most=MOST_ROUNDS).items()
    }
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

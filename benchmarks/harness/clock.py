"""Clocks, CUDA events on a GPU and the host's elsewhere, and the race: everyone timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

Run = Callable[[], tuple[Tensor, ...]]

_FLUSH = 256 << 20  # bytes: several times the 50 MB of an H100's L2
_CYCLES_PER_SECOND = 2e9  # of the fastest clock; at a slower one the wait is longer, which does no harm
_LONGEST_WAIT = 0.02  # seconds


class Clock(Protocol):
    def queueing(self, run: Callable[[], object]) -> float:
        """Seconds for which the host is busy with a run; 0 where that is all of it."""

    def seconds(self, run: Callable[[], object], queueing: float) -> float:
        """One run, by itself; ``queueing`` as above."""

    def synchronize(self) -> None: ...

    def peak_bytes(self, run: Run) -> int | None:
        """Memory at the peak of one run beyond what was there before it and the gradients that it returns; None where this
        takes a process of its own (``harness/memory.py``)."""


def clock_of(device: torch.device) -> Clock:
    return CudaClock(device) if device.type == "cuda" else HostClock()


class CudaClock:
    """Device time: the L2 flushed, and the GPU kept waiting until the host has queued all launches of the run."""

    def __init__(self, device: torch.device) -> None:
        self._flush = torch.empty(_FLUSH, dtype=torch.int8, device=device)

    def queueing(self, run: Callable[[], object]) -> float:
        self.synchronize()
        return _seconds(run)

    def seconds(self, run: Callable[[], object], queueing: float) -> float:
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
        return max(0, torch.cuda.max_memory_allocated() - before - bytes_of_gradients(result))


class HostClock:
    """Time on the clock of a run that has ended when it returns."""

    def queueing(self, run: Callable[[], object]) -> float:
        return 0.0

    def seconds(self, run: Callable[[], object], queueing: float) -> float:
        return _seconds(run)

    def synchronize(self) -> None:
        pass

    def peak_bytes(self, run: Run) -> int | None:
        return None


class ProcessorClock(HostClock):
    """Time of the processor, of all threads: what others take of it in the meantime is not counted."""

    def seconds(self, run: Callable[[], object], queueing: float) -> float:
        return _seconds(run, time.process_time)


def race(
    runs: Mapping[str, Callable[[], object]],
    clock: Clock,
    budget: float = 10.0,
    fewest: int = 5,
    most: int = 200,
    pause: float = 0.0,
) -> dict[str, list[float]]:
    """Seconds of every round of every run (warm, as it was checked before), taken in turns within one process.

    A machine changes its mind (other users, clock, temperature) within a run: only times taken side by side can be compared.
    Everyone has an equal share of the budget (in seconds) and at most ``most`` rounds; at least ``fewest`` or, if these alone
    would exceed the budget, 3; whoever takes twice the budget runs once. Those with fewer rounds are spread evenly over the
    turns, and the order is turned round from turn to turn. The pause before each (in seconds) is for peers with an OpenMP
    runtime of their own: its threads keep a core busy for a few milliseconds after their work, waiting for more.
    """
    queueing = {name: clock.queueing(run) for name, run in runs.items()}

    def timed(name: str) -> float:
        time.sleep(pause)
        return clock.seconds(runs[name], queueing[name])

    seconds = {name: [timed(name)] for name in runs}
    more = {}  # rounds after this first one
    for name, (first,) in seconds.items():
        least = fewest if fewest * first <= budget else min(3, fewest) if first <= 2 * budget else 1
        more[name] = max(least, int(min(most, budget / len(runs) / first))) - 1
    turns = max(more.values())
    for turn in range(turns):
        for name in reversed(seconds) if turn % 2 == 0 else seconds:
            if (turn + 1) * more[name] // turns > turn * more[name] // turns:
                seconds[name].append(timed(name))
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


def bytes_of_gradients(result: tuple[Tensor, ...]) -> int:
    """Of a step, whose result ends with them; a search has none."""
    return sum(x.numel() * x.element_size() for x in result[2:])


def _seconds(run: Callable[[], object], now: Callable[[], float] = time.perf_counter) -> float:
    start = now()
    result = run()
    elapsed = now() - start
    del result  # freed after the clock has stopped
    return elapsed

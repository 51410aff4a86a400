"""``python -m benchmarks.launching``: what a GPU step costs its host, on any machine, with or without a GPU.

Nothing runs on a device: a stand-in takes every launch of the Triton kernels, compiled or not, and every call of the CUDA
module. What is left is what Python does for a step: checks, autograd, allocations, and the arguments of each launch.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.harness.clock import HostClock, race
from benchmarks.harness.workloads import TINY, WORKLOADS, Workload

ROUNDS, CALLS = 21, 100


class Counter:
    """Takes launches, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *arguments: Any, **options: Any) -> None:
        self.count += 1


def _first_launch(counter: Counter) -> Callable[..., Counter]:
    def launch(*_: Any) -> Counter:
        return counter

    return launch


def _current_stream(device: torch.device) -> int:  # a mock's call would take longer than a launch
    return 0


@contextmanager
def no_device(counter: Counter) -> Iterator[None]:
    """Both GPU backends serve CPU tensors, and do nothing with them."""
    os.environ["TRITON_INTERPRET"] = "1"
    cuda = importlib.import_module("vitsom_fast.backends.cuda")
    plan = importlib.import_module("vitsom_fast.kernels.launch.plan")
    plan.forget()
    module = SimpleNamespace(
        DEVICE_TYPE="cpu",
        Problem=lambda *parts: parts,
        Neighborhood=lambda *parts: parts,
        Execution=lambda *parts: parts,
        find_bmu_workspace=lambda *_: 1 << 20,
        som_forward_workspace=lambda *_: 1 << 20,
        som_backward_workspace=lambda *_: 1 << 20,
        gaussian_weights=counter,
        find_bmu=counter,
        som_forward=counter,
        som_backward=counter,
    )
    with (
        mock.patch.object(cuda, "_cuda", module),
        mock.patch.object(cuda, "_reason", None),
        mock.patch.object(plan, "first_launch", _first_launch(counter)),
        mock.patch.object(plan, "current_stream", _current_stream),
    ):
        try:
            yield
        finally:
            plan.forget()


def passes(workload: Workload, backend: str) -> dict[str, Callable[[], Any]]:
    """What is timed: the operators alone, as ``som_loss`` calls them, and a whole step with its checks and autograd."""
    from vitsom_fast import find_bmu, som_loss
    from vitsom_fast.backends import get
    from vitsom_fast.neighborhoods import neighborhood

    own = get(backend)
    z, prototypes, grid, temperature = workload.inputs()
    factors = neighborhood(grid, temperature)
    one = torch.ones(())
    at_temperature = torch.tensor(temperature)
    detached = z.detach(), prototypes.detach()
    _, bmu, attraction, context = own.som_forward(*detached, *factors, "mean")

    def step() -> tuple[Tensor, ...]:
        loss, _ = som_loss(z, prototypes, grid, at_temperature, backend=backend)
        return torch.autograd.grad(loss, (z, prototypes), one)

    return {
        "forward": lambda: own.som_forward(*detached, *factors, "mean"),
        "backward": lambda: own.som_backward(one, *detached, *factors, bmu, attraction, context, "mean", True, True),
        "search": lambda: find_bmu(*detached, backend=backend),
        "step": step,
    }


def microseconds(runs: dict[str, Callable[[], Any]], rounds: int, calls: int) -> dict[str, float]:
    """Median of the rounds, in turns, a call; a round before them warms up."""

    def calling(run: Callable[[], Any]) -> Callable[[], None]:
        def repeated() -> None:
            for _ in range(calls):
                run()

        return repeated

    every = race({name: calling(run) for name, run in runs.items()}, HostClock(), math.inf, rounds + 1, rounds + 1)
    return {name: 1e6 * statistics.median(times[1:]) / calls for name, times in every.items()}


def table(workload: Workload, rounds: int = ROUNDS, calls: int = CALLS) -> str:
    """One row an operation: launches, microseconds of either backend, and how many times as long Triton's takes."""
    counter = Counter()
    with no_device(counter):
        runs = {(name, backend): run for backend in ("triton", "cuda") for name, run in passes(workload, backend).items()}
        times = microseconds({f"{name} {backend}": run for (name, backend), run in runs.items()}, rounds, calls)
        lines = ["| operation | launches | triton us | us a launch | cuda us | triton / cuda |", "|---|---|---|---|---|---|"]
        for name in ("forward", "backward", "search", "step"):
            before = counter.count
            runs[name, "triton"]()
            launches = counter.count - before
            triton, cuda = times[f"{name} triton"], times[f"{name} cuda"]
            lines.append(f"| {name} | {launches} | {triton:.1f} | {triton / launches:.1f} | {cuda:.1f} | {triton / cuda:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.launching", description=__doc__)
    workloads = {TINY.name: TINY, **WORKLOADS}
    parser.add_argument("--workload", choices=tuple(workloads), default=TINY.name)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--calls", type=int, default=CALLS, help="in each round")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(table(workloads[options.workload], options.rounds, options.calls))
    return 0


if __name__ == "__main__":
    sys.exit(main())

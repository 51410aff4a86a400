"""``python -m benchmarks.studies.neighborhoods``: what the neighborhoods cost beside the Gaussian, and a chain of units.

Two tables: applying the weights of each kind to the prototypes of the workload `large`, on a plane and on a torus, in units of
the Gaussian's time on the plane; and a step on a chain beside the formulas in eager PyTorch. Medians of rounds in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks.harness.clock import HostClock, race
from benchmarks.harness.workloads import TINY, WORKLOADS, Inputs, Workload
from vitsom_fast import Grid, backends, reference, som_loss
from vitsom_fast.backends import Spec
from vitsom_fast.neighborhoods import NEIGHBORHOODS, neighborhood

CHAIN = Workload("chain", 128, 1, 20000, 16, 10.0)


def seconds_of(runs: dict[str, Callable[[], object]], budget: float) -> dict[str, float]:
    """Medians by name."""
    for run in runs.values():
        run()  # warm
    return {name: statistics.median(seconds) for name, seconds in race(runs, HostClock(), budget).items()}


def smoothing(workload: Workload, budget: float) -> str:
    """The rows of the first table."""
    prototypes = workload.inputs().prototypes.detach()
    own = backends.get(backends.resolve("auto", Spec(prototypes.device, prototypes.dtype)))
    runs: dict[str, Callable[[], object]] = {}
    terms: dict[str, int] = {}
    for kind in NEIGHBORHOODS:
        for periodic in (False, True):
            grid = Grid(workload.rows, workload.cols, periodic=periodic)
            factors = neighborhood(grid, workload.temperature, kind)
            runs[f"{kind} {periodic}"] = partial(own.smooth, prototypes, factors.rows, factors.cols)
            terms[kind] = factors.rows.shape[0]
    seconds = seconds_of(runs, budget)
    gaussian = seconds["gaussian False"]
    return "\n".join(
        f"| {kind} | {terms[kind]} | {seconds[f'{kind} False'] / gaussian:.2f} | {seconds[f'{kind} True'] / gaussian:.2f} |"
        for kind in NEIGHBORHOODS
    )


def step(function: Callable[..., tuple[torch.Tensor, torch.Tensor]], inputs: Inputs, kind: str) -> tuple[torch.Tensor, ...]:
    loss, _ = function(*inputs, neighborhood=kind)
    return torch.autograd.grad(loss, (inputs.z, inputs.prototypes))


def chain(workload: Workload, kind: str, budget: float) -> str:
    """A row of the second table."""
    inputs = workload.inputs()
    ways: dict[str, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {"ours": som_loss, "eager": reference.som_loss}
    seconds = seconds_of({name: partial(step, function, inputs, kind) for name, function in ways.items()}, budget)
    return f"| {kind} | {1e3 * seconds['ours']:.0f} ms | {1e3 * seconds['eager']:.0f} ms |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.neighborhoods", description=__doc__)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each comparison (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a small workload for all: whether it runs")
    options = parser.parse_args(arguments)
    print("| neighborhood | terms | plane / Gaussian | torus / Gaussian |\n|---|---|---|---|")
    print(smoothing(TINY if options.tiny else WORKLOADS["large"], options.budget), flush=True)
    print("\n| step on a chain | vitsom_fast | eager |\n|---|---|---|")
    for kind in NEIGHBORHOODS:
        print(chain(TINY if options.tiny else CHAIN, kind, options.budget / 4), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

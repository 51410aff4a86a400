"""``python -m benchmarks.studies.distances``: what each distance costs, beside the cosine and beside eager PyTorch.

Two tables: search and step under the squared Euclidean distance in units of the cosine's, and the step of the distances that do
not factorise beside eager PyTorch with ``torch.cdist``. Medians of rounds in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness.clock import HostClock, race
from benchmarks.harness.workloads import TINY, WORKLOADS, Inputs, Workload
from vitsom_fast import find_bmu, reference, som_loss

# Of the first table; and of the second.
FACTORISED = ("large", "large-organised", "paper-mnist")
PAIRS = Workload("pairs", 1024, 64, 64, 192, 16.0)


def medians(runs: dict[str, Callable[[], object]], budget: float) -> dict[str, float]:
    """Seconds by name."""
    for run in runs.values():
        run()  # warm
    return {name: statistics.median(seconds) for name, seconds in race(runs, HostClock(), budget).items()}


def search(inputs: Inputs, distance: str) -> tuple[Tensor, Tensor]:
    return find_bmu(inputs.z.detach(), inputs.prototypes.detach(), grid=inputs.grid, distance=distance)


def step(inputs: Inputs, distance: str) -> tuple[Tensor, ...]:
    loss, _ = som_loss(*inputs, distance=distance)
    return torch.autograd.grad(loss, (inputs.z, inputs.prototypes))


def eager(inputs: Inputs, distance: str) -> tuple[Tensor, ...]:
    """The formulas with ``torch.cdist`` as it is called: as a product of matrices for the Euclidean distance."""
    z, prototypes, grid, temperature = inputs
    distances = torch.cdist(z, prototypes, p=1.0 if distance == "manhattan" else 2.0)  # [B, K]
    weights = reference.neighborhood_weights(distances.detach().argmin(dim=1), grid, temperature, distances.dtype)
    return torch.autograd.grad((weights * distances).mean(), (z, prototypes))


def factorised(workload: Workload, budget: float) -> str:
    """A row of the first table."""
    inputs = workload.inputs()
    cells = []
    for operation in (search, step):
        seconds = medians({name: partial(operation, inputs, name) for name in ("cosine", "sqeuclidean")}, budget)
        cells.append(f"{seconds['sqeuclidean'] / seconds['cosine']:.2f}")
    return f"| {workload.name} | {' | '.join(cells)} |"


def by_pairs(workload: Workload, distance: str, budget: float) -> str:
    """A row of the second table."""
    inputs = workload.inputs()
    seconds = medians({run.__name__: partial(run, inputs, distance) for run in (step, eager)}, budget)
    return f"| {distance} | {1e3 * seconds['step']:.0f} ms | {1e3 * seconds['eager']:.0f} ms |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.distances", description=__doc__)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each comparison (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="one small workload for all: whether it runs")
    options = parser.parse_args(arguments)
    workloads = [TINY] if options.tiny else [WORKLOADS[name] for name in FACTORISED]
    print("| squared Euclidean / cosine | search | step |\n|---|---|---|")
    for workload in workloads:
        print(factorised(workload, options.budget), flush=True)
    print("\n| step | vitsom_fast | eager |\n|---|---|---|")
    for distance in ("euclidean", "manhattan"):
        print(by_pairs(TINY if options.tiny else PAIRS, distance, options.budget), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

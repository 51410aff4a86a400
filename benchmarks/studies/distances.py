"""``python -m benchmarks.studies.distances``: what each distance costs, beside the cosine and beside eager PyTorch.

Two tables: search and step under the squared Euclidean distance in units of the cosine's, and the step of the distances that do
not factorise beside eager PyTorch with ``torch.cdist``, and their memory. Medians of rounds in turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness.clock import HostClock, race
from benchmarks.harness.contenders import Contender
from benchmarks.harness.memory import peak_beyond_inputs
from benchmarks.harness.places import ROOT
from benchmarks.harness.workloads import TINY, WORKLOADS, Inputs, Workload
from vitsom_fast import Grid, find_bmu, reference, som_loss
from vitsom_fast.choices import Distance

# Of the first table; and of the second.
FACTORISED = ("large", "large-organised", "paper-mnist")
PAIRS = {
    "T = 16": Workload("pairs", 1024, 64, 64, 192, 16.0),
    "T = 2": Workload("pairs", 1024, 64, 64, 192, 2.0),
    "T = 2, organised": Workload("pairs", 1024, 64, 64, 192, 2.0, organised=True),
}


def medians(runs: dict[str, Callable[[], object]], budget: float) -> dict[str, float]:
    """Seconds by name."""
    for run in runs.values():
        run()  # warm
    return {name: statistics.median(seconds) for name, seconds in race(runs, HostClock(), budget).items()}


def search(inputs: Inputs, distance: Distance, k: int = 1) -> tuple[Tensor, Tensor]:
    return find_bmu(inputs.z.detach(), inputs.prototypes.detach(), grid=inputs.grid, distance=distance, k=k)


def step(inputs: Inputs, distance: Distance) -> tuple[Tensor, ...]:
    loss, _ = som_loss(*inputs, distance=distance)
    return torch.autograd.grad(loss, (inputs.z, inputs.prototypes))


def eager(inputs: Inputs, distance: Distance) -> tuple[Tensor, ...]:
    """The formulas with ``torch.cdist`` as it is called: as a product of matrices for the Euclidean distance."""
    z, prototypes, *_ = inputs
    return _formulas(torch.cdist(z, prototypes, p=1.0 if distance == "manhattan" else 2.0), *inputs)


def eager_pairs(inputs: Inputs, distance: Distance) -> tuple[Tensor, ...]:
    """The same with the differences themselves, which lose nothing far from the origin."""
    return _formulas(reference.distances(inputs.z, inputs.prototypes, distance), *inputs)


def _formulas(distances: Tensor, z: Tensor, prototypes: Tensor, grid: Grid, temperature: float | Tensor) -> tuple[Tensor, ...]:
    weights = reference.neighborhood_weights(distances.detach().argmin(dim=1), grid, temperature, distances.dtype)
    return torch.autograd.grad((weights * distances).mean(), (z, prototypes))


def factorised(workload: Workload, budget: float) -> str:
    """A row of the first table."""
    inputs = workload.inputs()
    cells = []
    for operation in (search, step):
        seconds = medians({name: partial(operation, inputs, name) for name in ("cosine", "sqeuclidean")}, budget)
        cells.append(f"{seconds['sqeuclidean'] / seconds['cosine']:.2f}")
    seconds = medians({str(k): partial(search, inputs, "cosine", k) for k in (1, 2)}, budget)
    cells.append(f"{seconds['2'] / seconds['1']:.2f}")
    return f"| {workload.name} | {' | '.join(cells)} |"


RUNS = {run.__name__: run for run in (step, eager, eager_pairs)}


def by_pairs(case: str, workload: Workload, distance: Distance, budget: float) -> str:
    """A row of the second table."""
    inputs = workload.inputs()
    seconds = medians({name: partial(run, inputs, distance) for name, run in RUNS.items()}, budget)
    cells = [f"{1e3 * seconds[name]:.1f} ms" for name in RUNS]
    cells += [f"{seconds[name] / seconds['step']:.1f} x" for name in ("eager", "eager_pairs")]
    return f"| {distance} | {case} | {' | '.join(cells)} |"


def peak(name: str, distance: Distance) -> float:
    """MB of a step of the second table beyond its inputs and gradients, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.studies.distances", "--peak", name, distance]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.distances", description=__doc__)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each comparison (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="one small workload for all: whether it runs")
    parser.add_argument("--peak", nargs=2, metavar=("RUN", "DISTANCE"), help="only the memory of one run, in MB")
    options = parser.parse_args(arguments)
    if options.peak:
        run, by = RUNS[options.peak[0]], options.peak[1]
        contender = Contender(options.peak[0], lambda inputs: partial(run, inputs, by))
        print(peak_beyond_inputs(contender, PAIRS["T = 16"].inputs())[0])
        return 0
    workloads = [TINY] if options.tiny else [WORKLOADS[name] for name in FACTORISED]
    print("| squared Euclidean / cosine | search | step | two units / one, by cosine |\n|---|---|---|---|")
    for workload in workloads:
        print(factorised(workload, options.budget), flush=True)
    columns = "step", "", "vitsom_fast", "eager", "eager, pair by pair", "eager / ours", "pair by pair / ours"
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    pairwise: tuple[Distance, ...] = ("euclidean", "manhattan")
    for distance in pairwise:
        for case, workload in {"tiny": TINY}.items() if options.tiny else PAIRS.items():
            print(by_pairs(case, workload, distance, options.budget), flush=True)
    if not options.tiny:
        print("\n| memory beyond inputs and gradients | vitsom_fast | eager |\n|---|---|---|")
        for distance in pairwise:
            print(f"| {distance} | {peak('step', distance):.0f} MB | {peak('eager', distance):.0f} MB |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

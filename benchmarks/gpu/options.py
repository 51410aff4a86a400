"""What the options cost, in a process of its own: distances, neighborhoods, periodic grids, the second unit.

Each comparison is a case in the table of ``python -m benchmarks.gpu``; whoever comes first in it is its baseline. Gradients
under distances that do not factorise are held against eager PyTorch's; everything else is checked by the tests before.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.record import Record, Row
from benchmarks.harness.clock import Clock, Run, back_to_back, clock_of, race
from benchmarks.harness.workloads import TINY, WORKLOADS, Inputs, Workload
from vitsom_fast import find_bmu, reference, som_loss

PAIRS = Workload("pairs", 1024, 64, 64, 192, 16.0)
DISTANCES = ("cosine", "sqeuclidean", "euclidean", "manhattan")
UNFACTORISED = DISTANCES[2:]
TOLERANCE = 1e-3  # of the gradients in fp32, by products of matrices where eager PyTorch takes them

# Seconds for the rounds of a comparison, and for the wall time of everyone in it; and to begin none when fewer are left.
ROUNDS, WALL, TO_START = 0.6, 0.05, 5.0


class Comparison(NamedTuple):
    workload: Workload
    operation: str
    runs: Mapping[str, Callable[[Inputs], Run]]
    is_checked: bool = False  # gradients, against those of the first


def comparisons(dry: bool) -> Iterator[Comparison]:
    """What matters most comes first."""
    for workload in [TINY] if dry else [PAIRS, WORKLOADS["large"]]:
        for distance in UNFACTORISED:
            runs = {"eager": partial(_eager, distance=distance), "auto": partial(_step, distance=distance)}
            yield Comparison(workload, f"step {distance}", runs, is_checked=True)
        yield Comparison(workload, "step by distance", {distance: partial(_step, distance=distance) for distance in DISTANCES})
    for distance in DISTANCES:
        runs = {f"k={k}": partial(_search, distance=distance, k=k) for k in (1, 2)}
        yield Comparison(workload, f"search {distance}", runs)
    kinds = {kind: partial(_step, neighborhood=kind) for kind in ("gaussian", "mexican_hat", "bubble")}
    yield Comparison(workload, "step by neighborhood", {**kinds, "periodic": _periodic})


def _step(inputs: Inputs, **how: Any) -> Run:
    """Gradients (B, D) and (K, D)."""
    one = torch.ones((), device=inputs.z.device)
    return lambda: torch.autograd.grad(som_loss(*inputs, **how)[0], (inputs.z, inputs.prototypes), one)


def _periodic(inputs: Inputs) -> Run:
    grid = inputs.grid
    return _step(inputs._replace(grid=type(grid)(grid.rows, grid.cols, grid.topology, periodic=True)))


def _search(inputs: Inputs, **how: Any) -> Run:
    return lambda: find_bmu(inputs.z.detach(), inputs.prototypes.detach(), grid=inputs.grid, **how)


def _eager(inputs: Inputs, distance: str) -> Run:
    """With ``torch.cdist`` as it is called: as a product of matrices for the Euclidean distance."""
    z, prototypes, grid, temperature = inputs

    def run() -> tuple[Tensor, ...]:
        distances = torch.cdist(z, prototypes, p=1.0 if distance == "manhattan" else 2.0)  # [B, K]
        weights = reference.neighborhood_weights(distances.detach().argmin(dim=1), grid, temperature, distances.dtype)
        return torch.autograd.grad((weights * distances).mean(), (z, prototypes))

    return run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--until", type=float, required=True, help="Unix time to be done by")
    options = parser.parse_args(arguments)
    dry = not torch.cuda.is_available()
    device = torch.device("cpu" if dry else "cuda")
    clock, record = clock_of(device), Record.load(options.out)
    for comparison in comparisons(dry):
        case = f"{comparison.workload.name} {comparison.operation}"
        if options.until - time.time() < TO_START:
            record.left_out[case] = "no time was left"
            continue
        print(case, flush=True)
        rows = compare(comparison, device, clock, budget=0.02 if dry else ROUNDS)
        record.rows += rows
        record.failures += [f"{row.case}, {row.contender}: {row.note}" for row in rows if row.note]
        record.save(options.out)
    record.save(options.out)


def compare(comparison: Comparison, device: torch.device, clock: Clock, budget: float) -> list[Row]:
    """Everyone's times, taken in turns; a note for who failed."""
    inputs = comparison.workload.inputs(device, torch.float32)
    inputs = inputs._replace(temperature=torch.tensor(inputs.temperature, device=device))
    runs: dict[str, Run] = {}
    rows = [Row(comparison.workload.name, "fp32", comparison.operation, name) for name in comparison.runs]
    first: tuple[Tensor, ...] = ()
    for row, build in zip(rows, comparison.runs.values(), strict=True):
        try:
            run = build(inputs)
            run()
            result = run()
            first = first or result
            if comparison.is_checked:
                off = max(((x - y).norm() / y.norm()).item() for x, y in zip(result, first, strict=True))
                row.note = f"wrong: off by {off:.1e}" if not off <= TOLERANCE else ""
            peak = clock.peak_bytes(run)
            row.memory_mb = None if peak is None else peak / 1e6
        except Exception as error:
            row.note = f"failed: {type(error).__name__}: {error}"
        if not row.note:
            runs[row.contender] = run
    seconds = race(runs, clock, budget, fewest=3, most=200) if runs else {}
    measured = [row for row in rows if row.contender in runs]
    for row in measured:
        median = statistics.median(seconds[row.contender])
        row.rounds, row.median_ms = len(seconds[row.contender]), median * 1e3
        row.wall_ms = back_to_back(runs[row.contender], clock, median, WALL) * 1e3
        row.x_baseline = (measured[0].median_ms or 0) / row.median_ms
        row.x_baseline_wall = (measured[0].wall_ms or 0) / row.wall_ms
    return rows


if __name__ == "__main__":
    main()

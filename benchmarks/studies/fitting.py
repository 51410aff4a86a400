"""A whole fit of the batch map from the same prototypes, beside fastersom, XPySom and MiniSom.

python -m benchmarks.studies.fitting --record NAME      writes benchmarks/results/NAME-fitting.csv

Radii shrink from a quarter of the side to a tenth of that, as fastersom's do. Before it is timed, each contender has to find a
map whose quantization error is within 0.5 % of ours. The slow ones fit some of the rows, and their time is that of all: it is
in proportion to the rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.harness import machine
from benchmarks.harness.fits import Fit, contenders
from benchmarks.harness.places import RESULTS
from benchmarks.harness.table import aligned, in_words, number, write_csv
from benchmarks.harness.workloads import photo_patches
from vitsom_fast import SOM
from vitsom_fast.initialization import initial_prototypes

ALLOWED = 0.005  # of the quantization error


@dataclass(frozen=True)
class Case:
    """So many rows of so many features on a square map."""

    name: str
    rows: int
    dim: int
    side: int
    epochs: int = 10

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows (N, D) and the prototypes that all begin with, (side, side, D), fp32, on the plane of the largest variances."""
        random = torch.Generator().manual_seed(0)
        if self.name == "patches":
            x = photo_patches(self.rows, random)
        else:
            centres = 2 * torch.randn(30, self.dim, generator=random)
            x = centres[torch.randint(30, (self.rows,), generator=random)] + torch.randn(self.rows, self.dim, generator=random)
        grid = SOM(self.side, self.side).grid
        return x.numpy(), initial_prototypes(x, grid, "pca").unflatten(0, (self.side, self.side)).numpy()


CASES = (
    Case("patches", 40_000, 192, 128),
    Case("medium", 200_000, 40, 32),
    Case("cytometry", 1_000_000, 20, 10),
)
TINY = (Case("tiny", 500, 5, 6, 3),)

# Multiplications and additions of a fit that a contender may take; of more, it fits so many fewer rows.
_MOST = {"minisom": 2e9, "xpysom": 2e12}


@dataclass(frozen=True)
class Row:
    case: str
    contender: str
    rows: int
    seconds: float
    times_ours: float
    quantization_error: float


def measured(case: Case, rounds: int, wanted: Sequence[str]) -> list[Row]:
    """Medians of rounds in turns.

    Raises:
        ValueError: a contender's map is another one.
    """
    x, init = case.data()
    fits = {name: fit for name, fit in contenders().items() if name in wanted}
    first = case.side / 4
    how = init, case.epochs, first, first / 10
    shares = {name: min(1.0, _MOST.get(name, np.inf) / (case.epochs * x.size * case.side**2)) for name in fits}
    parts = {name: x[: max(1, int(share * len(x)))] for name, share in shares.items()}
    errors = {name: _error(fit(parts[name], *how), parts[name], case) for name, fit in fits.items()}
    for name, error in errors.items():
        expected = _error(fits["vitsom_fast"](parts[name], *how), parts[name], case)
        if abs(error / expected - 1) > ALLOWED:
            raise ValueError(f"{name} has another map of {case.name}: quantization error {error:.6g}, ours {expected:.6g}")
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    for _ in range(rounds):
        for name, fit in fits.items():
            seconds[name].append(_seconds(fit, parts[name], *how) * len(x) / len(parts[name]))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        Row(case.name, name, len(parts[name]), medians[name], medians[name] / medians["vitsom_fast"], errors[name])
        for name in fits
    ]


def _error(prototypes: np.ndarray, x: np.ndarray, case: Case) -> float:
    return SOM.from_prototypes(prototypes, case.side, case.side).quantization_error(x)


def _seconds(fit: Fit, x: np.ndarray, init: np.ndarray, epochs: int, first: float, last: float) -> float:
    began = time.perf_counter()
    fit(x, init, epochs, first, last)
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.fitting", description=__doc__)
    parser.add_argument("--case", choices=[case.name for case in CASES], help="one of them alone")
    parser.add_argument("--contenders", nargs="+", default=["fastersom", "xpysom", "minisom"], help="beside ours")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="one small case: whether it runs")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/results/NAME-fitting.csv")
    options = parser.parse_args(arguments)
    cases = TINY if options.tiny else [case for case in CASES if options.case in (None, case.name)]
    rows = [row for case in cases for row in measured(case, options.rounds, ["vitsom_fast", *options.contenders])]
    columns = [
        ("case", lambda row: row.case),
        ("contender", lambda row: row.contender),
        ("rows", lambda row: str(row.rows)),
        ("s", lambda row: number(row.seconds, 2)),
        ("times ours", lambda row: number(row.times_ours, 2)),
        ("quantization error", lambda row: f"{row.quantization_error:.5g}"),
    ]
    print(in_words(machine.describe()))
    print("\n".join(aligned(columns, 2, rows, lambda row: row.case)))
    if options.record:
        write_csv(RESULTS / f"{options.record}-fitting.csv", rows, machine.describe())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""A whole training run, as a user writes it, with the CPU kernels and the reference: time, fit, and how far a search looks.

python -m benchmarks.studies.organising --record NAME      writes benchmarks/results/NAME-organising.csv and docs/organising.png

A map of random prototypes learns photo patches by gradient descent, twice from the same seed and on the same patches. The maps
need not be equal to the bit (the backends round differently, and a near tie that falls the other way moves all that follows),
so both are judged by their quantization error on patches that neither has seen.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.harness import machine
from benchmarks.harness.places import RESULTS, ROOT
from benchmarks.harness.table import read_csv, write_csv
from benchmarks.harness.workloads import PATCH, photo_patches
from benchmarks.studies.organising_plot import plot_organising
from vitsom_fast import FusedSOMLoss, exponential_decay, find_bmu
from vitsom_fast.backends import cpu

BATCH = 4096
STEPS = 2  # an epoch, each on patches of its own
LAST_TEMPERATURE = 2.0
RATE = 1.5  # of the way to the mean of a prototype's neighborhood; with 2 a map of 128 x 128 becomes uneven at the end
_TILE = 4  # prototypes along a side


@dataclass(frozen=True)
class Epoch:
    """The map after an epoch; epoch 0 is that before the first.

    ``seconds`` is the time of training only, since the start; ``pruned`` the share of the rows whose search looks into some
    tiles of the map only, and ``tiles`` that of the tiles that a row looks into: 1 for a row that is not pruned.
    """

    backend: str
    rows: int
    cols: int
    epoch: int
    seconds: float
    quantization_error: float
    pruned: float | None = None
    tiles: float | None = None


def train(backend: str, side: int, epochs: int, seed: int = 0) -> Iterator[Epoch]:
    """One run, with a report after each epoch that takes no part of its time."""
    torch.manual_seed(seed)
    patches, unseen = torch.Generator().manual_seed(seed), photo_patches(BATCH, torch.Generator().manual_seed(seed + 1))
    som = FusedSOMLoss((side, side), 3 * PATCH**2, reduction="batchmean", backend=backend)
    temperature = exponential_decay(side / 4, LAST_TEMPERATURE, STEPS * epochs)
    optimizer = torch.optim.SGD(som.parameters(), lr=1.0)
    # A prototype is pulled by the samples whose BMU is in its neighborhood, about 2 pi T^2 / K of all.
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: RATE * som.grid.num_prototypes / (2 * math.pi * temperature(step) ** 2)
    )
    yield _epoch(som, 0, 0.0, unseen, unseen)
    seconds = 0.0
    with tqdm(total=STEPS * epochs, unit="step", desc=backend) as progress:
        for epoch in range(epochs):
            start = time.perf_counter()
            samples = photo_patches(STEPS * BATCH, patches)  # [STEPS * B, D]
            for place, z in enumerate(samples.split(BATCH)):
                loss = som(z, temperature(STEPS * epoch + place))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rate.step()
                progress.update()
            seconds += time.perf_counter() - start
            yield _epoch(som, epoch + 1, seconds, samples, unseen)


def _epoch(som: FusedSOMLoss, epoch: int, seconds: float, samples: Tensor, unseen: Tensor) -> Epoch:
    prototypes = som.prototypes.detach()
    error = find_bmu(unseen, prototypes)[1].double().mean().item()
    measured = Epoch(som.backend, som.grid.rows, som.grid.cols, epoch, seconds, error)
    if som.backend != "cpu":
        return measured
    counts = cpu.search_counts(samples, prototypes)
    pruned = counts["pruned"] / len(samples)
    looked_into = counts["tiles"] / (len(samples) * math.ceil(som.grid.rows / _TILE) * math.ceil(som.grid.cols / _TILE))
    # Of rows that are given up and served by brute force both ways are counted.
    return replace(measured, pruned=pruned, tiles=min(1.0, 1 - pruned + looked_into))


def verdict(epochs: Sequence[Epoch]) -> str:
    """Time and fit of both runs, compared, and what the search looked into."""
    ours, theirs = ([epoch for epoch in epochs if epoch.backend == backend] for backend in ("cpu", "reference"))
    lines = [
        f"{run[-1].backend}: {run[-1].seconds:.1f} s for {run[-1].epoch} epochs of a {run[-1].rows} x {run[-1].cols} map,"
        f" quantization error {run[-1].quantization_error:.6f}"
        for run in (ours, theirs)
    ]
    difference = abs(ours[-1].quantization_error - theirs[-1].quantization_error)
    lines += [
        f"the reference takes {theirs[-1].seconds / ours[-1].seconds:.1f} times as long; the errors differ by {difference:.1e},"
        f" {100 * difference / theirs[-1].quantization_error:.2f} %",
        "tiles looked into, by epoch: " + " ".join(f"{100 * (epoch.tiles or 0):.1f}%" for epoch in ours),
        "rows pruned, by epoch: " + " ".join(f"{100 * (epoch.pruned or 0):.0f}%" for epoch in ours),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/results/NAME-organising.csv and docs/organising.png")
    parser.add_argument("--side", type=int, default=128, help="of the square map")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the prototypes and the patches")
    arguments = parser.parse_args()
    epochs = [
        epoch for backend in ("cpu", "reference") for epoch in train(backend, arguments.side, arguments.epochs, arguments.seed)
    ]
    print(verdict(epochs))
    if arguments.record:
        path, picture = RESULTS / f"{arguments.record}-organising.csv", ROOT / "docs" / "organising.png"
        write_csv(path, epochs, machine.describe())
        plot_organising(read_csv(path)).savefig(picture)
        print(f"recorded in {path}, drawn: {picture}")


if __name__ == "__main__":
    main()

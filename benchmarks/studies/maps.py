"""The search on a collection of maps, against faiss and against our own search through all prototypes.

python -m benchmarks.maps --record NAME      writes benchmarks/results/NAME-maps.csv

Every search is of the same rows, in turns; faiss has its prototypes indexed beforehand. BMUs are checked against fp64 first.
The maps are fitted at the first run and kept in the user's cache folder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.harness import machine
from benchmarks.harness.maps import FAMILIES, Family
from benchmarks.harness.peer_searches import flat_index
from benchmarks.harness.places import RESULTS
from benchmarks.harness.table import aligned, in_words, number, write_csv
from vitsom_fast import Grid, find_bmu
from vitsom_fast.backends import cpu
from vitsom_fast.choices import Distance

SIDES = (64, 128, 256)
_CHECKED = 64  # rows whose BMUs are held against fp64
_ALLOWED = 1e-12  # of the scale
_LONG = 2.0  # seconds of a search that is run once


@dataclass(frozen=True)
class Row:
    """Milliseconds are medians; ``undecided`` is the share of rows that no pass which looks into tiles has decided."""

    family: str
    distance: Distance
    side: int
    dim: int
    rows: int
    ms: float
    all_prototypes_ms: float
    faiss_ms: float | None
    times_faiss: float | None
    undecided: float
    tiles_a_row: float


def measured(family: Family, side: int, batch: int, rounds: int) -> Row:
    """Raises:
    ValueError: some BMU is not the nearest prototype.
    """
    prototypes, z, grid = family.prototypes(side), family.rows(batch, seed=5), Grid(side, side)
    check(z[:_CHECKED], prototypes, grid, family.distance)

    def ours() -> object:
        return find_bmu(z, prototypes, distance=family.distance, grid=grid, backend="cpu")

    def all_prototypes() -> object:
        with pruning("never"):
            return ours()

    contenders: dict[str, Callable[[], object]] = {"ours": ours, "all": all_prototypes}
    if (search := flat_index(z, prototypes, family.distance)) is not None:
        contenders["faiss"] = search
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for name, run in contenders.items():  # a first round, which counts of those who take long
        if (first := _seconds(run)) > _LONG:
            seconds[name].append(first)
    for _ in range(rounds):
        for name, run in contenders.items():
            if not (seconds[name] and seconds[name][0] > _LONG):
                seconds[name].append(_seconds(run))
    ms = {name: 1e3 * statistics.median(times) for name, times in seconds.items()}
    counts = counted(z, prototypes, family.distance)
    in_tiles = counts["pruned"] + counts["grouped"] + counts["narrow"]  # the last searches by distance, in tiles
    return Row(
        family.name,
        family.distance,
        side,
        z.shape[1],
        batch,
        ms["ours"],
        ms["all"],
        ms.get("faiss"),
        ms["faiss"] / ms["ours"] if "faiss" in ms else None,
        1 - in_tiles / batch,
        counts["tiles"] / max(in_tiles, 1),
    )


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def check(z: Tensor, prototypes: Tensor, grid: Grid, distance: Distance) -> None:
    bmu, _ = find_bmu(z, prototypes, distance=distance, grid=grid, backend="cpu")
    x, w = z.double(), prototypes.double()
    if distance == "cosine":
        x, w = (torch.nn.functional.normalize(v) for v in (x, w))
    apart = torch.stack([(w - row).square().sum(1) for row in x])  # [n, K]
    scale = x.square().sum(1) + w.square().sum(1).max()
    regret = apart.gather(1, bmu[:, None])[:, 0] - apart.min(1).values
    if (regret > _ALLOWED * scale).any():
        raise ValueError(f"BMUs must be the nearest prototypes, got a squared distance too large by {regret.max():.3g}")


def counted(z: Tensor, prototypes: Tensor, distance: Distance) -> dict[str, int]:
    if distance == "cosine":
        return cpu.search_counts(z, prototypes)
    return cpu.search_counts(z, prototypes, distance="sqeuclidean")


@contextmanager
def pruning(how: str) -> Iterator[None]:
    before = os.environ.get("VITSOM_CPU_PRUNING")
    os.environ["VITSOM_CPU_PRUNING"] = how
    try:
        yield
    finally:
        if before is None:
            del os.environ["VITSOM_CPU_PRUNING"]
        else:
            os.environ["VITSOM_CPU_PRUNING"] = before


def main(arguments: Sequence[str] | None = None) -> int:
    names = [family.name for family in FAMILIES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.maps", description=__doc__)
    parser.add_argument("--families", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--sides", nargs="+", type=int, default=SIDES, help="of the maps (default: 64 128 256)")
    parser.add_argument("--batch", type=int, default=4096, help="rows that are searched for (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (default: %(default)s)")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/results/NAME-maps.csv")
    options = parser.parse_args(arguments)
    chosen = [family for family in FAMILIES if family.name in options.families]
    points = [(family, side) for side in options.sides for family in chosen]
    rows = [measured(family, side, options.batch, options.rounds) for family, side in tqdm(points, unit="map", disable=None)]
    columns = [
        ("map", lambda row: row.family),
        ("distance", lambda row: row.distance),
        ("side", lambda row: str(row.side)),
        ("D", lambda row: str(row.dim)),
        ("ms", lambda row: number(row.ms, 2)),
        ("all prototypes", lambda row: number(row.all_prototypes_ms, 2)),
        ("faiss", lambda row: number(row.faiss_ms, 2)),
        ("times faiss", lambda row: number(row.times_faiss, 1)),
        ("undecided", lambda row: f"{row.undecided:.1%}"),
        ("tiles a row", lambda row: number(row.tiles_a_row, 1)),
    ]
    print(in_words(machine.describe()))
    print("\n".join(aligned(columns, 2, rows, lambda row: row.side)))
    if options.record:
        write_csv(RESULTS / f"{options.record}-maps.csv", rows, machine.describe())
    return 0

"""A million rows searched twice on one map, with its tiles ruled out by bounds and with every prototype scored, and compared.

python tests/soak/exactness.py                               a trained 128 x 128 map
python tests/soak/exactness.py --map adversarial             prototypes that no bound expects, hidden in its tiles

Rows whose BMUs differ, and a random few of the others, are searched a third time by brute force in fp64. The exit status is 1
if any BMU is farther than the nearest prototype by more than the contract allows, or not the first of several equal prototypes.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the benchmarks are not installed with the package

from benchmarks.harness.correctness import BMU_TOLERANCE, Truth
from benchmarks.harness.workloads import Inputs, MapSettings, organised_map, photo_patches
from vitsom_fast import Grid, find_bmu
from vitsom_fast.backends import cpu

WAYS = ("always", "never")  # whether tiles are ruled out
_BATCH = 8192


def trained(side: int) -> Tensor:
    """(K, 192): a map fitted to photo patches."""
    return organised_map(MapSettings(side, side))


def collapsed(side: int) -> Tensor:
    """All prototypes within 1e-4 of one direction: their order is a matter of the last bits of a score."""
    prototypes = trained(side)
    mean = prototypes.mean(0)
    return mean + 1e-4 * (prototypes - mean)


def duplicated(side: int) -> Tensor:
    """Four equal prototypes in neighbouring units, and all of them once more in the lower half of the map."""
    row, col = torch.arange(side) % math.ceil(side / 2) // 2 * 2, torch.arange(side) // 2 * 2
    return trained(side).view(side, side, -1)[row[:, None], col].flatten(0, 1)


def adversarial(side: int) -> Tensor:
    """One prototype in 50 is a patch from anywhere, opposite to its neighbours, or of length 0, 1e-18 or 1e18."""
    prototypes, generator = trained(side).clone(), torch.Generator().manual_seed(2)
    odd = torch.randperm(len(prototypes), generator=generator)[: max(6, len(prototypes) // 50)]
    patch_at, opposite, *scaled = odd.tensor_split(5)
    prototypes[patch_at] = photo_patches(len(patch_at), generator)
    prototypes[opposite] *= -1
    for places, length in zip(scaled, (0.0, 1e-18, 1e18), strict=True):
        prototypes[places] *= length
    return prototypes


MAPS: dict[str, Callable[[int], Tensor]] = {make.__name__: make for make in (trained, collapsed, duplicated, adversarial)}


@dataclass
class Findings:
    """Of how many rows the BMUs of both ways differ and how many were searched in fp64; for each way, the worst excess over the
    nearest prototype there, and how many BMUs are not the first of equal prototypes."""

    rows: int = 0
    differing: int = 0
    checked: int = 0
    worst: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WAYS, 0.0))
    not_first: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))

    @property
    def right(self) -> bool:
        return max(self.worst.values()) <= BMU_TOLERANCE and not any(self.not_first.values())


def compare(prototypes: Tensor, rows: int, sampled: int, seed: int = 0) -> Findings:
    """Searches ``rows`` patches in both ways; ``sampled`` of them in fp64, and those with different BMUs."""
    generator = torch.Generator().manual_seed(seed)
    found = Findings()
    first = _first_equal(prototypes)
    with tqdm(total=rows, unit="row", unit_scale=True) as progress:
        while found.rows < rows:
            z = photo_patches(min(_BATCH, rows - found.rows), generator)
            bmu = {way: searched(z, prototypes, way) for way in WAYS}
            differs = bmu["always"] != bmu["never"]
            chosen = differs | (torch.rand(len(z), generator=generator) < sampled / rows)
            truth = Truth(Inputs(z[chosen], prototypes, Grid(1, len(prototypes)), 1.0))
            for way in WAYS:
                excess = truth.excess(bmu[way][chosen])
                found.worst[way] = max([found.worst[way], *excess.tolist()])
                found.not_first[way] += int((first[bmu[way]] != bmu[way]).sum())
            found.rows += len(z)
            found.differing += int(differs.sum())
            found.checked += len(truth.z)
            progress.update(len(z))
            progress.set_postfix(differing=found.differing, worst=f"{max(found.worst.values()):.1e}")
    return found


def searched(z: Tensor, prototypes: Tensor, way: str) -> Tensor:
    with patch.dict(os.environ, VITSOM_CPU_PRUNING=way):
        return find_bmu(z, prototypes, backend="cpu")[0]


def _first_equal(prototypes: Tensor) -> Tensor:
    """(K,): the lowest index of those prototypes that are equal to each."""
    distinct, which = prototypes.unique(dim=0, return_inverse=True)
    index = torch.arange(len(prototypes))
    return torch.full((len(distinct),), len(prototypes)).scatter_reduce(0, which, index, "amin")[which]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", choices=MAPS, default="trained", dest="kind")
    parser.add_argument("--side", type=int, default=128, help="of the square map")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sampled", type=int, default=10_000, help="about so many rows are searched in fp64 in any case")
    parser.add_argument("--seed", type=int, default=0, help="of the patches")
    arguments = parser.parse_args()
    prototypes = MAPS[arguments.kind](arguments.side)
    with patch.dict(os.environ, VITSOM_CPU_PRUNING="always"):
        counts = cpu.search_counts(photo_patches(256, torch.Generator().manual_seed(arguments.seed)), prototypes)
    if counts["pruned"] == 0:
        print("there is nothing to compare: the kernels of this processor rule out no tiles")
        return 1
    found = compare(prototypes, arguments.rows, arguments.sampled, arguments.seed)
    print(
        f"{arguments.kind} map of {arguments.side} x {arguments.side}: {found.rows} rows, {found.differing} with different BMUs"
    )
    print(f"{found.checked} rows searched in fp64; allowed is an excess over the nearest prototype of {BMU_TOLERANCE:.0e}")
    for way, what in zip(WAYS, ("tiles ruled out", "every prototype scored"), strict=True):
        print(f"{what}: worst excess {found.worst[way]:.2g}; {found.not_first[way]} BMUs not the first of equal prototypes")
    return 0 if found.right else 1


if __name__ == "__main__":
    sys.exit(main())

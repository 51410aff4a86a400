"""Steps on a host build of the CUDA module, in both orders of the threads: results agree bit for bit and meet the contract.

A script: VITSOM_CUDA_MODULE names the module, which is on PYTHONPATH; it fails where something is wrong.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers import check, check_bmu, run, search

from vitsom_fast import Grid, backends, reference
from vitsom_fast.neighborhoods import neighborhood

SHAPES = [  # B, rows, cols, D
    (37, 9, 11, 70),
    (300, 3, 2, 5),
    (250, 70, 2, 33),
    (3, 1, 150, 300),
]


def results(dtype: torch.dtype, shape: tuple[int, ...], topology: str, order: str) -> list[Tensor]:
    os.environ["VITSOM_THREAD_ORDER"] = order
    torch.manual_seed(0)
    batch, rows, cols, dim = shape
    grid = Grid(rows, cols, topology)
    z, prototypes = torch.randn(batch, dim).to(dtype), torch.randn(rows * cols, dim).to(dtype)
    result = run("cuda", z, prototypes, grid, 2.5)
    if dtype == torch.float32:
        check(result, z, prototypes, grid, 2.5, cancels=True)
    else:
        check_bmu(result.bmu, z, prototypes)
    own, factors = backends.get("cuda"), neighborhood(grid, 2.5)
    sums, counts = own.sum_by_bmu(z, result.bmu, grid.num_prototypes)
    smoothed = [own.smooth(sums, *terms) for terms in (factors[:2], (factors.rows.mT, factors.cols.mT))]
    return [*result, *search("cuda", z, prototypes), sums, counts, *smoothed]


def check_that_truncation_does_not_add_up(dim: int) -> None:
    """One feature makes nearly all of a score, and a thousand small ones are added to it: the worst for a tensor core."""
    torch.manual_seed(0)
    large = torch.zeros(1, dim)
    large[0, 0] = 20 * dim**0.5
    z, prototypes = large + torch.randn(16, dim), large + torch.randn(32, dim)
    bmu, distance = search("cuda", z, prototypes)
    check_bmu(bmu, z, prototypes)
    exact = reference.distances(z.double(), prototypes.double()).gather(1, bmu[:, None])[:, 0]
    assert (distance - exact).abs().max() <= 1e-6, dim


def check_that_rounding_does_not_add_up(rows: int, cols: int, dim: int, temperature: float) -> None:
    """All prototypes are one, and the data: sums along the sides of the map round alike in every feature, or lose a tail."""
    grid = Grid(rows, cols)
    for seed in range(3):
        torch.manual_seed(seed)
        prototypes = torch.randn(1, dim).repeat(rows * cols, 1)
        z = prototypes[:1].clone()
        check(run("cuda", z, prototypes, grid, temperature), z, prototypes, grid, temperature, cancels=True)


check_that_rounding_does_not_add_up(64, 64, 8, 20.0)
check_that_rounding_does_not_add_up(1, 200, 3, 1000.0)
for dim in (192, 3136):
    check_that_truncation_does_not_add_up(dim)
for number, (dtype, shape) in enumerate(itertools.product((torch.float32, torch.bfloat16, torch.float16), SHAPES)):
    # Every pair of dtype, shape and topology: there are as many shapes as an even number.
    topology = ("rectangular", "hexagonal")[(number + number // len(SHAPES)) % 2]
    ascending, descending = (results(dtype, shape, topology, order) for order in ("ascending", "descending"))
    for one, other in zip(ascending, descending, strict=True):
        assert one.isfinite().all(), (dtype, shape, topology)
        assert torch.equal(one, other), (dtype, shape, topology)

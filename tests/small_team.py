"""Steps of the CPU kernels where fewer threads run than PyTorch asks for: the contract holds, call after call.

A script: the environment limits the threads and poisons fresh memory; it fails where something is wrong. Its argument is how
many threads to ask for.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from helpers import check, relative_error, run, search

from vitsom_fast import Grid
from vitsom_fast.backends import cpu

CASES = [  # B, grid, D, T: slices of features for each thread or for all, factors that are thin or a band, one term or three
    (128, Grid(40, 40), 192, 4.0),
    (100, Grid(26, 35, "hexagonal"), 307, 6.0),
    (64, Grid(3, 70), 9, 1.5),
    (33, Grid(90, 2, periodic=True), 700, 20.0),
    (2000, Grid(5, 4), 40, 0.7),
]


def steps() -> None:
    """Every case twice: what the first left in recycled memory must not matter to the second."""
    for batch, grid, dim, temperature in CASES:
        torch.manual_seed(0)
        z, prototypes = torch.randn(batch, dim), torch.randn(grid.num_prototypes, dim)
        for distance in ("cosine", "sqeuclidean"):
            first = None
            for _ in range(2):
                result = run("cpu", z, prototypes, grid, temperature, distance=distance)
                first = first or result
                assert all(torch.equal(a, b) for a, b in zip(result, first, strict=True)), (batch, grid, dim)
            assert torch.equal(search("cpu", z, prototypes, distance=distance)[0], result.bmu)
            assert torch.equal(search("cpu", z, prototypes, distance=distance, k=2)[0][:, 0], result.bmu)
            if distance == "cosine":
                check(result, z, prototypes, grid, temperature)
                continue
            for one, other in zip(result, run("torch", z, prototypes, grid, temperature, distance=distance), strict=True):
                assert relative_error(one.double(), other.double()) <= 1e-6


def pairs() -> None:
    """As ``steps``, of the distances whose pairs are computed one by one."""
    for batch, grid, dim, temperature in CASES[:3]:
        z, prototypes = torch.randn(batch, dim), torch.randn(grid.num_prototypes, dim)
        for distance in ("euclidean", "manhattan"):
            first, *others = (run("cpu", z, prototypes, grid, temperature, distance=distance) for _ in range(2))
            for result in others:
                assert all(torch.equal(a, b) for a, b in zip(result, first, strict=True)), (batch, grid, dim)
            true = run("reference", z.double(), prototypes.double(), grid, temperature, distance=distance)
            assert torch.equal(first.bmu, true.bmu)
            for ours, theirs in (
                (first.loss, true.loss),
                (first.grad_z, true.grad_z),
                (first.grad_prototypes, true.grad_prototypes),
            ):
                assert relative_error(ours, theirs) <= 1e-5, (batch, grid, dim, distance)


def epochs() -> None:
    """Of small maps: what a thread adds up of its own, whichever threads run."""
    for rows, count, dim in ((5000, 40, 13), (70, 7, 64)):
        x, prototypes = torch.randn(rows, dim), torch.randn(count, dim)
        for _ in range(2):
            sums = torch.zeros(count, dim + 1, dtype=torch.float64)
            _, left = cpu.add_nearest(sums, x, prototypes, torch.zeros(dim), 1.0, squared=True)
            unit = (x.double()[:, None] - prototypes.double()).square().sum(dim=2).argmin(dim=1)
            unit[left] = count
            ones = torch.cat([x.double(), torch.ones(rows, 1, dtype=torch.float64)], dim=1)
            expected = torch.zeros(count + 1, dim + 1, dtype=torch.float64).index_add(0, unit, ones)[:-1]
            torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)


def within_a_parallel_region() -> None:
    """The same from two threads of a region of the OpenMP runtime that the kernels use: theirs are regions within it."""
    with open("/proc/self/maps") as maps:
        runtime = next((line.split()[-1] for line in maps if "libgomp" in line), None)
    if runtime is None:
        return
    errors: list[str] = []

    def body(_: object) -> None:
        try:
            steps()
            pairs()
            epochs()
        except BaseException as error:
            errors.append(repr(error))

    ctypes.CDLL(runtime).GOMP_parallel(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(body), None, 2, 0)
    assert not errors, errors


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    steps()
    pairs()
    epochs()
    if len(sys.argv) > 2:
        within_a_parallel_region()

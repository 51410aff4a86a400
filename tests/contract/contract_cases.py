"""What the contract tests are run on."""

from __future__ import annotations

import torch
from helpers import (
    Result,
)
from torch import Tensor

from vitsom_fast import Grid

MAPS = [(topology, periodic) for topology in ("rectangular", "hexagonal") for periodic in (False, True)]
TEMPERATURES = (1e-3, 0.4, 2.5, 1e3)
HALF = (torch.bfloat16, torch.float16)

SHAPES = [  # B, rows, cols, D
    (1, 1, 1, 17),
    (3, 1, 17, 3),
    (17, 127, 1, 17),
    (1000, 3, 3, 3),
    (127, 3, 17, 127),
    (3, 17, 3, 1000),
    (17, 17, 17, 17),
    (127, 17, 127, 17),
    (1000, 3, 127, 127),
    (17, 1, 1000, 3),
    (1, 1000, 1, 127),
]


def make_grid(rows: int, cols: int, topology: str = "rectangular", periodic: bool = False) -> Grid:
    """A hexagonal torus needs an even number of rows: it gets one more where the number is odd."""
    return Grid(rows + rows % 2 if topology == "hexagonal" and periodic else rows, cols, topology, periodic)


def make_inputs(batch: int, grid: Grid, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Gaussian latents (B, D) and prototypes (K, D)."""
    return torch.randn(batch, dim).to(dtype), torch.randn(grid.num_prototypes, dim).to(dtype)


def assert_same_bits(actual: Result, expected: Result) -> None:
    for name, a, b in zip(Result._fields, actual, expected, strict=True):
        assert torch.equal(a, b), f"{name} differs"

"""The ways to do an operation: in eager PyTorch, compiled, or by a backend, each as a run on some inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.harness.clock import Run
from benchmarks.harness.workloads import Inputs
from vitsom_fast import Grid, find_bmu, reference


def run_step(function: Callable[..., Any], inputs: Inputs) -> Run:
    """Forward and backward: loss (), BMU (B,), gradients (B, D) and (K, D)."""
    z, prototypes, grid, temperature = inputs
    one = torch.ones((), device=z.device)

    def run() -> tuple[Tensor, ...]:
        loss, bmu = function(z, prototypes, grid, temperature)
        return (loss.detach(), bmu, *torch.autograd.grad(loss, (z, prototypes), one))

    return run


def run_search(function: Callable[..., Tensor], inputs: Inputs) -> Run:
    """BMU (B,)."""
    z, prototypes = inputs.z.detach(), inputs.prototypes.detach()
    return lambda: (function(z, prototypes),)


def eager_step(z: Tensor, prototypes: Tensor, grid: Grid, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
    """The reference; inputs of half precision are converted, as all must who would otherwise miss the nearest prototype."""
    return reference.som_loss(z.float(), prototypes.float(), grid, temperature)


def matmul_search(z: Tensor, prototypes: Tensor) -> Tensor:
    return (normalize(z.float()) @ normalize(prototypes.float()).T).argmax(dim=1)


def search_by(backend: str, z: Tensor, prototypes: Tensor) -> Tensor:
    return find_bmu(z, prototypes, backend=backend)[0]


def compiled(function: Callable[..., Any], compiler: str) -> Callable[..., Any]:
    """``compiler``: the name of a backend of torch.compile."""
    torch.compiler.reset()  # past eight shapes of one function, torch.compile would quietly run it eagerly
    return torch.compile(function, dynamic=False, fullgraph=True, backend=compiler)


@dataclass(frozen=True, eq=False)
class PlacedGrid(Grid):
    """A grid whose lattice is on the device already, as an eager module keeps it: none is copied in a step."""

    placed: Tensor | None = None

    @property
    def lattice(self) -> Tensor:
        assert self.placed is not None
        return self.placed


def placed(inputs: Inputs) -> Inputs:
    """The same with a ``PlacedGrid``."""
    grid = inputs.grid
    lattice = grid.lattice.to(inputs.z.device, torch.float32)
    return inputs._replace(grid=PlacedGrid(grid.rows, grid.cols, grid.topology, grid.periodic, lattice))

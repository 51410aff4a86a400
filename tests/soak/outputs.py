"""What the package gives for a case: a search and a step, in each way that users ask for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from soak.cases import Case
from vitsom_fast import find_bmu, som_loss


class Output(NamedTuple):
    """Searches for one unit and for two, and a step; a gradient that was not asked for is None."""

    bmu: Tensor
    distance: Tensor
    two: Tensor
    two_distances: Tensor
    loss: Tensor
    bmu_of_step: Tensor
    grad_z: Tensor | None = None
    grad_prototypes: Tensor | None = None
    derivative: Tensor | None = None  # of the loss along the case's tangents

    def cpu(self) -> Output:
        every: Any = (None if x is None else x.cpu() for x in self)
        return Output(*every)


_PRUNING = "VITSOM_CPU_PRUNING"


@contextmanager
def _settings(case: Case) -> Iterator[None]:
    pruning, threads = os.environ.get(_PRUNING), torch.get_num_threads()
    os.environ[_PRUNING] = case.pruning
    torch.set_num_threads(case.threads)
    torch.use_deterministic_algorithms(case.mode == "poisoned")  # which fills what torch.empty returns with NaN
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.mode == "autocast"):
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
        if pruning is None:
            del os.environ[_PRUNING]
        else:
            os.environ[_PRUNING] = pruning


def output_of(case: Case, z: Tensor, prototypes: Tensor) -> Output:
    """A search and a step of these inputs, in the mode and with the settings of the case."""
    with _settings(case):
        return _run(case, z, prototypes)


def _run(case: Case, z: Tensor, prototypes: Tensor) -> Output:
    temperature = torch.tensor(case.temperature, device=z.device) if case.temperature_is_tensor else case.temperature

    def loss_of(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        loss, bmu = som_loss(z, prototypes, case.grid, temperature, reduction=case.reduction, backend=case.backend)
        return loss * case.grad_output, bmu

    search = (*find_bmu(z, prototypes, backend=case.backend), *find_bmu(z, prototypes, k=2, backend=case.backend))
    if case.mode == "no gradients":
        with torch.no_grad():
            return Output(*search, *loss_of(z, prototypes))
    if case.mode == "torch.func":
        (loss, bmu), grads = _func_gradients(loss_of, z, prototypes)
        return Output(*search, loss, bmu, *grads)
    if case.mode == "forward derivative":
        along: Any = torch.func.jvp(loss_of, (z, prototypes), tangents(case, z.device), has_aux=True)
        loss, derivative, bmu = along
        return Output(*search, loss, bmu, derivative=derivative)
    z = z.detach().requires_grad_(case.mode != "gradient of prototypes")
    prototypes = prototypes.detach().requires_grad_(case.mode != "gradient of z")
    loss, bmu = loss_of(z, prototypes)
    wanted = [x for x in (z, prototypes) if x.requires_grad]
    found = iter(torch.autograd.grad(loss, wanted, create_graph=case.mode == "create_graph"))
    grad_z, grad_prototypes = (next(found).detach() if x.requires_grad else None for x in (z, prototypes))
    return Output(*search, loss.detach(), bmu, grad_z, grad_prototypes)


def tangents(case: Case, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """Random directions of z and the prototypes; PyTorch wants them to lie in memory as these do."""
    return case.but(seed=case.seed + 1, base="random", twists=()).inputs(str(device))


def _func_gradients(
    loss_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], z: Tensor, prototypes: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def with_loss(z: Tensor, prototypes: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        loss, bmu = loss_of(z, prototypes)
        return loss, (loss, bmu)

    grads, found = torch.func.grad(with_loss, argnums=(0, 1), has_aux=True)(z, prototypes)
    return found, grads

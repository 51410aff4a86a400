"""Every dtype, alone and mixed."""

from __future__ import annotations

import pytest
import torch
from contract_cases import HALF, MAPS, make_grid, make_inputs
from helpers import (
    RELATIVE_TOLERANCE,
    Result,
    check_bmu,
    relative_error,
    run,
    search,
    skip_unless_supported,
    truth,
)

from vitsom_fast import Grid, reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
def test_dtypes_of_results(any_backend: str, dtype: torch.dtype) -> None:
    skip_unless_supported(any_backend, dtype)
    grid = Grid(3, 5)
    z, prototypes = make_inputs(9, grid, 8, dtype)
    result = run(any_backend, z, prototypes, grid, 1.0)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert result.loss.dtype == expected
    assert search(any_backend, z, prototypes)[1].dtype == expected
    assert result.grad_z.dtype == dtype
    assert result.grad_prototypes.dtype == dtype


@pytest.mark.parametrize(("topology", "periodic"), MAPS)
def test_fp64(any_backend: str, topology: str, periodic: bool) -> None:
    skip_unless_supported(any_backend, torch.float64)
    grid = make_grid(9, 11, topology, periodic)
    z, prototypes = make_inputs(33, grid, 24, torch.float64)
    result = run(any_backend, z, prototypes, grid, 2.3)
    true = truth(z, prototypes, grid, 2.3, reference.find_bmu(z, prototypes)[0])
    assert result.loss.item() == pytest.approx(true.loss, rel=1e-12)
    assert relative_error(result.grad_z, true.grad_z) < 1e-12
    assert relative_error(result.grad_prototypes, true.grad_prototypes) < 1e-12


@pytest.mark.parametrize("temperature", [0.4, 2.5, 1e3])
@pytest.mark.parametrize(("topology", "periodic"), MAPS)
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_against_eager(
    any_backend: str, dtype: torch.dtype, topology: str, periodic: bool, temperature: float
) -> None:
    """At most twice the rounding error that the eager formulas have in the same dtype; the search is exact."""
    skip_unless_supported(any_backend, dtype)
    grid = make_grid(9, 11, topology, periodic)
    z, prototypes = make_inputs(33, grid, 24, dtype)
    result = run(any_backend, z, prototypes, grid, temperature)
    check_bmu(result.bmu, z, prototypes)

    leaves = z.clone().requires_grad_(), prototypes.clone().requires_grad_()
    loss, bmu = reference.som_loss(*leaves, grid, temperature)
    eager = Result(loss.detach(), bmu, *torch.autograd.grad(loss, leaves))

    errors = []
    for one in (result, eager):
        true = truth(z, prototypes, grid, temperature, one.bmu)
        errors.append(
            (
                abs(one.loss.item() - true.loss),
                relative_error(one.grad_z, true.grad_z),
                relative_error(one.grad_prototypes, true.grad_prototypes),
            )
        )
    for ours, theirs in zip(*errors, strict=True):
        assert ours <= 2 * theirs


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("shape", [(127, 17, 127, 17), (1000, 9, 11, 3), (17, 3, 17, 1000)], ids=str)
def test_half_precision_search_is_exact(any_backend: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """Prototypes so close together that scores rounded to half precision could not tell them apart."""
    skip_unless_supported(any_backend, dtype)
    batch, rows, cols, dim = shape
    prototypes = (torch.randn(1, dim) + 0.05 * torch.randn(rows * cols, dim)).to(dtype)
    z = prototypes[torch.randint(rows * cols, (batch,))] + (0.05 * torch.randn(batch, dim)).to(dtype)
    bmu, distance = search(any_backend, z, prototypes)
    check_bmu(bmu, z, prototypes)
    exact = reference.distances(z.double(), prototypes.double()).gather(1, bmu[:, None])[:, 0]
    assert (distance.double() - exact).abs().max() <= 1e-6


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("narrow", ["z", "prototypes"])
def test_mixed_dtypes(any_backend: str, narrow: str, dtype: torch.dtype) -> None:
    """The wider dtype rules; the gradient of the narrow input is rounded to its dtype, and nothing else is."""
    grid = Grid(9, 11)
    z, prototypes = make_inputs(33, grid, 24)
    z, prototypes = (z.to(dtype), prototypes) if narrow == "z" else (z, prototypes.to(dtype))
    result = run(any_backend, z, prototypes, grid, 2.5)
    check_bmu(result.bmu, z, prototypes)
    true = truth(z, prototypes, grid, 2.5, result.bmu)
    assert result.loss.item() == pytest.approx(true.loss, rel=RELATIVE_TOLERANCE)
    for x, grad, true_grad in ((z, result.grad_z, true.grad_z), (prototypes, result.grad_prototypes, true.grad_prototypes)):
        assert grad.dtype == x.dtype
        assert relative_error(grad, true_grad.to(x.dtype)) <= RELATIVE_TOLERANCE + torch.finfo(x.dtype).eps / 4

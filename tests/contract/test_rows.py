"""Rows that are zero, tiny, huge or not finite."""

from __future__ import annotations

import math

import pytest
import torch
from contract_cases import HALF, make_inputs
from helpers import (
    GRADIENT_FLOOR,
    RELATIVE_TOLERANCE,
    check,
    check_bmu,
    relative_error,
    run,
    search,
    skip_unless_supported,
    truth,
)

from vitsom_fast import Grid


@pytest.mark.parametrize("temperature", [1e-3, 2.5])
@pytest.mark.parametrize("small", [0.0, 1e-13])
@pytest.mark.parametrize("which", ["z", "prototypes", "both"])
def test_zero_and_tiny_rows(any_backend: str, which: str, small: float, temperature: float) -> None:
    """Norms up to 1e-12 are divided by 1e-12: distance 1, and gradients that are 1e12 times those of other rows."""
    grid = Grid(7, 9)
    z, prototypes = make_inputs(33, grid, 24)
    rows = torch.tensor([0, 5, 32])
    inputs = {"z": z, "prototypes": prototypes}
    changed = ["z", "prototypes"] if which == "both" else [which]
    for name in changed:
        inputs[name][rows] *= small
    if "z" in changed and "prototypes" not in changed:
        z[1] = -z[1]
    result = run(any_backend, z, prototypes, grid, temperature)
    check_bmu(result.bmu, z, prototypes)
    true = truth(z, prototypes, grid, temperature, result.bmu)
    assert result.loss.item() == pytest.approx(true.loss, rel=RELATIVE_TOLERANCE)
    for name, grad, true_grad, pull in (
        ("z", result.grad_z, true.grad_z, true.pull_z),
        ("prototypes", result.grad_prototypes, true.grad_prototypes, true.pull_prototypes),
    ):
        assert grad.isfinite().all()
        is_small = torch.zeros(len(grad), dtype=torch.bool)
        is_small[rows] = name in changed
        for part in (is_small, ~is_small):
            if true_grad[part].any():
                assert relative_error(grad[part], true_grad[part]) < RELATIVE_TOLERANCE
            else:
                assert grad[part].norm() <= GRADIENT_FLOOR * pull
    if "z" in changed and small == 0:
        assert (result.bmu[rows] == 0).all()
        bmu, distance = search(any_backend, z, prototypes)
        assert (bmu[rows] == 0).all()
        assert (distance[rows] == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_zero_prototype_is_nearest_to_an_opposite_latent(any_backend: str, dtype: torch.dtype) -> None:
    skip_unless_supported(any_backend, dtype)
    prototypes = torch.rand(99, 24).add(0.1).to(dtype)
    prototypes[[41, 57]] = 0
    bmu, distance = search(any_backend, -torch.rand(33, 24).add(0.1).to(dtype), prototypes)
    assert (bmu == 41).all()
    assert (distance == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scales", [(1e30, 1.0), (1.0, 1e30), (1e30, 1e30), (1e-30, 1.0), (1.0, 1e-30)], ids=str)
def test_huge_and_tiny_values(
    request: pytest.FixtureRequest, any_backend: str, scales: tuple[float, float], dtype: torch.dtype
) -> None:
    skip_unless_supported(any_backend, dtype)
    if any_backend == "reference" and max(scales) > 1:
        reason = "PyTorch's norm sums the squares in fp32, which overflows beyond 1e19"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    grid = Grid(7, 9)
    z, prototypes = make_inputs(33, grid, 24)
    z, prototypes = (z * scales[0]).to(dtype), (prototypes * scales[1]).to(dtype)
    # fp32 ends at 1e-38: the gradients of values of 1e30 must not be made smaller still.
    grad_output = max(scales)
    result = run(any_backend, z, prototypes, grid, 2.5, reduction="sum", grad_output=grad_output)
    if dtype == torch.float32:
        check(result, z, prototypes, grid, 2.5, reduction="sum", grad_output=grad_output)
    else:
        check_bmu(result.bmu, z, prototypes)
        true = truth(z, prototypes, grid, 2.5, result.bmu, reduction="sum", grad_output=grad_output)
        assert result.loss.item() == pytest.approx(true.loss, rel=RELATIVE_TOLERANCE)
        assert relative_error(result.grad_z, true.grad_z) < 2**-8
        assert relative_error(result.grad_prototypes, true.grad_prototypes) < 2**-8


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("temperature", [1e-3, 2.5])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_latent(any_backend: str, bad: float, temperature: float, dtype: torch.dtype) -> None:
    skip_unless_supported(any_backend, dtype)
    grid = Grid(17, 31)
    z, prototypes = make_inputs(33, grid, 25, dtype)
    clean_bmu, _ = search(any_backend, z, prototypes)
    z[7, 3], z[32, 24] = bad, bad
    is_bad = torch.zeros(33, dtype=torch.bool)
    is_bad[[7, 32]] = True
    result = run(any_backend, z, prototypes, grid, temperature)
    assert result.loss.isnan()
    bmu, distance = search(any_backend, z, prototypes)
    for found in (result.bmu, bmu):
        assert found.min() >= 0
        assert found.max() < grid.num_prototypes
        assert torch.equal(found[~is_bad], clean_bmu[~is_bad])
    assert distance[is_bad].isnan().all()
    assert not distance[~is_bad].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("temperature", [1e-3, 2.5])
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("batch", [1, 200])
def test_non_finite_prototype(
    any_backend: str, batch: int, bad: float, topology: str, temperature: float, dtype: torch.dtype
) -> None:
    """Also where its weight is 0: it is in the last corner, the BMUs are in the first, and T is tiny."""
    skip_unless_supported(any_backend, dtype)
    grid = Grid(17, 31, topology)
    prototypes = torch.randn(grid.num_prototypes, 25).to(dtype)
    z = prototypes[:4].repeat(batch // 4 + 1, 1)[:batch]
    prototypes[-1, -1] = bad
    result = run(any_backend, z, prototypes, grid, temperature)
    assert result.loss.isnan()
    for bmu in (result.bmu, search(any_backend, z, prototypes)[0]):
        assert bmu.min() >= 0
        assert bmu.max() < grid.num_prototypes

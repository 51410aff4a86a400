"""Gradients: of one input, of many samples of one unit, scaled."""

from __future__ import annotations

import pytest
import torch
from contract_cases import make_inputs
from helpers import (
    RELATIVE_TOLERANCE,
    check,
    is_emulated,
    relative_error,
    run,
    skip_unless_supported,
    truth,
)

from vitsom_fast import Grid


@pytest.mark.parametrize("grad_output", [3.7, -0.01, 65536.0])
def test_gradient_of_a_multiple(any_backend: str, grad_output: float) -> None:
    grid = Grid(9, 11)
    z, prototypes = make_inputs(33, grid, 24)
    result = run(any_backend, z, prototypes, grid, 2.5, grad_output=grad_output)
    check(result, z, prototypes, grid, 2.5, grad_output=grad_output)


def test_scaled_loss_does_not_underflow(any_backend: str) -> None:
    """Unscaled, most of these gradients are subnormal in fp16 or 0; with a GradScaler's factor all are normal numbers."""
    skip_unless_supported(any_backend, torch.float16)
    grid, scale = Grid(30, 30), 65536.0
    z, prototypes = make_inputs(128, grid, 24, torch.float16)
    result = run(any_backend, z, prototypes, grid, 1.0, grad_output=scale)
    true = truth(z, prototypes, grid, 1.0, result.bmu, grad_output=scale)
    assert (true.grad_z / scale).abs().max() < torch.finfo(torch.float16).tiny
    # Rounding to fp16 is off by 2^-12 of a number on average; 2^-11 at worst.
    assert relative_error(result.grad_z, true.grad_z) < 2**-11
    assert relative_error(result.grad_prototypes, true.grad_prototypes) < 2**-11


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("batch", [4096, 20000])
def test_many_samples_of_one_unit(any_backend: str, batch: int, noise: float) -> None:
    """As before training: a plain fp32 sum of 4096 (20000) such samples is off by 2.5e-5 (1.6e-4), eager PyTorch by 1.5e-6."""
    grid = Grid(3, 3)
    prototypes = torch.randn(9, 17)
    if is_emulated(any_backend):
        batch = min(batch, 600)
    z = torch.randn(1, 17) + noise * torch.randn(batch, 17)
    check(run(any_backend, z, prototypes, grid, 1.0), z, prototypes, grid, 1.0)


@pytest.mark.parametrize("needs_grad", [(True, False), (False, True)])
def test_gradient_of_one_input_only(any_backend: str, needs_grad: tuple[bool, bool]) -> None:
    grid = Grid(9, 11, "hexagonal")
    inputs = make_inputs(33, grid, 24)
    result = run(any_backend, *inputs, grid, 2.5, needs_grad=needs_grad)
    true = truth(*inputs, grid, 2.5, result.bmu)
    for grad, true_grad, needed in zip(result[2:], (true.grad_z, true.grad_prototypes), needs_grad, strict=True):
        assert bool(grad.numel()) == needed
        if needed:
            assert relative_error(grad, true_grad) < RELATIVE_TOLERANCE


def test_loss_without_gradients_is_the_same(any_backend: str) -> None:
    grid = Grid(9, 11)
    inputs = make_inputs(33, grid, 24)
    result = run(any_backend, *inputs, grid, 2.5, needs_grad=(False, False))
    assert torch.equal(result.loss, run(any_backend, *inputs, grid, 2.5).loss)

"""Views, strides and expanded rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from contract_cases import HALF, make_inputs
from helpers import (
    RELATIVE_TOLERANCE,
    check,
    relative_error,
    run,
    search,
    skip_unless_supported,
)
from torch import Tensor

from vitsom_fast import Grid


def _within(shape: tuple[int, ...], view: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """x as a view into a larger tensor whose other elements are NaN."""
    target = view(torch.full(shape, torch.nan, dtype=x.dtype))
    return target.copy_(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.T.contiguous().T,
    "every second row": lambda x: _within((2 * x.shape[0], x.shape[1]), lambda t: t[::2], x),
    "every third column": lambda x: _within((x.shape[0], 3 * x.shape[1]), lambda t: t[:, 1::3], x),
    "columns of a wider one": lambda x: _within((x.shape[0], x.shape[1] + 5), lambda t: t[:, 2:-3], x),
    "unaligned": lambda x: _within((x.numel() + 3,), lambda t: t[3:].view(x.shape), x),
    "negative bit": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["z", "prototypes", "both"])
def test_memory_layouts(any_backend: str, which: str, layout: str) -> None:
    grid = Grid(9, 11, "hexagonal")
    z, prototypes = make_inputs(33, grid, 25)
    view = LAYOUTS[layout]
    strided = (z if which == "prototypes" else view(z)), (prototypes if which == "z" else view(prototypes))
    assert torch.equal(strided[0], z)
    assert torch.equal(strided[1], prototypes)
    check(run(any_backend, *strided, grid, 2.5), z, prototypes, grid, 2.5)
    bmu, distance = search(any_backend, *strided)
    plain_bmu, plain_distance = search(any_backend, z, prototypes)
    assert torch.equal(bmu, plain_bmu)
    assert torch.allclose(distance, plain_distance, atol=1e-6)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "negative bit"])  # complex numbers have no bf16
def test_memory_layouts_in_half_precision(any_backend: str, layout: str, dtype: torch.dtype) -> None:
    skip_unless_supported(any_backend, dtype)
    grid = Grid(9, 11)
    z, prototypes = make_inputs(33, grid, 25, dtype)
    strided = run(any_backend, LAYOUTS[layout](z), LAYOUTS[layout](prototypes), grid, 2.5)
    plain = run(any_backend, z, prototypes, grid, 2.5)
    assert torch.equal(strided.bmu, plain.bmu)
    assert strided.loss.item() == pytest.approx(plain.loss.item(), rel=RELATIVE_TOLERANCE)
    assert relative_error(strided.grad_z, plain.grad_z) < torch.finfo(dtype).eps
    assert relative_error(strided.grad_prototypes, plain.grad_prototypes) < torch.finfo(dtype).eps


@pytest.mark.parametrize("which", ["z", "prototypes"])
def test_expanded_input(any_backend: str, which: str) -> None:
    """A row of stride 0: its gradient is the sum over the rows that it stands for."""
    grid = Grid(5, 7)
    z, prototypes = make_inputs(33, grid, 24)
    row = torch.randn(1, 24)
    expanded = (row.expand_as(z), prototypes) if which == "z" else (z, row.expand_as(prototypes))
    check(run(any_backend, *expanded, grid, 2.5), *expanded, grid, 2.5)

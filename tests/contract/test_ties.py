"""Ties go to the lowest index; an empty batch has loss 0."""

from __future__ import annotations

import pytest
import torch
from contract_cases import HALF, make_inputs
from helpers import (
    check_bmu,
    run,
    search,
    skip_unless_supported,
)

from vitsom_fast import Grid


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
@pytest.mark.parametrize("dim", [1, 3, 17, 127])
@pytest.mark.parametrize(("count", "distinct"), [(17, 2), (127, 30), (1000, 300), (2159, 1000), (2159, 12)])
def test_equal_prototypes_give_the_lowest_index(backend: str, count: int, distinct: int, dim: int, dtype: torch.dtype) -> None:
    """Duplicates all over the map. A plain matrix product with argmax gets about 0.5 % of the rows wrong."""
    skip_unless_supported(backend, dtype)
    kinds = torch.randn(distinct, dim).to(dtype)
    if dim == 1:  # only the direction counts, and there are two
        kinds = kinds.sign()
    kind = torch.randint(distinct, (count,))
    prototypes = kinds[kind]
    z = torch.randn(1000, dim).to(dtype)
    bmu, _ = search(backend, z, prototypes)
    check_bmu(bmu, z, prototypes)
    same = (prototypes[bmu][:, None, :] == prototypes[None, :, :]).all(-1) if dim == 1 else kind[bmu][:, None] == kind[None, :]
    lowest = same.int().argmax(dim=1)  # the first of the prototypes that equal the BMU
    assert torch.equal(bmu, lowest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1000, 2159, 17), (17, 127, 1000), (127, 1000, 3)], ids=str)
def test_all_prototypes_equal(backend: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    skip_unless_supported(backend, dtype)
    batch, count, dim = shape
    prototypes = torch.randn(1, dim).to(dtype).expand(count, dim)
    z = torch.randn(batch, dim).to(dtype)
    assert not search(backend, z, prototypes)[0].any()
    assert not run(backend, z, prototypes, Grid(1, count), 2.0).bmu.any()


def test_negative_zero_equals_zero(backend: str) -> None:
    prototypes = torch.randn(99, 24)
    prototypes[:, ::2] = 0.0
    prototypes[70] = prototypes[30]
    prototypes[30, ::2] = -0.0
    z = prototypes[[70, 30]] + 0.01 * torch.randn(2, 24)
    assert search(backend, z, prototypes)[0].tolist() == [30, 30]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
@pytest.mark.parametrize("reduction", ["mean", "batchmean", "sum"])
def test_empty_batch(any_backend: str, reduction: str, dtype: torch.dtype) -> None:
    skip_unless_supported(any_backend, dtype)
    grid = Grid(3, 5, "hexagonal")
    z, prototypes = make_inputs(0, grid, 8, dtype)
    result = run(any_backend, z, prototypes, grid, 2.5, reduction=reduction)
    assert result.loss.item() == 0
    assert result.bmu.shape == (0,)
    assert result.bmu.dtype == torch.int64
    assert result.grad_z.shape == (0, 8)
    assert torch.equal(result.grad_prototypes, torch.zeros_like(prototypes))
    bmu, distance = search(any_backend, z, prototypes)
    assert bmu.shape == distance.shape == (0,)

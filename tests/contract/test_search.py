"""The search alone."""

from __future__ import annotations

import pytest
import torch
from contract_cases import HALF
from helpers import (
    LOW_PRECISION,
    check,
    check_bmu,
    is_emulated,
    low_precision_products,
    run,
    search,
    skip_unless_supported,
)

from vitsom_fast import Grid, reference


@pytest.mark.parametrize("shape", [(127, 2159, 17), (1000, 127, 127), (3, 1000, 3), (1, 1, 3), (17, 17, 1)], ids=str)
def test_find_bmu(any_backend: str, shape: tuple[int, int, int]) -> None:
    batch, count, dim = shape
    z, prototypes = torch.randn(batch, dim), torch.randn(count, dim)
    bmu, distance = search(any_backend, z, prototypes)
    check_bmu(bmu, z, prototypes)
    exact = reference.distances(z.double(), prototypes.double()).gather(1, bmu[:, None])[:, 0]
    assert (distance.double() - exact).abs().max() <= 1e-6
    assert torch.equal(bmu, run(any_backend, z, prototypes, Grid(1, count), 1.0).bmu)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("noise", [0.3, 0.03])
def test_find_bmu_in_a_smooth_map(any_backend: str, noise: float, dtype: torch.dtype) -> None:
    """Neighbouring prototypes are close, as after training: what an exact search may use, and where rounding decides most."""
    skip_unless_supported(any_backend, dtype)
    coordinates = Grid(33, 47).positions.float() / 20  # [K, 2]
    curve = torch.randn(2, 24)
    prototypes = (torch.sin(coordinates @ curve) + 1.0).to(dtype)
    z = prototypes[torch.randint(len(prototypes), (500,))] + (noise * torch.randn(500, 24)).to(dtype)
    bmu, _ = search(any_backend, z, prototypes)
    check_bmu(bmu, z, prototypes)


def test_lengths_do_not_matter(any_backend: str) -> None:
    z, prototypes = torch.randn(127, 24), torch.randn(999, 24)
    lengths = 10 ** torch.empty(999, 1).uniform_(-6, 6)
    check_bmu(search(any_backend, z, prototypes * lengths)[0], z, prototypes * lengths)


@pytest.mark.parametrize("how", LOW_PRECISION)
def test_products_stay_in_full_precision(backend: str, how: str) -> None:
    """Whatever the user allows elsewhere, and that stays as it was: scores in bf16 or TF32 would pick other BMUs."""
    grid, batch = (Grid(5, 13), 40) if is_emulated(backend) else (Grid(17, 31), 300)
    prototypes = torch.randn(1, 64) + 0.1 * torch.randn(grid.num_prototypes, 64)
    z = prototypes[torch.randint(grid.num_prototypes, (batch,))] + 0.1 * torch.randn(batch, 64)
    with low_precision_products(how):
        result, found = run(backend, z, prototypes, grid, 2.5), search(backend, z, prototypes)
    check(result, z, prototypes, grid, 2.5)
    assert torch.equal(found[0], result.bmu)

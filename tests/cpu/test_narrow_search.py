"""The search among rows in nearly one direction: by their differences from it, where cosines say nothing in fp32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from vitsom_fast import Grid, find_bmu, som_loss
from vitsom_fast.backends import cpu

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason="no kernels here")

GRID = Grid(30, 40)


def rows_in_one_direction(spread: float, dim: int, batch: int = 900) -> tuple[Tensor, Tensor]:
    """Samples near the prototypes of a map in order, of any lengths."""
    generator = torch.Generator().manual_seed(dim)
    waves = torch.sin(GRID.positions.float() / 13 @ torch.randn(2, dim, generator=generator))
    offset = torch.randn(1, dim, generator=generator)
    prototypes = offset + spread * (waves + 0.1 * torch.randn(GRID.num_prototypes, dim, generator=generator))
    z = prototypes[torch.randint(GRID.num_prototypes, (batch,), generator=generator)]
    z = z + 0.1 * spread * torch.randn(batch, dim, generator=generator)
    prototypes = prototypes * torch.exp2(torch.randint(-20, 20, (GRID.num_prototypes, 1), generator=generator).float())
    return z * 3, prototypes


def distances(z: Tensor, prototypes: Tensor) -> Tensor:
    """(B, K) fp64, as chords: 1 less a cosine in fp64 would have no digits left of the smallest."""
    z, prototypes = normalize(z.double()), normalize(prototypes.double())
    return torch.stack([(prototypes - row).square().sum(1) / 2 for row in z])


@pytest.mark.parametrize("dim", [9, 64, 200])
@pytest.mark.parametrize("spread", [3e-2, 3e-3, 1e-3, 1e-4, 1e-6, 1e-9, 0.0])
def test_the_bmu_is_that_of_fp64(spread: float, dim: int) -> None:
    z, prototypes = rows_in_one_direction(spread, dim)
    bmu, distance = find_bmu(z, prototypes, grid=GRID, backend="cpu")
    exact = distances(z, prototypes)
    own = exact.gather(1, bmu[:, None])[:, 0]
    assert (own - exact.min(1).values).max() <= 1e-12
    assert ((distance - own).abs() <= 1e-6).all()
    assert (distance >= 0).all()
    if 1e-6 <= spread <= 1e-3:
        assert cpu.search_counts(z, prototypes)["narrow"] > 0.9 * len(z)


def test_rows_in_other_directions_and_none() -> None:
    """Samples elsewhere, zeros and NaN among them are left to other passes; a prototype that is infinite is nobody's BMU."""
    z, prototypes = rows_in_one_direction(1e-4, 50)
    z[0], z[1, 3], z[2], z[3] = 0, torch.nan, -z[2], torch.randn(50, generator=torch.Generator().manual_seed(1))
    prototypes[17, 4] = torch.inf
    bmu, distance = find_bmu(z, prototypes, grid=GRID, backend="cpu")
    assert torch.equal(distance.isnan(), torch.arange(len(z)) == 1)
    assert bmu[0] == 0
    assert distance[0] == 1
    finite = torch.arange(GRID.num_prototypes) != 17
    others = torch.arange(len(z)) > 1
    assert finite[bmu[others]].all()
    exact = distances(z[others], prototypes[finite])
    assert ((distance[others] - exact.min(1).values).abs() <= 1e-6).all()


def test_of_equals_the_first() -> None:
    _, prototypes = rows_in_one_direction(1e-4, 50)
    prototypes[600:700], prototypes[800:900] = prototypes[100:200], prototypes[200:300] * 2**7
    bmu, _ = find_bmu(prototypes[600:700].repeat(8, 1), prototypes, grid=GRID, backend="cpu")
    assert torch.equal(bmu, torch.arange(100, 200).repeat(8))
    bmu, _ = find_bmu(prototypes[800:900].repeat(8, 1) * 2, prototypes, grid=GRID, backend="cpu")
    assert torch.equal(bmu, torch.arange(200, 300).repeat(8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    """Whose steps are larger than what such rows differ by: few prototypes are left that differ at all."""
    z, prototypes = rows_in_one_direction(1e-3, 30)
    z, prototypes = z.to(dtype), normalize(prototypes).to(dtype)
    bmu, _ = find_bmu(z, prototypes, grid=GRID, backend="cpu")
    exact = distances(z, prototypes)
    assert (exact.gather(1, bmu[:, None])[:, 0] - exact.min(1).values).max() <= 1e-12


def test_the_loss_goes_the_same_way() -> None:
    z, prototypes = (x.requires_grad_() for x in rows_in_one_direction(1e-4, 40))
    loss, bmu = som_loss(z, prototypes, GRID, 2.0, backend="cpu")
    loss.backward()
    exact = distances(z.detach(), prototypes.detach())
    assert (exact.gather(1, bmu[:, None])[:, 0] - exact.min(1).values).max() <= 1e-12
    assert z.grad is not None
    assert z.grad.isfinite().all()
    of_torch, _ = som_loss(z.double(), prototypes.double(), GRID, 2.0, backend="torch")
    weight = som_loss(-z.detach().double(), prototypes.detach().double(), GRID, 2.0, backend="torch")[0] / 2
    assert abs(loss.double() - of_torch) <= 1e-5 * of_torch + 1e-7 * weight

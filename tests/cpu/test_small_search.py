"""The search of many samples on a small map: one pass in fp32 that leaves what it cannot decide."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitsom_fast import find_bmu
from vitsom_fast.backends import cpu

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason="no kernels here")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def nearest(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """BMU, of equals the lowest, and cosine distance, in fp64."""
    z, prototypes = (torch.nn.functional.normalize(x.double()) for x in (z, prototypes))
    distance = 1 - z @ prototypes.T
    least = distance.min(1).values
    return (distance <= least[:, None] + 1e-15).int().argmax(1), least


@pytest.mark.parametrize("units", [1, 3, 4, 5, 17, 100, 127])
@pytest.mark.parametrize("dim", [2, 3, 7, 8, 9, 17, 33, 64])
def test_every_size(units: int, dim: int) -> None:
    """Blocks, groups and vectors that are full, and such that are not."""
    generator = torch.Generator().manual_seed(100 * units + dim)
    prototypes = torch.randn(units, dim, generator=generator)
    for batch in (1, 23, 24, 25, 131, 601):  # the last are enough for any of these maps
        z = torch.randn(batch, dim, generator=generator)
        bmu, distance = find_bmu(z, prototypes, backend="cpu")
        expected, least = nearest(z, prototypes)
        assert torch.equal(bmu, expected)
        torch.testing.assert_close(distance.double(), least.clamp(0, 2), rtol=1e-6, atol=1e-7)
    assert cpu.search_counts(z, prototypes)["small"] > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_a_view(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(500, 60, generator=generator).to(dtype)[::2, 20:40]
    prototypes = torch.randn(90, 40, generator=generator).to(dtype)[3:80, 7:27]
    assert torch.equal(find_bmu(z, prototypes, backend="cpu")[0], nearest(z, prototypes)[0])


def test_what_two_units_may_be_nearest_to_is_left() -> None:
    """Prototypes a rounding apart: fp32 cannot tell, and fp64 does."""
    generator = torch.Generator().manual_seed(1)
    prototypes = torch.randn(60, 20, generator=generator)
    prototypes[1::3] = prototypes[::3] * (1 + 1e-7 * torch.randn(20, 20, generator=generator))
    prototypes[2::3] = prototypes[::3] * 2  # the same direction: a tie
    z = prototypes[torch.arange(3000) % 60] + 0.1 * torch.randn(3000, 20, generator=generator)
    assert torch.equal(find_bmu(z, prototypes, backend="cpu")[0], nearest(z, prototypes)[0])
    assert cpu.search_counts(z, prototypes)["small"] == 0


def test_lengths_at_the_ends_of_fp32() -> None:
    generator = torch.Generator().manual_seed(2)
    z, prototypes = torch.randn(600, 10, generator=generator), torch.randn(50, 10, generator=generator)
    prototypes[1::10] = prototypes[::10] * (1 + 1e-7 * torch.randn(5, 10, generator=generator))
    expected = nearest(z, prototypes)[0]
    lengths = torch.tensor([-100.0, -75, -40, 0, 40, 75, 123]).exp2().repeat_interleave(100)[:600, None]
    assert torch.equal(find_bmu(z * lengths, prototypes, backend="cpu")[0], expected)
    for scale in (2**-36, 2.0**123):
        assert torch.equal(find_bmu(z, prototypes * scale, backend="cpu")[0], expected)


def test_rows_without_a_direction() -> None:
    generator = torch.Generator().manual_seed(3)
    z, prototypes = torch.randn(600, 10, generator=generator), torch.randn(50, 10, generator=generator)
    expected = nearest(z, prototypes)[0]
    z[::7] = 0
    z[3::7, 4] = torch.nan
    bmu, distance = find_bmu(z, prototypes, backend="cpu")
    assert (bmu[::7] == 0).all()
    assert (distance[::7] == 1).all()
    assert distance[3::7].isnan().all()
    kept = torch.ones(600, dtype=torch.bool)
    kept[::7] = kept[3::7] = False
    assert torch.equal(bmu[kept], expected[kept])


def test_prototypes_without_a_direction() -> None:
    generator = torch.Generator().manual_seed(4)
    z, prototypes = torch.randn(600, 10, generator=generator), torch.randn(50, 10, generator=generator)
    others = torch.cat([prototypes[:7], prototypes[8:]])
    expected = nearest(z, others)[0]
    expected += expected >= 7
    prototypes[7] = torch.inf
    assert torch.equal(find_bmu(z, prototypes, backend="cpu")[0], expected)
    prototypes[7] = 0  # at a distance of 1 from everything
    assert torch.equal(find_bmu(z, prototypes, backend="cpu")[0], nearest(z, prototypes)[0])


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_some_or_most_rows_undecided(share: float) -> None:
    """Where most are, the pass gives up early; either way each row has its BMU."""
    generator = torch.Generator().manual_seed(5)
    prototypes = torch.randn(40, 12, generator=generator)
    prototypes[39] = prototypes[0]
    z = torch.randn(9000, 12, generator=generator)
    near = prototypes[0] + 0.05 * torch.randn(9000, 12, generator=generator)
    z = torch.where(torch.rand(9000, 1, generator=generator) < share, near, z)
    small = cpu.search_counts(z, prototypes)["small"]
    assert 0 < small < 1024 * torch.get_num_threads() if share > 0.5 else 0.5 * 9000 < small < 9000
    assert torch.equal(find_bmu(z, prototypes, backend="cpu")[0], nearest(z, prototypes)[0])


def test_a_sum_that_leaves_fp32_on_its_way() -> None:
    z = torch.tensor([[3e38, 3e38, -3e38]]).expand(50, 3).contiguous()
    prototypes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])  # cosines 0.33, of whose sum two terms are infinite, and 0.58
    assert (find_bmu(z, prototypes, backend="cpu")[0] == 1).all()

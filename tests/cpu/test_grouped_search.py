"""The search in few features on a map in order: groups of near samples that look into the tiles that any of them may need."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitsom_fast import Grid, find_bmu
from vitsom_fast.backends import cpu

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason="no kernels here")

DISTANCES = ("cosine", "sqeuclidean")


def smooth_map(grid: Grid, dim: int, generator: torch.Generator) -> Tensor:
    """Prototypes (K, dim) that differ little from their neighbours, around a point that is not the origin."""
    place = grid.positions.float() / max(grid.rows, grid.cols)  # [K, 2]
    waves = torch.sin(4 * place @ torch.randn(2, dim, generator=generator) + 6 * torch.rand(dim, generator=generator))
    return waves + torch.randn(dim, generator=generator) + 0.01 * torch.randn(grid.num_prototypes, dim, generator=generator)


def near(prototypes: Tensor, batch: int, noise: float, generator: torch.Generator) -> Tensor:
    """Samples (batch, D) around prototypes."""
    chosen = prototypes[torch.randint(len(prototypes), (batch,), generator=generator)]
    return chosen + noise * torch.randn(chosen.shape, generator=generator)


def squares(z: Tensor, prototypes: Tensor, distance: str) -> Tensor:
    """(B, K) fp64: by cosine the distance, else its square."""
    z, prototypes = z.double(), prototypes.double()
    if distance == "cosine":
        return 1 - torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(prototypes).T
    return torch.cat([(part[:, None] - prototypes).square().sum(2) for part in z.split(64)])


def check(z: Tensor, prototypes: Tensor, grid: Grid | None, distance: str) -> None:
    """The BMUs are those of fp64, to the last bits of a distance, which may be between different units."""
    bmu, found = find_bmu(z, prototypes, distance=distance, grid=grid, backend="cpu")
    exact = squares(z, prototypes, distance)
    own = exact.gather(1, bmu[:, None])[:, 0]
    scale = 1.0 if distance == "cosine" else prototypes.double().square().sum(1).max() + z.double().square().sum(1)
    assert ((own - exact.min(1).values) <= 1e-12 * scale).all()
    torch.testing.assert_close(found.double(), own.clamp_min(0), rtol=1e-5, atol=3e-7)


def counts(z: Tensor, prototypes: Tensor, distance: str) -> dict[str, int]:
    if distance == "cosine":
        return cpu.search_counts(z, prototypes)
    return cpu.search_counts(z, prototypes, distance="sqeuclidean")


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("size", [(32, 32), (33, 35), (127, 9), (3, 400), (1, 1030), (1500, 1)], ids=str)
@pytest.mark.parametrize("dim", [1, 2, 3, 8, 15, 17, 31, 57])
def test_every_size(size: tuple[int, int], dim: int, distance: str) -> None:
    """Tiles, blocks, groups and vectors that are full, and such that are not; near the map and away from it."""
    if distance == "cosine" and dim == 1:
        pytest.skip("two directions")
    generator = torch.Generator().manual_seed(1000 * dim + size[0])
    grid = Grid(*size)
    prototypes = smooth_map(grid, dim, generator)
    for batch, noise in ((1001, 0.02), (700, 0.5)):
        z = near(prototypes, batch, noise, generator)
        check(z, prototypes, grid, distance)
        decided = counts(z, prototypes, distance)["grouped"]
        # Of samples all over the map, or many units in one direction, the pass leaves all but the first groups.
        assert decided > 0.9 * batch if noise < 0.1 and (dim > 7 or distance == "sqeuclidean") else decided > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rows_of_a_view_in_half_precision(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    grid = Grid(40, 33)
    prototypes = smooth_map(grid, 20, generator).to(dtype)[:, 5:16]
    z = near(prototypes.float(), 2000, 0.1, generator).to(dtype)[::2]
    check(z, prototypes, grid, "cosine")
    assert counts(z, prototypes, "cosine")["grouped"] > 0


@pytest.mark.parametrize("distance", DISTANCES)
def test_few_tiles_are_looked_into(distance: str) -> None:
    """Of 256 tiles a sample of a 2-dimensional surface, and little beside it, needs the one it is in and those around."""
    generator = torch.Generator().manual_seed(1)
    grid = Grid(64, 64)
    prototypes = smooth_map(grid, 12, generator)
    z = near(prototypes, 8000, 0.02, generator)
    found = counts(z, prototypes, distance)
    assert found["grouped"] == 8000
    assert found["tiles"] < 8000 * 25


@pytest.mark.parametrize("distance", DISTANCES)
def test_what_fp32_cannot_tell_apart(distance: str) -> None:
    """Copies far away on the map, and prototypes a rounding apart: the same pass decides in fp64, the first of equals."""
    generator = torch.Generator().manual_seed(2)
    grid = Grid(40, 40)
    prototypes = smooth_map(grid, 9, generator)
    prototypes[1100:1200] = prototypes[100:200]
    prototypes[400:500] = prototypes[401:501] * (1 + 1e-7 * torch.randn(100, 9, generator=generator))
    chosen = torch.cat([torch.arange(1100, 1200), torch.arange(400, 500)]).repeat(10)
    z = prototypes[chosen] + 1e-4 * torch.randn(2000, 9, generator=generator)
    check(z, prototypes, grid, distance)
    assert counts(z, prototypes, distance)["grouped"] == 2000
    bmu, _ = find_bmu(prototypes[1100:1200].repeat(10, 1), prototypes, distance=distance, grid=grid, backend="cpu")
    assert torch.equal(bmu, torch.arange(100, 200).repeat(10))


def test_a_map_of_copies_is_left_to_the_next_pass() -> None:
    generator = torch.Generator().manual_seed(3)
    prototypes = torch.randn(1, 6, generator=generator).expand(1600, 6).contiguous()
    prototypes = prototypes * (1 + 1e-9 * torch.arange(1600)[:, None])
    prototypes[::16] += 0.3 * torch.randn(100, 6, generator=generator)
    z = prototypes[3] + 1e-3 * torch.randn(3000, 6, generator=generator)
    check(z, prototypes, Grid(40, 40), "cosine")
    assert counts(z, prototypes, "cosine")["grouped"] < 2500


def test_a_map_in_no_order_is_left_to_the_next_pass() -> None:
    generator = torch.Generator().manual_seed(4)
    prototypes = torch.randn(1600, 6, generator=generator)
    z = torch.randn(3000, 6, generator=generator)
    for distance in DISTANCES:
        assert counts(z, prototypes, distance)["grouped"] == 0


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_list_without_a_grid(distance: str) -> None:
    generator = torch.Generator().manual_seed(5)
    prototypes = smooth_map(Grid(30, 50), 7, generator)
    check(near(prototypes, 900, 0.1, generator), prototypes, None, distance)


@pytest.mark.parametrize("distance", DISTANCES)
def test_samples_far_from_the_map(distance: str) -> None:
    """Lengths over 20 powers of ten in one group."""
    generator = torch.Generator().manual_seed(6)
    grid = Grid(36, 36)
    prototypes = smooth_map(grid, 5, generator)
    z = near(prototypes, 1000, 0.1, generator)
    z *= torch.logspace(-8, 12, 1000)[torch.randperm(1000, generator=generator)][:, None]
    check(z, prototypes, grid, distance)


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**-20, 2.0**40, 2.0**62])
@pytest.mark.parametrize("distance", DISTANCES)
def test_any_unit_of_length(distance: str, scale: float) -> None:
    generator = torch.Generator().manual_seed(7)
    grid = Grid(36, 36)
    prototypes = smooth_map(grid, 5, generator)
    z = near(prototypes, 1000, 0.1, generator)
    expected, _ = find_bmu(z, prototypes, distance=distance, grid=grid, backend="cpu")
    if distance == "cosine" and scale < 1e-12:
        pytest.skip("shorter than eps")
    assert torch.equal(find_bmu(z * scale, prototypes * scale, distance=distance, grid=grid, backend="cpu")[0], expected)


@pytest.mark.parametrize("distance", DISTANCES)
def test_rows_and_prototypes_that_are_none(distance: str) -> None:
    """NaN, infinity and zeros, among samples and among prototypes, a whole block of tiles of these."""
    generator = torch.Generator().manual_seed(8)
    grid = Grid(48, 48)
    prototypes = smooth_map(grid, 10, generator)
    z = near(prototypes, 2000, 0.1, generator)
    kept = torch.ones(grid.rows, grid.cols, dtype=torch.bool)
    kept[:16, :16] = kept[20, :] = False
    kept = kept.flatten()
    prototypes[~kept] = torch.tensor([torch.nan, torch.inf])[torch.arange(int((~kept).sum())) % 2][:, None]
    z[::7, 3], z[1::7, 4] = torch.nan, torch.inf
    z[2::7] = 0
    bmu, found = find_bmu(z, prototypes, distance=distance, grid=grid, backend="cpu")
    is_none = torch.zeros(2000, dtype=torch.bool)
    is_none[::7] = is_none[1::7] = True
    assert torch.equal(found.isnan(), is_none)
    is_zero = torch.zeros(2000, dtype=torch.bool)
    is_zero[2::7] = distance == "cosine"
    ordinary = ~is_none & ~is_zero
    assert kept[bmu[ordinary]].all()
    exact = squares(z[ordinary], prototypes[kept], distance)
    torch.testing.assert_close(found[ordinary].double(), exact.min(1).values, rtol=1e-5, atol=3e-7)
    assert (found[is_zero] == 1).all()


def test_the_same_by_any_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(9)
    grid = Grid(50, 50)
    prototypes = smooth_map(grid, 8, generator)
    z = near(prototypes, 5000, 0.2, generator)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(find_bmu(z, prototypes, distance="sqeuclidean", grid=grid, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    for bmu, distance in found[1:]:
        assert torch.equal(bmu, found[0][0])
        assert torch.equal(distance, found[0][1])

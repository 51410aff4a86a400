"""Where prototypes begin."""

from __future__ import annotations

import pytest
import torch

from vitsom_fast import FusedSOMLoss, Grid
from vitsom_fast.initialization import METHODS, principal_axes


def test_pca_is_a_plane_through_the_mean_along_the_largest_variances() -> None:
    x = torch.randn(400, 5, dtype=torch.float64) * torch.tensor([1.0, 9.0, 0.1, 4.0, 0.2]) + 7
    module = FusedSOMLoss((3, 5), 5, dtype=torch.float64).initialize_(x)
    grid = module.prototypes.detach().view(3, 5, 5)
    assert torch.allclose(grid.mean(dim=(0, 1)), x.mean(dim=0))
    assert torch.allclose(grid[:, 1:] - grid[:, :-1], (grid[:1, 1:2] - grid[:1, :1]).expand(3, 4, 5))  # equal steps
    along_cols, along_rows = grid[0, -1] - grid[0, 0], grid[-1, 0] - grid[0, 0]
    assert along_cols.abs().argmax() == 1
    assert along_rows.abs().argmax() == 3
    assert along_cols.norm() == pytest.approx(2 * 9, rel=0.1)
    assert along_rows.norm() == pytest.approx(2 * 4, rel=0.1)
    assert torch.equal(module.prototypes, FusedSOMLoss((3, 5), 5, dtype=torch.float64).initialize_(x).prototypes)


def test_axes_of_large_data_are_those_of_the_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(300, 40) * 1.3 ** torch.arange(-10.0, 30.0)
    x = x - x.mean(dim=0)
    exact = principal_axes(x.double())
    monkeypatch.setattr("vitsom_fast.initialization._MOST_EXACT", 16)
    state = torch.random.get_rng_state()
    found = principal_axes(x)
    assert torch.equal(state, torch.random.get_rng_state())
    for one, other in zip(found.double(), exact, strict=True):
        assert min((one - other).norm(), (one + other).norm()) < 0.05 * other.norm()


def test_samples_are_rows_each_once_as_far_as_there_are_enough() -> None:
    x = torch.randn(10, 3)
    for side, times in ((3, 1), (5, 3)):
        module = FusedSOMLoss((side, side), 3).initialize_(x, method="sample", generator=torch.Generator().manual_seed(1))
        counts = (module.prototypes[:, None] == x).all(dim=2).sum(dim=0)
        assert counts.sum() == side * side
        assert counts.max() <= times
        again = FusedSOMLoss((side, side), 3).initialize_(x, method="sample", generator=torch.Generator().manual_seed(1))
        assert torch.equal(again.prototypes, module.prototypes)


def test_random_prototypes_have_mean_and_deviation_of_the_data() -> None:
    x = torch.randn(500, 3) * torch.tensor([1.0, 5.0, 0.0]) + torch.tensor([3.0, -2.0, 8.0])
    module = FusedSOMLoss((30, 30), 3).initialize_(x, method="random", generator=torch.Generator().manual_seed(1))
    found = module.prototypes.detach()
    assert torch.allclose(found.mean(dim=0), x.mean(dim=0), atol=0.5)
    assert torch.allclose(found.std(dim=0), x.std(dim=0), rtol=0.15)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 6), (2, 2, 3), (40, 6)], ids=str)
def test_any_data(method: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    module = FusedSOMLoss((4, 2), 6, dtype=dtype)
    assert module.initialize_(torch.rand(shape).to(dtype), method=method) is module
    assert module.prototypes.dtype == dtype
    assert module.prototypes.requires_grad
    assert module.prototypes.isfinite().all()


@pytest.mark.parametrize("grid_size", [(1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e20])
def test_a_chain_goes_through_the_mean(grid_size: tuple[int, int], scale: float) -> None:
    x = (torch.randn(300, 3) * torch.tensor([5.0, 2.0, 1.0]) + 3) * scale
    prototypes = FusedSOMLoss(grid_size, 3).initialize_(x).prototypes.detach()
    assert torch.allclose(prototypes.mean(dim=0), x.mean(dim=0), rtol=1e-4)
    if max(grid_size) > 1:
        assert (prototypes[-1] - prototypes[0]).abs().argmax() == 0


def test_what_is_no_data_is_refused() -> None:
    module = FusedSOMLoss((2, 3), 4)
    with pytest.raises(ValueError, match=r"method must be one of .*got 'zeros'"):
        module.initialize_(torch.rand(5, 4), method="zeros")
    with pytest.raises(TypeError, match=r"z must be a floating torch\.Tensor, got torch\.int64"):
        module.initialize_(torch.ones(5, 4, dtype=torch.int64))
    for shape in ((5, 3), (0, 4), (4,)):
        with pytest.raises(ValueError, match="z must have shape"):
            module.initialize_(torch.rand(shape))
    with pytest.raises(ValueError, match="z must be finite"):
        module.initialize_(torch.full((2, 4), torch.nan))


def test_a_grid_of_one_unit_begins_at_the_mean() -> None:
    x = torch.randn(20, 3)
    module = FusedSOMLoss((1, 1), 3).initialize_(x)
    assert module.grid == Grid(1, 1)
    assert module.prototypes.shape == (1, 3)

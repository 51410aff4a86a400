"""Maps with an axis too long for its matrix, under every distance and neighborhood: the same numbers as of shorter ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import relative_error

from vitsom_fast import Grid, batch_update, long_axis_pairs, neighborhoods, reference, som_loss
from vitsom_fast.functional import DISTANCES
from vitsom_fast.neighborhoods import NEIGHBORHOODS

GRIDS = [Grid(4, 5), Grid(4, 5, periodic=True), Grid(5, 3, "hexagonal"), Grid(4, 3, "hexagonal", periodic=True), Grid(1, 9)]


@pytest.mark.parametrize("neighborhood", NEIGHBORHOODS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_an_axis_too_long_for_its_matrix(monkeypatch: pytest.MonkeyPatch, distance: str, neighborhood: str) -> None:
    """The formulas for a few samples at a time, and the same once more where the losses are differentiated."""
    monkeypatch.setattr(neighborhoods, "LONGEST_AXIS", 8)
    monkeypatch.setattr(long_axis_pairs, "_PAIRS", 40)
    grid = Grid(1, 13, periodic=neighborhood == "bubble")
    z, prototypes = torch.randn(9, 5, requires_grad=True), torch.randn(13, 5, requires_grad=True)
    weight = torch.rand(9)
    for reduction, sample_weight in (("none", None), ("mean", weight), ("batchmean", None)):
        how: dict[str, Any] = {"reduction": reduction, "sample_weight": sample_weight, "distance": distance}
        results = []
        for loss, dtype in ((som_loss, torch.float32), (reference.som_loss, torch.float64)):
            inputs = [x.detach().to(dtype).requires_grad_() for x in (z, prototypes)]
            value, bmu = loss(*inputs, grid, 1.7, neighborhood=neighborhood, **how)
            results.append((value, bmu, *torch.autograd.grad(value.sum(), inputs)))
        assert torch.equal(results[0][1], results[1][1])
        for place in (0, 2, 3):
            assert relative_error(results[0][place].detach(), results[1][place].detach()) < 1e-5


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_weights_of_pairs(grid: Grid) -> None:
    for neighborhood in NEIGHBORHOODS if grid.topology == "rectangular" else NEIGHBORHOODS[:-1]:
        every = torch.arange(grid.num_prototypes)
        weights = long_axis_pairs.PairWeights(grid, 1.3, neighborhood, torch.empty(0, dtype=torch.float64)).of(every)
        expected = reference.neighborhood_weights(every, grid, 1.3, torch.float64, neighborhood)
        assert torch.allclose(weights, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_on_a_long_axis(monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
    monkeypatch.setattr(neighborhoods, "LONGEST_AXIS", 8)
    for distance in DISTANCES:
        z, prototypes = torch.randn(5, 3), torch.randn(13, 3)
        z[2, 1] = bad
        losses, _ = som_loss(z, prototypes, Grid(1, 13), 0.1, distance=distance, reduction="none")
        assert losses.isnan().tolist() == [False, False, True, False, False]
        z[2], prototypes[4, 0] = 0.0, bad
        assert som_loss(z, prototypes, Grid(1, 13), 0.1, distance=distance, reduction="none")[0].isnan().all()
        assert som_loss(z[:0], prototypes, Grid(1, 13), 0.1, distance=distance, reduction="batchmean")[0] == 0


@pytest.mark.parametrize("neighborhood", NEIGHBORHOODS)
def test_a_batch_update_on_a_long_axis(monkeypatch: pytest.MonkeyPatch, neighborhood: str) -> None:
    grid, z, prototypes = Grid(13, 2), torch.randn(30, 5) + 3, torch.randn(26, 5) + 3
    expected, bmu = batch_update(z, prototypes, grid, 1.7, neighborhood=neighborhood, distance="sqeuclidean")
    monkeypatch.setattr(neighborhoods, "LONGEST_AXIS", 8)
    monkeypatch.setattr(long_axis_pairs, "_PAIRS", 60)
    updated, same = batch_update(z, prototypes, grid, 1.7, neighborhood=neighborhood, distance="sqeuclidean")
    assert torch.equal(same, bmu)
    reached = (reference.neighborhood_weights(bmu, grid, 1.7, torch.float64, neighborhood).sum(dim=0) > 1e-3)[:, None]
    assert torch.allclose(updated.where(reached, 0), expected.where(reached, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("neighborhood", NEIGHBORHOODS)
def test_a_temperature_on_a_long_axis(monkeypatch: pytest.MonkeyPatch, neighborhood: str) -> None:
    """No gradient runs through it, and one that is not positive gives NaN."""
    monkeypatch.setattr(neighborhoods, "LONGEST_AXIS", 8)
    z, prototypes = torch.randn(5, 3, requires_grad=True), torch.randn(13, 3)
    temperature = torch.tensor(2.0, requires_grad=True)
    how: dict[str, Any] = {"distance": "sqeuclidean", "neighborhood": neighborhood}
    som_loss(z, prototypes, Grid(1, 13), temperature, **how)[0].backward()
    assert temperature.grad is None
    for bad in (0.0, -1.0):
        assert som_loss(z, prototypes, Grid(1, 13), torch.tensor(bad), **how)[0].isnan()


def test_a_chain_of_twenty_thousand_units() -> None:
    """Whose matrix would have 400 million numbers."""
    grid, z, prototypes = Grid(20000, 1), torch.randn(3, 2, requires_grad=True), torch.randn(20000, 2)
    loss, bmu = som_loss(z, prototypes, grid, 2.0, distance="sqeuclidean", neighborhood="bubble", reduction="sum")
    near = prototypes[(bmu[:, None] + torch.arange(-2, 3)).clamp(0, 19999)]  # [3, 5, D]
    assert loss.item() == pytest.approx((z[:, None] - near).square().sum().item(), rel=1e-5)
    assert relative_error(torch.autograd.grad(loss, z)[0], 2 * (z[:, None] - near).sum(dim=1).detach()) < 1e-5
    updated, _ = batch_update(z.detach()[:1], prototypes, grid, 2.0, distance="sqeuclidean", neighborhood="bubble")
    assert torch.allclose(updated[bmu[0]], z[0].detach())

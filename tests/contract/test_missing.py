"""Features that were not measured: distances over the others, in searches, updates and metrics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vitsom_fast import Grid, batch_update, find_bmu, metrics, reference
from vitsom_fast.functional import DISTANCES


def _data(count: int = 60, units: int = 35, dim: int = 9, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    z = torch.randn(count, dim) + offset
    z[torch.rand(count, dim) < 0.4] = torch.nan
    z[:, 0] = torch.where(z.isnan().all(dim=1), offset, z[:, 0])
    return z, torch.randn(units, dim) + offset


def _literal(z: Tensor, prototypes: Tensor, distance: str) -> Tensor:
    """(N, K) in fp64: of each sample the reference's distance over the features that it has."""
    rows = []
    for row in z.double():
        known = ~row.isnan()
        rows.append(reference.distances(row[known][None], prototypes.double()[:, known], distance)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("distance", DISTANCES)
def test_search_over_what_is_known(any_backend: str, distance: str, offset: float, k: int) -> None:
    if any_backend in ("triton", "cuda"):
        pytest.skip("in PyTorch operations: as torch")
    z, prototypes = _data(offset=offset)
    bmu, nearest = find_bmu(z, prototypes, distance=distance, missing="ignore", k=k, backend=any_backend)
    d = _literal(z, prototypes, distance)
    expected = d.sort(dim=1, stable=True)
    assert torch.equal(bmu.view(60, k), expected.indices[:, :k])
    assert torch.allclose(nearest.view(60, k).double(), expected.values[:, :k], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
def test_whole_rows_are_as_without(distance: str) -> None:
    z, prototypes = torch.randn(40, 7), torch.randn(30, 7)
    for one, other in zip(
        find_bmu(z, prototypes, distance=distance, missing="ignore"), find_bmu(z, prototypes, distance=distance), strict=True
    ):
        assert torch.allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_row_of_nothing_is_not_finite(distance: str) -> None:
    z, prototypes = _data(5, 6, 4)
    z[1], z[2, 0] = torch.nan, torch.inf
    bmu, nearest = find_bmu(z, prototypes, distance=distance, missing="ignore")
    assert nearest.isnan().tolist() == [False, True, True, False, False]
    assert ((bmu >= 0) & (bmu < 6)).all()
    assert find_bmu(z, prototypes, distance=distance)[1].isnan().sum() >= 2  # by default a NaN is an error


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("distance", ["sqeuclidean", "manhattan"])
def test_update_is_the_mean_of_what_is_known(distance: str, weighted: bool) -> None:
    grid, (z, prototypes) = Grid(5, 7), _data(offset=50.0)
    weight = torch.rand(60) if weighted else None
    updated, bmu = batch_update(z, prototypes, grid, 1.5, distance=distance, missing="ignore", sample_weight=weight)
    h = reference.neighborhood_weights(bmu, grid, 1.5, torch.float64) * (1.0 if weight is None else weight.double()[:, None])
    known = (~z.isnan()).double()
    expected = (h.T @ z.double().nan_to_num(0.0)) / (h.T @ known)
    assert torch.allclose(updated.double(), expected, rtol=1e-5)


def test_a_feature_that_nobody_has_stays() -> None:
    z, prototypes = torch.randn(10, 3), torch.randn(6, 3)
    z[:, 1] = torch.nan
    updated, _ = batch_update(z, prototypes, Grid(2, 3), 1.0, distance="euclidean", missing="ignore")
    assert torch.equal(updated[:, 1], prototypes[:, 1])
    assert updated.isfinite().all()
    assert (updated[:, 0] != prototypes[:, 0]).any()


def test_metrics_over_what_is_known() -> None:
    (z, prototypes), grid = _data(), Grid(5, 7)
    d = _literal(z, prototypes, "euclidean").sort(dim=1)
    found = metrics.quantization_error(z, prototypes, distance="euclidean", missing="ignore")
    assert found == pytest.approx(d.values[:, 0].mean().item(), rel=1e-6)
    apart = torch.linalg.vector_norm(grid.positions[d.indices[:, 0]] - grid.positions[d.indices[:, 1]], dim=1) > 1.5
    error = metrics.topographic_error(z, prototypes, grid, distance="euclidean", missing="ignore")
    assert error == pytest.approx(apart.double().mean().item())
    assert math.isnan(metrics.quantization_error(z, prototypes, distance="euclidean"))


def test_what_is_no_way_to_treat_them_is_refused() -> None:
    z, prototypes = torch.randn(3, 2), torch.randn(4, 2)
    for call in (
        lambda: find_bmu(z, prototypes, missing="drop"),
        lambda: batch_update(z, prototypes, Grid(2, 2), 1.0, missing="drop"),
    ):
        with pytest.raises(ValueError, match=r"missing must be one of .*got 'drop'"):
            call()

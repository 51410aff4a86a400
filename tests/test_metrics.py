"""Purity, NMI, topographic error and U-matrix against cases worked out by hand or by brute force."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitsom_fast import Grid, metrics
from vitsom_fast.grid import wrap


def test_purity_counts_the_majority_of_every_unit() -> None:
    bmu = torch.tensor([0, 0, 0, 2, 2, 7])
    labels = torch.tensor([1, 1, 0, 3, 3, 0])
    assert metrics.purity(bmu, labels) == pytest.approx(5 / 6)


@pytest.mark.parametrize("measure", [metrics.purity, metrics.nmi])
def test_one_unit_a_class_is_perfect_whatever_the_names(measure: object) -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    assert callable(measure)
    assert measure(torch.tensor([8, 3, 5])[labels], labels) == pytest.approx(1.0)


def test_nmi_of_independent_labels_is_zero() -> None:
    assert metrics.nmi(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("measure", [metrics.purity, metrics.nmi])
@pytest.mark.parametrize(("bmus", "labels"), [(3, 4), (0, 0)])
def test_unpaired_labels_are_refused(measure: object, bmus: int, labels: int) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="bmu and labels"):
        measure(torch.zeros(bmus, dtype=torch.int64), torch.zeros(labels, dtype=torch.int64))


def test_class_counts() -> None:
    counts = metrics.class_counts(torch.tensor([1, 1, 3]), torch.tensor([0, 2, 2]), 4)
    assert counts.tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0], [0, 0, 1]]


def _between(first: int, second: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A latent whose best and second-best of ``count`` orthogonal prototypes are the two given."""
    prototypes = torch.eye(count)
    return 2 * prototypes[first : first + 1] + prototypes[second : second + 1], prototypes


@pytest.mark.parametrize(
    ("grid", "first", "second", "error"),
    [
        (Grid(3, 3), 4, 0, 0.0),  # a corner of the 8 neighbours
        (Grid(3, 3), 3, 5, 1.0),  # two columns away
        (Grid(3, 3), 0, 8, 1.0),
        (Grid(3, 4), 0, 3, 1.0),  # the ends of a row
        (Grid(3, 4, periodic=True), 0, 3, 0.0),  # and across the seam
        (Grid(3, 4, periodic=True), 0, 11, 0.0),
        (Grid(3, 3, "hexagonal"), 4, 1, 0.0),  # odd row 1, column 1: neighbours are columns 1 and 2 above
        (Grid(3, 3, "hexagonal"), 4, 2, 0.0),
        (Grid(3, 3, "hexagonal"), 4, 0, 1.0),
        (Grid(4, 3, "hexagonal", periodic=True), 0, 11, 0.0),  # row 3 is above row 0, shifted
        (Grid(4, 3, "hexagonal"), 0, 11, 1.0),
    ],
)
def test_topographic_error_knows_the_neighbours(grid: Grid, first: int, second: int, error: float) -> None:
    assert metrics.topographic_error(*_between(first, second, grid.num_prototypes), grid) == error


def test_topographic_error_is_a_share_and_works_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(3, 3)
    z = torch.cat([_between(4, other, 9)[0] for other in (0, 1, 2, 3)] + [_between(0, other, 9)[0] for other in (2, 5, 6, 8)])
    monkeypatch.setattr(metrics, "_CHUNK", 27)
    assert metrics.topographic_error(z, torch.eye(9), grid) == 0.5


def test_topographic_error_of_one_unit_is_zero() -> None:
    assert metrics.topographic_error(torch.rand(4, 3), torch.rand(1, 3), Grid(1, 1)) == 0.0


GRIDS = [
    Grid(rows, cols, topology, periodic)
    for rows, cols in ((1, 1), (1, 5), (5, 1), (2, 2), (2, 5), (4, 2), (6, 5))
    for topology in ("rectangular", "hexagonal")
    for periodic in (False, True)
    if not (periodic and topology == "hexagonal" and rows % 2)
]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_u_matrix_is_the_mean_distance_to_the_neighbours(grid: Grid) -> None:
    prototypes = torch.randn(grid.num_prototypes, 7, dtype=torch.float64)
    offset = grid.positions[:, None] - grid.positions[None]
    if grid.periodic:
        offset = torch.stack([wrap(offset[..., axis], grid.extent[axis]) for axis in (0, 1)], dim=-1)
    adjacent = (offset.norm(dim=-1) < 1.5) & ~torch.eye(grid.num_prototypes, dtype=torch.bool)
    distance = 1 - F.normalize(prototypes) @ F.normalize(prototypes).T
    expected = (distance * adjacent).sum(1) / adjacent.sum(1).clamp_min(1)
    torch.testing.assert_close(metrics.u_matrix(prototypes, grid).flatten().double(), expected, rtol=1e-5, atol=1e-6)


def test_u_matrix_shows_the_ridge_between_two_clusters() -> None:
    prototypes = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3)
    assert metrics.u_matrix(prototypes, Grid(1, 6)).tolist() == [[0.0, 0.0, 0.5, 0.5, 0.0, 0.0]]

"""Purity, NMI, topographic error and U-matrix against cases worked out by hand or by brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from vitsom_fast import Grid, find_bmu, metrics
from vitsom_fast.backends.distances import nearest
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


BMU = torch.tensor([0, 0, 0, 2, 2, 7])
CLASSES = torch.tensor([1, 1, 0, 3, 3, 0])


@pytest.mark.parametrize("names", [[-(10**15), 10**15, 7, -2], [0, 10**8, 5, 10**9]])
def test_classes_may_be_ids(names: list[int]) -> None:
    labels = torch.tensor(names)[CLASSES]
    assert metrics.purity(BMU, labels) == pytest.approx(5 / 6)
    assert metrics.purity(BMU * 10**12, labels.double()) == pytest.approx(5 / 6)
    assert metrics.nmi(BMU, labels) == pytest.approx(metrics.nmi(BMU, CLASSES))


def test_as_many_classes_and_units_as_samples() -> None:
    every = torch.arange(300_000)
    assert metrics.purity(every, every.flip(0)) == 1.0


@pytest.mark.parametrize(
    ("dtype", "missing"),
    [(torch.int64, -1), (torch.int8, -1), (torch.float32, -1), (torch.float32, math.nan), (torch.float16, math.nan)],
)
def test_samples_without_a_label_are_left_out(dtype: torch.dtype, missing: float) -> None:
    bmu = torch.cat([BMU, torch.tensor([0, 0, 0, 7, 1])])
    labels = torch.cat([CLASSES.to(dtype), torch.full((5,), missing, dtype=dtype)])
    assert metrics.purity(bmu, labels) == pytest.approx(5 / 6)
    assert metrics.nmi(bmu, labels) == pytest.approx(metrics.nmi(BMU, CLASSES))
    assert math.isnan(metrics.purity(bmu[6:], labels[6:]))
    assert math.isnan(metrics.nmi(bmu[6:], labels[6:]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_the_largest_unsigned_number_is_a_label(dtype: torch.dtype) -> None:
    labels = torch.tensor([1, 1, torch.iinfo(dtype).max]).to(dtype)
    assert metrics.purity(torch.tensor([0, 0, 0]), labels) == pytest.approx(2 / 3)


@pytest.mark.parametrize("measure", [metrics.purity, metrics.nmi])
def test_what_is_no_tensor_of_units_is_refused(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(TypeError, match=r"bmu .*float32"):
        measure(torch.zeros(3), torch.zeros(3))
    with pytest.raises(TypeError, match=r"labels .*list"):
        measure(torch.zeros(3, dtype=torch.int64), [0, 0, 0])


def test_class_counts_leave_out_what_has_no_label() -> None:
    counts = metrics.class_counts(torch.tensor([1, 1, 3, 0]), torch.tensor([0, -1, 2, -1]), 4)
    assert counts.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert metrics.class_counts(torch.tensor([1, 1]), torch.tensor([-1, -1]), 4).shape == (4, 0)


@pytest.mark.parametrize("labels", [[0, -2], [0, 10**9], [0, 2**62]])
def test_class_counts_of_ids_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=f"labels .*{labels[1]}.*number them first"):
        metrics.class_counts(torch.tensor([0, 1]), torch.tensor(labels), 4)


@pytest.mark.parametrize("unit", [-1, 4])
def test_class_counts_of_other_units_are_refused(unit: int) -> None:
    with pytest.raises(ValueError, match=f"bmu must be from 0 to 3, got .*{unit}"):
        metrics.class_counts(torch.tensor([0, unit]), torch.tensor([0, 1]), 4)


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
    monkeypatch.setattr(nearest, "_SCORES", 27)
    assert metrics.topographic_error(z, torch.eye(9), grid) == 0.5


@pytest.fixture
def ordered() -> tuple[torch.Tensor, torch.Tensor, Grid]:
    """Latents beside the units of a map in perfect order."""
    grid = Grid(20, 20)
    prototypes = torch.sin(grid.positions.float() @ torch.randn(2, 64) / 20 + torch.rand(64) * 6)
    return prototypes[torch.randint(400, (500,))] + 0.05 * torch.randn(500, 64), prototypes, grid


def _exact_error(z: torch.Tensor, prototypes: torch.Tensor, grid: Grid) -> float:
    pairs = (F.normalize(z.double()) @ F.normalize(prototypes.double()).T).topk(2, dim=1).indices.cpu()  # [N, 2]
    apart = (grid.positions[pairs[:, 0]] - grid.positions[pairs[:, 1]]).norm(dim=1)
    return (apart > metrics.ADJACENT).double().mean().item()


@pytest.mark.parametrize("dtypes", [(torch.bfloat16,) * 2, (torch.float16,) * 2, (torch.bfloat16, torch.float32)], ids=str)
def test_topographic_error_is_exact_in_every_dtype(
    ordered: tuple[torch.Tensor, torch.Tensor, Grid], dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    z, prototypes, grid = ordered[0].to(dtypes[0]), ordered[1].to(dtypes[1]), ordered[2]
    assert metrics.topographic_error(z, prototypes, grid) == _exact_error(z, prototypes, grid)


def test_autocast_lowers_no_metric(ordered: tuple[torch.Tensor, torch.Tensor, Grid]) -> None:
    z, prototypes, grid = ordered
    with torch.autocast("cpu", dtype=torch.bfloat16):
        error, distances = metrics.topographic_error(z, prototypes, grid), metrics.u_matrix(prototypes, grid)
    assert error == _exact_error(z, prototypes, grid)
    assert torch.equal(distances, metrics.u_matrix(prototypes, grid))


@pytest.mark.parametrize("scale", [1e-30, 1e20, 1e30, 3.4e38])
def test_topographic_error_does_not_depend_on_the_length_of_rows(scale: float) -> None:
    z, prototypes, grid = torch.rand(100, 16), torch.rand(64, 16), Grid(8, 8)
    expected = _exact_error(z, prototypes, grid)
    assert 0 < expected < 1
    assert metrics.topographic_error(z * scale, prototypes, grid) == expected
    assert metrics.topographic_error(z, prototypes * max(scale, 1), grid) == expected


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e307])
def test_unit_rows_of_any_length(scale: float) -> None:
    x = torch.rand(5, 7, dtype=torch.float64)
    expected = F.normalize(x) if scale > 1 else x * scale / 1e-12
    torch.testing.assert_close(metrics._unit_rows(x * scale), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["z", "prototypes"])
@pytest.mark.parametrize("grid", [Grid(3, 3), Grid(1, 1)], ids=str)
def test_rows_that_are_not_finite_are_not_perfect(grid: Grid, where: str, value: float) -> None:
    inputs = {"z": torch.rand(4, 5), "prototypes": torch.rand(grid.num_prototypes, 5)}
    inputs[where][-1, 2] = value
    assert math.isnan(metrics.topographic_error(**inputs, grid=grid))


def test_topographic_error_of_nothing_is_no_number() -> None:
    assert math.isnan(metrics.topographic_error(torch.rand(0, 5), torch.rand(9, 5), Grid(3, 3)))


@pytest.mark.usefixtures("default_device")
def test_topographic_error_takes_what_find_bmu_takes(any_backend: str) -> None:
    z, prototypes, grid = torch.rand(100, 16), torch.rand(64, 16, requires_grad=True), Grid(8, 8)
    expected = _exact_error(z, prototypes.detach(), grid)
    assert metrics.topographic_error(z.view(100, 4, 4), prototypes, grid, backend=any_backend) == expected


@pytest.mark.parametrize("grid", [Grid(4, 15), Grid(9, 9)], ids=str)
def test_a_grid_of_another_size_is_refused(grid: Grid) -> None:
    prototypes = torch.rand(64, 16)
    for measure in (
        lambda: metrics.topographic_error(prototypes, prototypes, grid),
        lambda: metrics.u_matrix(prototypes, grid),
    ):
        with pytest.raises(ValueError, match=rf"grid .*{grid.rows} x {grid.cols}.*prototypes .*\(64, 16\)"):
            measure()


def test_the_second_of_equal_prototypes_is_the_lowest() -> None:
    """All equal but for a power of two: units 0 and 1, which are neighbours, in every row; another unit would not be."""
    z = torch.randn(50, 333)
    prototypes = torch.randn(1, 333) * torch.exp2(torch.randint(-20, 20, (256, 1)))
    assert find_bmu(z, prototypes, k=2)[0].unique(dim=0).tolist() == [[0, 1]]


def test_the_second_unit_is_that_of_fp64() -> None:
    """Prototypes that fp32 scores cannot tell apart."""
    row = torch.randn(1, 96)
    prototypes = row + 1e-5 * torch.randn(300, 96)
    z = row + 1e-5 * torch.randn(40, 96)
    expected = (F.normalize(z.double()) @ F.normalize(prototypes.double()).T).topk(2, dim=1).indices
    assert torch.equal(find_bmu(z, prototypes, k=2)[0], expected)


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


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_u_matrix_is_exact_in_every_dtype(
    ordered: tuple[torch.Tensor, torch.Tensor, Grid], dtype: torch.dtype, scale: float
) -> None:
    prototypes, grid = (ordered[1] * scale).to(dtype), ordered[2]
    exact = metrics.u_matrix(prototypes.double(), grid)
    assert (metrics.u_matrix(prototypes, grid) - exact).abs().max() <= 1e-5 * exact.mean()


def test_u_matrix_is_never_below_zero() -> None:
    """All prototypes in one direction: what roundings leave of 1 - 1 may be on either side."""
    for dim in range(2, 40):
        prototypes = torch.randn(1, dim) * (0.5 + torch.rand(9, 1))
        assert (metrics.u_matrix(prototypes, Grid(3, 3)) >= 0).all()


def test_u_matrix_carries_no_gradient() -> None:
    assert not metrics.u_matrix(torch.nn.Parameter(torch.rand(9, 5)), Grid(3, 3)).requires_grad


def test_u_matrix_of_long_rows_and_of_rows_that_are_not_finite() -> None:
    prototypes = torch.rand(9, 5, dtype=torch.float64)
    expected = metrics.u_matrix(prototypes, Grid(3, 3))
    torch.testing.assert_close(metrics.u_matrix(prototypes * 1e300, Grid(3, 3)), expected)
    torch.testing.assert_close(metrics.u_matrix((prototypes * 3e38).float(), Grid(3, 3)), expected)
    prototypes[0] = math.nan
    unknown = [[True, True, False], [True, True, False], [False, False, False]]
    assert metrics.u_matrix(prototypes, Grid(3, 3)).isnan().tolist() == unknown


def test_metrics_do_not_depend_on_the_default_dtype() -> None:
    z, prototypes, grid = torch.rand(20, 5), torch.rand(9, 5), Grid(3, 3)
    error, distances = metrics.topographic_error(z, prototypes, grid), metrics.u_matrix(prototypes, grid)
    torch.set_default_dtype(torch.float64)
    try:
        assert metrics.topographic_error(z, prototypes, grid) == error
        assert torch.equal(metrics.u_matrix(prototypes, grid), distances)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert torch.equal(metrics.u_matrix(prototypes, grid), distances)
        assert metrics.topographic_error(z, prototypes, grid) == error

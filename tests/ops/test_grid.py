"""The map: positions, distances between units, and the separable factors of the neighborhood."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vitsom_fast import Grid, reference
from vitsom_fast.grid import wrap
from vitsom_fast.neighborhoods import neighborhood, offsets

GRIDS = [
    Grid(1, 1),
    Grid(5, 7),
    Grid(1, 6),
    Grid(6, 1),
    Grid(5, 7, periodic=True),
    Grid(4, 6, periodic=True),
    Grid(1, 1, periodic=True),
    Grid(5, 7, "hexagonal"),
    Grid(1, 6, "hexagonal"),
    Grid(7, 1, "hexagonal"),
    Grid(6, 7, "hexagonal", periodic=True),
    Grid(4, 4, "hexagonal", periodic=True),
    Grid(2, 1, "hexagonal", periodic=True),
]


def _squared_distances(grid: Grid) -> Tensor:
    """(K, K) from the positions; on a torus the nearest of the 9 translated copies."""
    positions = grid.positions
    offset = positions[:, None, :] - positions[None, :, :]  # [K, K, 2]
    if not grid.periodic:
        return offset.square().sum(-1)
    turns = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2)).double()  # [9, 2]
    shifts = turns * torch.tensor(grid.extent, dtype=torch.float64)
    return torch.stack([(offset + shift).square().sum(-1) for shift in shifts]).min(0).values


def _weights(grid: Grid, temperature: float | Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """(K, K), the factors recombined."""
    factors = neighborhood(grid, temperature, dtype=dtype)
    k = grid.num_prototypes
    return torch.einsum("trs,tcd->rcsd", factors.rows, factors.cols).reshape(k, k)


def test_rectangular_positions() -> None:
    assert Grid(2, 3).positions.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_hexagonal_positions() -> None:
    pitch = math.sqrt(3) / 2
    expected = [[0, 0], [0, 1], [pitch, 0.5], [pitch, 1.5], [2 * pitch, 0], [2 * pitch, 1]]
    assert torch.equal(Grid(3, 2, "hexagonal").positions, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("periodic", [False, True])
def test_a_hexagonal_unit_has_six_neighbours_at_distance_1(periodic: bool) -> None:
    grid = Grid(6, 5, "hexagonal", periodic)
    distance = _squared_distances(grid).sqrt()
    near = ((distance > 0) & (distance < 1.5)).sum(1)
    inner = [row * grid.cols + col for row in range(1, 5) for col in range(1, 4)]
    assert (near[torch.tensor(inner)] == 6).all()
    if periodic:
        assert (near == 6).all()
    neighbours = distance[(distance > 0) & (distance < 1.5)]
    assert (neighbours - 1).abs().max() < 1e-12


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.7, 50.0])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_factors_recombine_to_the_gaussian(grid: Grid, temperature: float) -> None:
    expected = torch.exp(-_squared_distances(grid) / (2 * temperature**2))
    for given_as in (temperature, torch.tensor(temperature, dtype=torch.float64)):
        assert (_weights(grid, given_as) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_reference_weights_are_the_same_gaussian(grid: Grid) -> None:
    expected = torch.exp(-_squared_distances(grid) / (2 * 1.3**2))
    every = torch.arange(grid.num_prototypes)
    assert (reference.neighborhood_weights(every, grid, 1.3, torch.float64) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_weights_are_symmetric_and_1_at_the_centre(grid: Grid) -> None:
    weights = _weights(grid, 0.8)
    assert torch.allclose(weights, weights.T, rtol=0, atol=1e-15)
    assert (weights.diagonal() == 1).all()
    assert (weights <= 1).all()
    assert (weights >= 0).all()


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid.periodic], ids=str)
def test_all_units_of_a_torus_are_alike(grid: Grid) -> None:
    total = _weights(grid, 1.1).sum(1)
    assert (total - total[0]).abs().max() < 1e-12


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_fp32_factors(grid: Grid) -> None:
    """Rounded, not worse: an exponent of 80 in fp32 is off by 4e-6, where the weight is 1e-35."""
    weights = _weights(grid, 1.7, torch.float32)
    assert weights.dtype == torch.float32
    assert (weights.double() - _weights(grid, 1.7)).abs().max() < 5e-7


LONG = [
    Grid(204, 1, "hexagonal", True),
    Grid(1474, 1, "hexagonal", True),
    Grid(1473, 2, "hexagonal"),
    Grid(2, 1501, "hexagonal", True),
    Grid(1501, 2, periodic=True),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grid", LONG, ids=str)
def test_offsets_are_rounded_once_however_long_the_grid(grid: Grid, dtype: torch.dtype) -> None:
    tables = [offsets._build_squared_offsets(grid, torch.device("cpu"), kind) for kind in (dtype, torch.float64)]
    assert torch.equal(tables[0], tables[1].to(dtype))


@pytest.mark.parametrize("grid", LONG, ids=str)
def test_weights_are_right_across_the_seam_of_a_long_grid(grid: Grid) -> None:
    """Of the first units and the last ones, which are neighbours on a torus, to all."""
    ends = torch.cat([torch.arange(4), torch.arange(grid.num_prototypes - 4, grid.num_prototypes)])
    positions = grid.positions
    offset = positions[ends, None] - positions[None]  # [8, K, 2]
    if grid.periodic:
        offset = torch.stack([wrap(offset[..., axis], grid.extent[axis]) for axis in (0, 1)], dim=-1)
    expected = torch.exp(-offset.square().sum(-1) / (2 * 0.5**2))
    factors = neighborhood(grid, 0.5)
    row, col = ends // grid.cols, ends % grid.cols
    separable = torch.einsum("tbs,tbd->bsd", factors.rows[:, row], factors.cols[:, col]).flatten(1)  # [8, K]
    eager = reference.neighborhood_weights(ends, grid, 0.5, torch.float32)
    for weights in (separable, eager):
        seen = expected > 0.01
        assert ((weights - expected).abs() / expected)[seen].max() < 5e-6
        assert (weights - expected).abs().max() < 5e-7


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_number_of_terms(topology: str) -> None:
    factors = neighborhood(Grid(4, 5, topology), 1.0)
    terms = {"rectangular": 1, "hexagonal": 3}[topology]
    assert factors.rows.shape == (terms, 4, 4)
    assert factors.cols.shape == (terms, 5, 5)


def test_a_cached_table_does_not_change_with_the_temperature() -> None:
    grid = Grid(5, 7, "hexagonal")
    before = _weights(grid, 1.0)
    neighborhood(grid, 1.0, dtype=torch.float64).rows.zero_()
    _weights(grid, 3.0)
    assert torch.equal(_weights(grid, 1.0), before)


def test_a_cached_table_is_no_inference_tensor() -> None:
    with torch.inference_mode():
        neighborhood(Grid(5, 19), 1.0)
    assert not any(table.is_inference() for table in offsets._offset_tables.values())


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_periodic_hexagonal_grid_with_odd_rows_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"rows must be even.*{rows}"):
        Grid(rows, 4, "hexagonal", periodic=True)


def test_wrap() -> None:
    offset = torch.tensor([0.0, 2.0, -2.0, 3.0, 4.0, -4.0, 5.0])
    assert wrap(offset, 5.0).tolist() == [0.0, 2.0, -2.0, -2.0, -1.0, 1.0, 0.0]


def test_equal_grids_are_equal_and_hashable() -> None:
    assert len({Grid(3, 4), Grid(3, 4), Grid(3, 4, periodic=True), Grid(4, 3)}) == 3


def test_a_grid_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Grid(3, 4).rows = 5  # type: ignore[misc]


def test_num_prototypes_and_extent() -> None:
    assert Grid(3, 4).num_prototypes == 12
    assert Grid(3, 4).extent == (3.0, 4.0)
    assert Grid(4, 5, "hexagonal").extent == pytest.approx((2 * math.sqrt(3), 5.0))


@pytest.fixture
def _no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "_offset_tables", {})


@pytest.mark.usefixtures("_no_tables")
def test_tables_are_bounded_in_bytes() -> None:
    """All together, whatever the number of grids; a table that is too large by itself is not kept."""
    for cols in range(200, 1200, 25):
        neighborhood(Grid(2, cols), 1.0)
        assert sum(table.nbytes for table in offsets._offset_tables.values()) <= 32 << 20
    kept = list(offsets._offset_tables)
    assert len(kept) > 3
    assert kept[-1][0] == Grid(2, 1175)
    neighborhood(Grid(1, 3000), 1.0)
    assert list(offsets._offset_tables) == kept


@pytest.mark.usefixtures("_no_tables")
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("how", ["fake", "transform", "functionalize", "device", "default device", "inference"])
def test_no_table_crosses_a_border(how: str, warm: bool) -> None:
    """Between real and fake tensors, levels of transforms, default devices, or modes of inference."""
    grid = Grid(5, 7, "hexagonal")
    expected = _weights(grid, 1.3, torch.float32)
    if not warm:
        offsets._offset_tables.clear()
    if how == "fake":
        with FakeTensorMode():
            assert neighborhood(grid, 1.3).rows.shape == (3, 5, 5)
    elif how == "transform":
        rows = torch.func.vmap(lambda t: neighborhood(grid, t).rows)(torch.tensor([1.3, 2.0]))
        assert torch.equal(rows[0], neighborhood(grid, torch.tensor(1.3)).rows)
    elif how == "functionalize":
        found = torch.func.functionalize(lambda t: neighborhood(grid, t).rows)(torch.tensor(1.3))
        assert torch.equal(found, neighborhood(grid, torch.tensor(1.3)).rows)
    elif how == "device":
        assert neighborhood(grid, 1.3, device="meta").rows.device.type == "meta"
        offsets._offset_tables.pop((grid, torch.device("meta"), torch.float32))
    elif how == "default device":
        with torch.device("meta"):
            assert neighborhood(grid, 1.3).rows.device.type == "cpu"
            assert grid.positions.device.type == "cpu"
    else:
        with torch.inference_mode():
            neighborhood(grid, 1.3)
    tables = list(offsets._offset_tables.values())
    for table in tables:
        assert type(table) is Tensor
        assert table.device.type == "cpu"
        assert not table.is_inference()
        assert not torch._is_functional_tensor(table)
    assert torch.equal(_weights(grid, 1.3, torch.float32), expected)


@pytest.mark.parametrize("shape", [(2**31, 1), (1, 2**80), (65536, 32768)])
def test_more_units_than_can_be_numbered_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"rows \* cols of a grid must be at most 2147483647, got {shape[0]} \* {shape[1]}"):
        Grid(*shape)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="device must be a device of PyTorch, got 'nope'"):
        neighborhood(Grid(3, 4), 1.0, device="nope")

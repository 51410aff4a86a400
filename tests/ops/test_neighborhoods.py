"""Every kind of neighborhood: its weights against the formulas, what backends assume of it, and steps with it on each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from helpers import BACKENDS, check, is_emulated, relative_error, run, skip_unless_supported, truth
from host_build import ROOT
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vitsom_fast import FusedSOMLoss, Grid, batch_update, reference, som_loss
from vitsom_fast.neighborhoods import NEIGHBORHOODS, inseparable, neighborhood
from vitsom_fast.neighborhoods.assumptions import LARGEST_FACTOR, NEGLIGIBLE

GRIDS = [
    Grid(1, 1),
    Grid(5, 7),
    Grid(6, 6),
    Grid(1, 6),
    Grid(6, 1),
    Grid(5, 7, periodic=True),
    Grid(4, 6, periodic=True),
    Grid(1, 1, periodic=True),
    Grid(5, 7, "hexagonal"),
    Grid(1, 6, "hexagonal"),
    Grid(7, 1, "hexagonal"),
    Grid(6, 7, "hexagonal", periodic=True),
    Grid(2, 1, "hexagonal", periodic=True),
    Grid(24, 40),
    Grid(40, 16, "hexagonal"),
]
TEMPERATURES = (1e-3, 0.3, 1.0, math.sqrt(3), 2.7, 10.0, 1e3, 1e30)
CASES = [
    (kind, grid) for kind in NEIGHBORHOODS for grid in GRIDS if kind != "manhattan_gaussian" or grid.topology == "rectangular"
]
INSEPARABLE = ("bubble", "manhattan_gaussian")
SMALL = [Grid(3, 4), Grid(4, 3, "hexagonal", True)]


def recombined(grid: Grid, kind: str, temperature: float | Tensor, dtype: torch.dtype, relative: bool = False) -> Tensor:
    """(K, K) in fp64"""
    factors = neighborhood(grid, temperature, kind, dtype=dtype, relative=relative)
    count = grid.num_prototypes
    return torch.einsum("trs,tcd->rcsd", factors.rows.double(), factors.cols.double()).reshape(count, count)


def literal(grid: Grid, kind: str, temperature: float) -> tuple[Tensor, Tensor]:
    """The weights (K, K), and the sizes of what they are the differences of."""
    every = torch.arange(grid.num_prototypes)
    weights = reference.neighborhood_weights(every, grid, temperature, torch.float64, kind)
    size = weights.abs()
    if kind == "mexican_hat":  # 1 - d^2 / T^2 cancels near T
        size = size + reference.neighborhood_weights(every, grid, temperature, torch.float64)
    return weights, size


@pytest.mark.parametrize(("kind", "grid"), CASES, ids=str)
def test_weights_are_those_of_the_formulas(kind: str, grid: Grid) -> None:
    for temperature in TEMPERATURES:
        expected, size = literal(grid, kind, temperature)
        for given_as in (temperature, torch.tensor(temperature, dtype=torch.float64)):
            error = (recombined(grid, kind, given_as, torch.float64) - expected).abs()
            assert (error <= 1e-12 * size + 1e-300).all(), temperature


@pytest.mark.parametrize(("kind", "grid"), [case for case in CASES if case[0] != "gaussian"], ids=str)
def test_fp32_weights_are_those_of_fp64_rounded(kind: str, grid: Grid) -> None:
    """The Gaussian is computed in fp32 itself, as a backend does; ``test_grid.py`` holds it."""
    for temperature in TEMPERATURES:
        expected, size = literal(grid, kind, temperature)
        rounding = 2.0**-20 * (size.max() if kind == "manhattan_gaussian" else size) + 1e-35
        assert ((recombined(grid, kind, temperature, torch.float32) - expected).abs() <= rounding).all(), temperature
        relative = recombined(grid, kind, temperature, torch.float32, relative=True)
        assert ((relative - expected).abs() <= 2.0**-20 * size + 1e-35).all(), temperature


def test_hand_made_values() -> None:
    assert recombined(Grid(1, 4), "bubble", 2.0, torch.float32)[0].tolist() == [1, 1, 1, 0]
    assert recombined(Grid(3, 3), "bubble", 1.0, torch.float32)[4].tolist() == [0, 1, 0, 1, 1, 1, 0, 1, 0]
    assert recombined(Grid(3, 3), "triangle", 2.0, torch.float32)[0].tolist() == [1, 0.5, 0, 0.5, 0.25, 0, 0, 0, 0]
    hat = recombined(Grid(1, 3), "mexican_hat", 1.0, torch.float64)[0]
    assert hat.tolist() == pytest.approx([1, 0, -3 * math.exp(-2)], abs=1e-15)
    manhattan = recombined(Grid(2, 2), "manhattan_gaussian", 2.0, torch.float64)[0]
    assert manhattan.tolist() == pytest.approx([1, math.exp(-0.25), math.exp(-0.25), math.exp(-1)])


@pytest.mark.parametrize("given_as", [float, torch.tensor, lambda t: torch.tensor(t, dtype=torch.float64)])
def test_a_bubble_holds_what_is_on_its_border(given_as: Callable[[float], float | Tensor]) -> None:
    """The six neighbours at 1, and the six at sqrt(3), of a hexagonal grid, however T is rounded."""
    grid = Grid(8, 8, "hexagonal", periodic=True)
    for temperature, inside in ((0.999, 1), (1.0, 7), (1.7, 7), (math.sqrt(3), 13), (2.0, 19)):
        assert (recombined(grid, "bubble", given_as(temperature), torch.float32).sum(1) == inside).all(), temperature


# What backends assume


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "grid"), CASES, ids=str)
def test_assumptions(kind: str, grid: Grid, dtype: torch.dtype) -> None:
    rounding = 2.0**-20 if dtype == torch.float32 else 1e-13
    for temperature in TEMPERATURES:
        factors = neighborhood(grid, temperature, kind, dtype=dtype)
        assert factors.rows.shape[1:] == (grid.rows, grid.rows)
        assert factors.cols.shape == (len(factors.rows), grid.cols, grid.cols)
        for each in factors:
            assert each.dtype == dtype
            assert each.is_contiguous()
            assert each.abs().max() <= LARGEST_FACTOR
        weights = recombined(grid, kind, temperature, dtype)
        assert (weights.diagonal() - 1).abs().max() <= rounding
        assert weights.abs().max() <= 1 + rounding
        assert (weights - weights.T).abs().max() <= rounding
        seen = [torch.where(each.abs() < NEGLIGIBLE, 0, each).double() for each in factors]
        dropped = torch.einsum("trs,tcd->rcsd", *seen).reshape(weights.shape)
        assert (dropped - weights).abs().max() <= 2.0**-22


@pytest.mark.parametrize("temperature", [0.0, -1.5, math.nan, -math.inf])
@pytest.mark.parametrize(("kind", "grid"), CASES, ids=str)
def test_a_tensor_that_is_not_positive_gives_nan(kind: str, grid: Grid, temperature: float) -> None:
    assert recombined(grid, kind, torch.tensor(temperature), torch.float32).isnan().all()


def test_kernels_drop_what_is_negligible() -> None:
    source = (ROOT / "csrc" / "cpu" / "neighborhood" / "packed_factor.h").read_text()
    (bits,) = re.findall(r"NEGLIGIBLE = 0x1p-(\d+)f", source)
    assert 2.0 ** -int(bits) == NEGLIGIBLE


# Steps


@pytest.mark.parametrize("temperature", [0.4, 1.5])
@pytest.mark.parametrize(("kind", "grid"), [(kind, grid) for kind, grid in CASES if grid in GRIDS[1:2] + GRIDS[11:12]], ids=str)
def test_loss_and_gradients(any_backend: str, kind: str, grid: Grid, temperature: float) -> None:
    z, prototypes = torch.randn(9, 20), torch.randn(grid.num_prototypes, 20)
    for given_as in (temperature, torch.tensor(temperature)):
        result = run(any_backend, z, prototypes, grid, given_as, neighborhood=kind)
        check(result, z, prototypes, grid, temperature, neighborhood=kind, cancels=True)


@pytest.mark.parametrize("kind", NEIGHBORHOODS)
def test_loss_and_gradients_in_fp64(any_backend: str, kind: str) -> None:
    skip_unless_supported(any_backend, torch.float64)
    grid = Grid(5, 4)
    z, prototypes = torch.randn(7, 6).double(), torch.randn(20, 6).double()
    result = run(any_backend, z, prototypes, grid, 1.3, neighborhood=kind)
    true = truth(z, prototypes, grid, 1.3, result.bmu, neighborhood=kind)
    assert abs(result.loss.item() - true.loss) <= 1e-12 * true.weight
    assert relative_error(result.grad_z, true.grad_z) <= 1e-12
    assert relative_error(result.grad_prototypes, true.grad_prototypes) <= 1e-12


@pytest.mark.parametrize("kind", NEIGHBORHOODS)
def test_a_map_whose_factors_are_decomposed(any_backend: str, kind: str) -> None:
    """So large that the CPU kernels look for thin factors, of whichever sign."""
    if is_emulated(any_backend):
        pytest.skip("an interpreter takes long")
    grid = Grid(24, 26)
    z, prototypes = torch.randn(33, 512), torch.randn(grid.num_prototypes, 512)
    for temperature in (1.5, 6.0):
        result = run(any_backend, z, prototypes, grid, temperature, neighborhood=kind)
        check(result, z, prototypes, grid, temperature, neighborhood=kind, cancels=True)


@pytest.mark.parametrize(("kind", "grid"), [(kind, grid) for kind in NEIGHBORHOODS for grid in SMALL], ids=str)
def test_batch_update(any_backend: str, kind: str, grid: Grid) -> None:
    if kind == "manhattan_gaussian" and grid.topology == "hexagonal":
        pytest.skip("rectangular only")
    device = BACKENDS[any_backend]
    z, prototypes = torch.randn(30, 5), torch.randn(12, 5)
    updated, bmu = batch_update(z.to(device), prototypes.to(device), grid, 1.2, neighborhood=kind, backend=any_backend)
    weights = reference.neighborhood_weights(bmu.cpu(), grid, 1.2, torch.float64, kind)  # [B, K]
    total = weights.sum(0)[:, None]
    unit = torch.nn.functional.normalize(z.double())
    mean, middle = weights.T @ unit / total, unit.mean(0)
    own = torch.stack([unit[bmu.cpu() == k].mean(0) for k in bmu.cpu().unique()])
    far = (mean - middle).norm(dim=1) / (own - middle).norm(dim=1).max() / 10  # above 1 a unit stays where it is
    assert kind == "mexican_hat" or (far < 0.9).all()
    size = weights.abs().sum(0)[:, None]
    certain = (total.abs() > 1e-3 * size) & ((far - 1).abs() > 1e-2)[:, None]  # where neither is a matter of rounding
    expected = torch.where((total > 0) & (far < 1)[:, None], mean, prototypes.double())
    error = (updated.cpu().double() - expected).abs() * total.abs() / size
    assert (error[certain.expand_as(error)] <= 1e-5).all()


def test_a_mean_of_far_units_only(any_backend: str) -> None:
    """All latents are in one corner; the other is reached with a weight of 1e-22, by each of them alike."""
    grid, device = Grid(9, 9), BACKENDS[any_backend]
    prototypes = torch.nn.functional.normalize(torch.randn(81, 7))
    z = prototypes[[0, 1]]
    updated, _ = batch_update(
        z.to(device), prototypes.to(device), grid, 2.25, neighborhood="manhattan_gaussian", backend=any_backend
    )
    weights = reference.neighborhood_weights(torch.tensor([0, 1]), grid, 2.25, torch.float64, "manhattan_gaussian")
    expected = weights.T @ z.double() / weights.sum(0)[:, None]
    assert (updated.cpu() - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", NEIGHBORHOODS)
def test_module(kind: str) -> None:
    loss = FusedSOMLoss((4, 5), 6, neighborhood=kind)
    loss(torch.randn(8, 6), 1.5).backward()
    assert loss.prototypes.grad is not None
    assert loss.prototypes.grad.abs().max() > 0


# Without a value of T


@pytest.mark.parametrize("given_as", [float, torch.tensor])
@pytest.mark.parametrize("kind", NEIGHBORHOODS)
def test_a_compiled_step(kind: str, given_as: Callable[[float], float | Tensor]) -> None:
    torch.compiler.reset()  # a function may be compiled only so often
    z, prototypes, grid = torch.randn(6, 5), torch.randn(12, 5), Grid(3, 4)

    def step(temperature: float | Tensor) -> Tensor:
        return som_loss(z, prototypes, grid, temperature, neighborhood=kind)[0]

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    for temperature in (1.5, 0.7):
        assert compiled(given_as(temperature)).item() == pytest.approx(step(temperature).item(), rel=1e-5)


@pytest.mark.parametrize(("kind", "grid"), [case for case in CASES if case[1].num_prototypes < 50], ids=str)
def test_under_modes_and_transforms(kind: str, grid: Grid) -> None:
    with FakeTensorMode():
        factors = neighborhood(grid, torch.tensor(1.3), kind)
        assert factors.rows.shape[1:] == (grid.rows, grid.rows)
    many = torch.tensor([1.3, 2.0, -1.0], dtype=torch.float64)

    def weights(temperature: Tensor) -> Tensor:
        return torch.einsum("trs,tcd->rcsd", *neighborhood(grid, temperature, kind, dtype=torch.float64)).flatten()

    together = torch.func.vmap(weights)(many)
    for each, temperature in zip(together, many, strict=True):
        assert torch.allclose(each, weights(temperature), rtol=0, atol=1e-13, equal_nan=True)


@pytest.fixture
def _nothing_kept() -> Iterator[None]:
    inseparable._products.cache_clear()
    yield
    inseparable._products.cache_clear()


@pytest.mark.usefixtures("_nothing_kept")
@pytest.mark.parametrize("kind", INSEPARABLE)
def test_what_is_kept(kind: str) -> None:
    """Few of them, none that a caller can change, and such as a step can use that were made for inference."""
    grid = Grid(4, 5)
    with torch.inference_mode():
        neighborhood(grid, 1.3, kind)
    FusedSOMLoss((4, 5), 6, neighborhood=kind, backend="torch")(torch.randn(8, 6), 1.3).backward()
    before = recombined(grid, kind, 1.3, torch.float32)
    for each in neighborhood(grid, 1.3, kind):
        each.zero_()
    assert torch.equal(recombined(grid, kind, 1.3, torch.float32), before)
    assert inseparable._products.cache_info().hits == 4
    for step in range(100):
        neighborhood(grid, 1 + step / 100, kind)
    assert inseparable._products.cache_info().currsize <= 16


# Refused


def test_a_topology_that_a_kind_does_not_serve() -> None:
    kind, grid = "manhattan_gaussian", Grid(2, 2, "hexagonal")
    z, prototypes = torch.randn(2, 1), torch.randn(4, 1)
    calls: list[Callable[[], object]] = [
        lambda: neighborhood(grid, 1.0, kind),
        lambda: som_loss(z, prototypes, grid, 1.0, neighborhood=kind),
        lambda: som_loss(z, prototypes, grid, 1.0, neighborhood=kind, backend="reference"),
        lambda: batch_update(z, prototypes, grid, 1.0, neighborhood=kind),
        lambda: FusedSOMLoss((2, 2), 1, topology="hexagonal", neighborhood=kind),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"neighborhood '{kind}' needs .*'hexagonal'"):
            call()


@pytest.mark.parametrize("kind", [kind for kind in NEIGHBORHOODS if kind != "gaussian"])
def test_no_factors_of_a_longer_axis(kind: str) -> None:
    """Whose square is no longer small; losses on such a grid do without."""
    with pytest.raises(ValueError, match=f"neighborhood '{kind}' has factors on .* at most 4096 .*got 1 x 4097"):
        neighborhood(Grid(1, 4097), 1.0, kind)


def test_long_axes_are_the_gaussians(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights computed where they are used know of no other kind; a chain of 400 units has them in factors."""
    z, prototypes, grid = torch.randn(3, 4), torch.randn(400, 4), Grid(1, 400)
    for kind in NEIGHBORHOODS:
        check(
            run("torch", z, prototypes, grid, 5.0, neighborhood=kind), z, prototypes, grid, 5.0, neighborhood=kind, cancels=True
        )

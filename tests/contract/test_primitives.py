"""The three primitives of every backend, and what is composed of them, against fp64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from helpers import BACKENDS, check, run, skip_unless_supported
from torch import Tensor

from vitsom_fast import FusedSOMLoss, Grid, backends, batch_update, find_bmu, reference, som_loss
from vitsom_fast.backends.compose import Composed
from vitsom_fast.neighborhoods import neighborhood

GRIDS = [
    Grid(1, 1),
    Grid(3, 17),
    Grid(12, 7, topology="hexagonal"),
    Grid(6, 5, topology="hexagonal", periodic=True),
    Grid(13, 13, periodic=True),
]


@pytest.fixture
def primitives(any_backend: str) -> tuple[backends.Backend, str]:
    """A backend and the device of its tensors; the reference has no primitives."""
    if any_backend == "reference":
        pytest.skip("the reference is no backend of operators")
    return backends.get(any_backend), BACKENDS[any_backend]


def dense(grid: Grid, temperature: float) -> Tensor:
    """G (K, K) in fp64, a row for each BMU."""
    return reference.neighborhood_weights(torch.arange(grid.num_prototypes), grid, temperature, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dim", [1, 17, 127])
@pytest.mark.parametrize(("batch", "count"), [(1, 1), (3, 17), (1000, 5), (127, 1000)])
def test_sums(primitives: tuple[backends.Backend, str], batch: int, count: int, dim: int, dtype: torch.dtype) -> None:
    own, device = primitives
    x, bmu = torch.randn(batch, dim).to(dtype), torch.randint(0, count, (batch,))
    sums, counts = (each.cpu() for each in own.sum_by_bmu(x.to(device), bmu.to(device), count))
    expected = torch.zeros(count, dim, dtype=torch.float64).index_add_(0, bmu, x.double())
    assert (sums.double() - expected).norm() <= 1e-6 * expected.norm()
    assert torch.equal(counts.long(), torch.bincount(bmu, minlength=count))
    assert sums.dtype == counts.dtype == torch.float32


def test_sums_of_many_rows_of_one_unit(primitives: tuple[backends.Backend, str]) -> None:
    """Added up one by one in fp32 they are wrong by 6e-6."""
    own, device = primitives
    x = torch.rand(20000, 3) + 1
    sums, _ = own.sum_by_bmu(x.to(device), torch.full((20000,), 2, device=device), 4)
    expected = torch.zeros(4, 3, dtype=torch.float64)
    expected[2] = x.double().sum(dim=0)
    assert (sums.cpu().double() - expected).norm() <= 3e-7 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("batch", "count"), [(0, 3), (1, 1), (1000, 5), (127, 1000), (40000, 17)])
def test_sums_that_are_added_in_place(
    primitives: tuple[backends.Backend, str], batch: int, count: int, dtype: torch.dtype
) -> None:
    own, device = primitives
    add_by_bmu = getattr(own, "add_by_bmu", None)
    if add_by_bmu is None:
        pytest.skip("it has none")
    for dim in (1, 8, 20, 127):
        x, bmu = torch.randn(batch, dim, dtype=dtype, device=device), torch.randint(0, count, (batch,), device=device)
        before = torch.randn(count, dim + 1, dtype=torch.float64, device=device)
        sums = before.clone()
        add_by_bmu(sums, x, bmu)
        expected = before.index_add(0, bmu, torch.cat([x.double(), x.new_ones(batch, 1).double()], dim=1))
        torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            again = before.clone()
            add_by_bmu(again, x, bmu)
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(again, sums)


def test_sums_of_rows_that_cancel(primitives: tuple[backends.Backend, str]) -> None:
    """What is left of them is below the last bit that fp32 has of the largest."""
    own, device = primitives
    x = torch.tensor([[1e9, 0.0], [1.25, 3.0], [-1e9, 1e-9], [0.5, -3.0]], device=device)
    sums, _ = own.sum_by_bmu(x, torch.tensor([1, 1, 1, 0], device=device), 2)
    torch.testing.assert_close(sums.cpu(), torch.tensor([[0.5, -3.0], [1.25, 3.0 + 1e-9]]), rtol=1e-7, atol=0)


def test_sums_of_no_rows(primitives: tuple[backends.Backend, str]) -> None:
    own, device = primitives
    sums, counts = own.sum_by_bmu(torch.empty(0, 5, device=device), torch.empty(0, dtype=torch.int64, device=device), 3)
    assert torch.equal(sums.cpu(), torch.zeros(3, 5))
    assert torch.equal(counts.cpu(), torch.zeros(3))


def test_sums_of_rows_in_strides(primitives: tuple[backends.Backend, str]) -> None:
    own, device = primitives
    x, bmu = torch.randn(20, 45, device=device), torch.randint(0, 30, (90,), device=device)
    for rows in (x.T, x.T[:, ::2], x.T[:, :1], x[:1, :9].expand(45, 9)):
        sums, counts = own.sum_by_bmu(rows, bmu[::2], 30)
        expected = torch.zeros(30, rows.shape[1], dtype=torch.float64, device=device).index_add_(0, bmu[::2], rows.double())
        torch.testing.assert_close(sums.double(), expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(counts.long(), torch.bincount(bmu[::2], minlength=30))


def test_a_row_that_is_not_finite_counts_for_its_own_unit_alone(primitives: tuple[backends.Backend, str]) -> None:
    own, device = primitives
    x, bmu = torch.randn(40, 5, device=device), torch.arange(40, device=device) % 13
    x[3], x[17] = torch.nan, torch.inf
    sums, counts = own.sum_by_bmu(x, bmu, 17)
    assert (~sums.isfinite()).any(dim=1).nonzero()[:, 0].tolist() == [3, 4]
    assert not sums[13:].any()
    assert not counts[13:].any()


def test_autograd_and_compilers_see_operations(any_backend: str, primitives: tuple[backends.Backend, str]) -> None:
    """Of backends whose kernels do no more than a GPU does: on a CPU, PyTorch's are no alternative."""
    own, device = primitives
    if any_backend == "cpu":
        pytest.skip("its primitives are not differentiable")
    x, bmu = torch.randn(7, 3, device=device, requires_grad=True), torch.tensor([0, 2, 2, 1, 0, 5, 5], device=device)
    factors = neighborhood(Grid(2, 3), 1.0, device=device)

    def update(x: Tensor) -> Tensor:
        return own.smooth(own.sum_by_bmu(x, bmu, 6)[0], factors.rows, factors.cols)

    update(x).sum().backward()
    expected = dense(Grid(2, 3), 1.0).sum(dim=0)[bmu.cpu(), None].expand(7, 3).float()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.cpu(), expected)
    compiled = torch.compile(update, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x.detach()), update(x.detach()))


def test_sums_repeat_bit_for_bit(primitives: tuple[backends.Backend, str]) -> None:
    own, device = primitives
    x, bmu = torch.randn(1000, 40, device=device), torch.randint(0, 30, (1000,), device=device)
    first, again = (own.sum_by_bmu(x, bmu, 30)[0] for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("dim", [1, 17, 65])
@pytest.mark.parametrize("temperature", [0.4, 3.0])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_smoothing(primitives: tuple[backends.Backend, str], grid: Grid, temperature: float, dim: int) -> None:
    """In each row, as far from the rest as it may be: nothing is dropped for being small beside what lies elsewhere."""
    own, device = primitives
    factors = neighborhood(grid, temperature, device=device)
    x = torch.rand(grid.num_prototypes, dim)
    x[grid.num_prototypes // 3 :] = 0
    for transposed in (False, True):
        terms = [each.mT if transposed else each for each in (factors.rows, factors.cols)]
        found = own.smooth(x.to(device), *terms).cpu().double()
        weights = dense(grid, temperature).mT if transposed else dense(grid, temperature)
        expected = weights @ x.double()
        seen = expected > 1e-30  # in fp32 less than that has lost bits
        assert ((found - expected).abs() <= 1e-5 * expected)[seen].all()


def test_smoothing_of_rows_in_strides(primitives: tuple[backends.Backend, str]) -> None:
    """And by factors of any kind: those of a Gaussian are their own transposes."""
    own, device = primitives
    rows, cols = torch.rand(2, 5, 5, device=device), torch.rand(2, 4, 4, device=device)
    x = torch.randn(18, 20, device=device)
    for each in (x.T, x.T[:, ::2], x.T[:, 3:4], x[0, :1].expand(20, 3)):
        for terms in ((rows, cols), (rows.mT, cols.mT), (rows.mT, cols)):
            pairs = zip(*([each.double().contiguous() for each in axis] for axis in terms), strict=True)
            weights = sum(torch.kron(row, col) for row, col in pairs)
            torch.testing.assert_close(own.smooth(each, *terms).double(), weights @ each.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_composed_forms_keep_the_contract(any_backend: str, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_unless_supported(any_backend, torch.float32)
    if any_backend == "reference":
        pytest.skip("the reference is no backend of operators")
    z, prototypes = torch.randn(33, 20), torch.randn(grid.num_prototypes, 20)
    fused = run(any_backend, z, prototypes, grid, 1.7)
    monkeypatch.setitem(backends._modules, any_backend, Composed(backends.get(any_backend)))
    composed = run(any_backend, z, prototypes, grid, 1.7)
    check(composed, z, prototypes, grid, 1.7)
    assert torch.equal(fused.bmu, composed.bmu)
    torch.testing.assert_close(fused.loss, composed.loss, rtol=2e-5, atol=0.0)


def test_three_functions_are_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page "Adding a backend", to the letter: a module with a search, sums and a smoothing of its own."""
    own = backends.get("torch")

    class Toy:
        asked: ClassVar[list[str]] = []

        def unavailable(self) -> str | None:
            return None

        def unsupported(self, spec: backends.Spec) -> str | None:
            return None if spec.dtype == torch.float32 else f"it serves torch.float32, got {spec.dtype}"

        def search(self, z: Tensor, prototypes: Tensor, rows: int = 0, cols: int = 0) -> tuple[Tensor, Tensor]:
            self.asked.append("search")
            return own.search(z, prototypes)

        def sum_by_bmu(self, x: Tensor, bmu: Tensor, num_prototypes: int) -> tuple[Tensor, Tensor]:
            self.asked.append("sum_by_bmu")
            return own.sum_by_bmu(x, bmu, num_prototypes)

        def smooth(self, x: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
            self.asked.append("smooth")
            return own.smooth(x, row_factors, col_factors)

    backends.register("toy", Toy(), before="cpu")
    try:
        z, prototypes, grid = torch.randn(9, 6, requires_grad=True), torch.randn(12, 6, requires_grad=True), Grid(3, 4)
        loss, bmu = som_loss(z, prototypes, grid, 1.0)
        loss.backward()
        expected, nearest = reference.som_loss(z.double(), prototypes.double(), grid, 1.0, "mean")
        assert torch.equal(bmu, nearest)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert set(Toy.asked) == {"search", "sum_by_bmu", "smooth"}
        assert find_bmu(z, prototypes, backend="toy")[0].equal(bmu)
        with pytest.raises(ValueError, match=r"'toy' cannot be used: it serves torch.float32, got torch.float64"):
            find_bmu(z.double(), prototypes.double(), backend="toy")
        assert backends.resolve("auto", backends.Spec(z.device, torch.float64)) == "torch"
    finally:
        backends.unregister("toy")


def test_the_search_is_told_of_the_grid_wherever_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_backend, told = backends.get("torch"), []

    def search(z: Tensor, prototypes: Tensor, rows: int = 0, cols: int = 0) -> tuple[Tensor, Tensor]:
        told.append((rows, cols))
        return torch_backend.search(z, prototypes)

    names = ("unavailable", "unsupported", "sum_by_bmu", "smooth")
    spy = SimpleNamespace(search=search, **{name: getattr(torch_backend, name) for name in names})
    monkeypatch.setitem(backends._modules, "torch", Composed(spy))
    module = FusedSOMLoss((3, 4), 6, backend="torch")
    z, prototypes = torch.randn(9, 6), module.prototypes.detach()
    calls = [
        lambda: find_bmu(z, prototypes, grid=module.grid, backend="torch"),
        lambda: module.find_bmu(z),
        lambda: som_loss(z, prototypes, module.grid, 1.0, backend="torch"),
        lambda: batch_update(z, prototypes, module.grid, 1.0, backend="torch"),
        lambda: torch.func.grad(lambda x: som_loss(x, prototypes, module.grid, 1.0, backend="torch")[0])(z),
    ]
    for call in calls:
        told.clear()
        call()
        assert told == [(3, 4)]
    told.clear()
    find_bmu(z, prototypes, backend="torch")
    assert told == [(0, 0)]


def test_a_grid_of_other_prototypes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"grid must have one unit for each prototype, got 3 x 4 = 12 units"):
        find_bmu(torch.randn(5, 6), torch.randn(11, 6), grid=Grid(3, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_batch_update_is_the_textbook_s(any_backend: str, grid: Grid, dtype: torch.dtype) -> None:
    """At a small radius, where most units are out of reach of most latents: each follows the nearest of them."""
    skip_unless_supported(any_backend, dtype)
    device, temperature = BACKENDS[any_backend], 0.6
    z, prototypes = (
        torch.randn(5, 9, dtype=dtype, device=device),
        torch.randn(grid.num_prototypes, 9, dtype=dtype, device=device),
    )
    updated, bmu = batch_update(z, prototypes, grid, temperature, backend=any_backend)
    assert updated.dtype == dtype
    assert torch.equal(bmu, find_bmu(z, prototypes, backend=any_backend)[0])
    weights = dense(grid, temperature)[bmu.cpu()]  # [B, K]
    unit = torch.nn.functional.normalize(z.cpu().double())
    total, weight = weights.T @ unit, weights.sum(dim=0)[:, None]
    reached = weight[:, 0] > 1e-30
    error = (updated.cpu().double() - total / weight)[reached].norm(dim=1)
    assert (error <= {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2e-2}[dtype]).all()


def test_an_update_leaves_what_nothing_reaches(any_backend: str) -> None:
    skip_unless_supported(any_backend, torch.float32)
    device = BACKENDS[any_backend]
    prototypes = torch.randn(40, 3, device=device)
    z = prototypes[:1].clone()
    updated, bmu = batch_update(z, prototypes, Grid(1, 40), 0.5, backend=any_backend)
    assert bmu.tolist() == [0]
    assert torch.equal(updated[20:], prototypes[20:])  # exp(-2 * 20^2) is 0 in fp32
    torch.testing.assert_close(updated[:5], torch.nn.functional.normalize(z).expand(5, 3))


def test_an_update_of_nothing(any_backend: str) -> None:
    skip_unless_supported(any_backend, torch.float32)
    device = BACKENDS[any_backend]
    prototypes = torch.randn(6, 3, device=device)
    updated, bmu = batch_update(torch.empty(0, 3, device=device), prototypes, Grid(2, 3), 1.0, backend=any_backend)
    assert torch.equal(updated, prototypes)
    assert bmu.shape == (0,)

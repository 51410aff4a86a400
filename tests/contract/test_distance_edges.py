"""Every distance at its edges: rows that are no numbers or far too long, and whoever differentiates, compiles or looks on."""

from __future__ import annotations

import pytest
import torch
from helpers import BACKENDS, is_emulated, relative_error, run, search
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from vitsom_fast import Grid, find_bmu, reference, som_loss
from vitsom_fast.functional import DISTANCES

OTHERS = DISTANCES[1:]


@pytest.mark.parametrize("distance", OTHERS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rows_that_are_not_finite(backend: str, distance: str, bad: float) -> None:
    z, prototypes = torch.randn(5, 4), torch.randn(6, 4)
    z[3, 1] = bad
    bmu, nearest = search(backend, z, prototypes, distance=distance)
    assert nearest.isnan().tolist() == [False, False, False, True, False]
    assert 0 <= bmu[3] < 6
    assert run(backend, z, prototypes, Grid(2, 3), 1.0, distance=distance).loss.isnan()
    z[3], prototypes[2] = 0.0, bad
    bmu, nearest = search(backend, z, prototypes, distance=distance)
    assert nearest.isfinite().all()
    assert (bmu != 2).all()
    assert run(backend, z, prototypes, Grid(2, 3), 1.0, distance=distance).loss.isnan()


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e15, 1e30])
@pytest.mark.parametrize("distance", OTHERS)
def test_search_whatever_the_unit(backend: str, distance: str, scale: float) -> None:
    z, prototypes = torch.randn(20, 5), torch.randn(33, 5)
    bmu, nearest = search(backend, z * scale, prototypes * scale, distance=distance)
    true = reference.distances((z * scale).double(), (prototypes * scale).double(), distance).min(dim=1)
    assert torch.equal(bmu, true.indices)
    if 1e-30 < scale < 1e15:  # squares of others are no fp32 numbers
        assert torch.allclose(nearest.double(), true.values, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("distance", DISTANCES)
def test_autocast_around_the_backward_pass(backend: str, distance: str, weighted: bool) -> None:
    if is_emulated(backend):
        pytest.skip("in PyTorch operations: as torch")
    device = BACKENDS[backend]
    grid, z, prototypes = Grid(4, 5), torch.randn(40, 16, device=device), torch.randn(20, 16, device=device)
    weight = torch.rand(40, device=device) if weighted else None
    results = []
    for enabled in (False, True):
        inputs = [x.clone().requires_grad_() for x in (z, prototypes)]
        with torch.autocast(device, torch.bfloat16, enabled=enabled):
            loss, _ = som_loss(*inputs, grid, 1.0, distance=distance, sample_weight=weight, backend=backend)
            loss.backward()
        results.append((loss.detach(), *(x.grad for x in inputs)))
    for one, other in zip(*results, strict=True):
        assert relative_error(one, other) <= 1e-6


@pytest.mark.parametrize("distance", DISTANCES)
def test_one_unit_that_is_finite_is_the_nearest(backend: str, distance: str) -> None:
    if backend not in ("cpu", "torch"):
        pytest.skip("whether a NaN wins is open")
    z, prototypes = torch.tensor([[1.0, 0.5]]), torch.tensor([[torch.nan, 0.0], [1.0, 0.0]])
    bmu, nearest = search(backend, z, prototypes, distance=distance, k=2)
    assert bmu[0, 0] == 1
    assert nearest[0, 0].isfinite()
    assert nearest[0, 1].isnan()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_default_dtype_is_no_matter(backend: str, distance: str, dtype: torch.dtype) -> None:
    if is_emulated(backend):
        pytest.skip("in PyTorch operations: as torch")
    z, prototypes = torch.randn(20, 5), torch.randn(30, 5)
    expected = run(backend, z, prototypes, Grid(5, 6), 1.0, distance=distance)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = run(backend, z, prototypes, Grid(5, 6), 1.0, distance=distance)
        two, _ = search(backend, z, prototypes, distance=distance, k=2)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(two, search(backend, z, prototypes, distance=distance, k=2)[0])
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_loss_that_is_computed_once_more(backend: str, distance: str) -> None:
    """By activation checkpointing, which unpacks what was saved no more than once."""
    device = BACKENDS[backend]
    grid, z, prototypes = Grid(2, 3), torch.randn(5, 4, device=device, requires_grad=True), torch.randn(6, 4, device=device)

    def loss(x: Tensor) -> Tensor:
        return som_loss(x, prototypes, grid, 1.0, distance=distance, backend=backend)[0]

    (expected,) = torch.autograd.grad(loss(z), z)
    (actual,) = torch.autograd.grad(checkpoint(loss, z, use_reentrant=False), z)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("distance", DISTANCES)
def test_many_gradients_at_once_and_tensors_without_numbers(distance: str) -> None:
    grid, z, prototypes = Grid(2, 3), torch.randn(5, 4), torch.randn(6, 4)

    def losses(x: Tensor) -> Tensor:
        return som_loss(x, prototypes, grid, 1.0, distance=distance, reduction="none")[0]

    one_by_one, at_once = (torch.autograd.functional.jacobian(losses, z, vectorize=vectorize) for vectorize in (False, True))
    assert torch.allclose(one_by_one, at_once, atol=1e-6)
    with FakeTensorMode():
        fake = torch.randn(5, 4, requires_grad=True)
        loss, bmu = som_loss(fake, torch.randn(6, 4), grid, 1.0, distance=distance)
        assert torch.autograd.grad(loss, fake)[0].shape == (5, 4)
        assert bmu.shape == (5,)


@pytest.mark.parametrize("apart", [0.0, 1e4])
def test_squared_losses_of_a_map_that_fits_its_data(apart: float) -> None:
    """By torch.func, where nobody looks whether fp32 is enough; and where samples count that are nearest to their units."""
    grid, clusters = Grid(8, 8), torch.randn(4, 16) * apart
    prototypes = torch.randn(64, 16) + clusters[torch.arange(64) // 16]
    z = prototypes[torch.randint(64, (64,))] + torch.randn(64, 16)
    z[3] = prototypes[5] + 1e-3 * torch.randn(16)
    weight = torch.zeros(64)
    weight[3] = 1.0

    def loss(z: Tensor, prototypes: Tensor) -> Tensor:
        return som_loss(z, prototypes, grid, 0.2, distance="sqeuclidean", reduction="sum", sample_weight=weight.to(z.dtype))[0]

    inputs = z, prototypes
    wide = [x.double().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(
        reference.som_loss(*wide, grid, 0.2, "sum", "gaussian", "sqeuclidean", weight.double())[0], wide
    )
    narrow = [x.clone().requires_grad_() for x in inputs]
    eager = torch.autograd.grad(loss(*narrow), narrow)
    transformed = torch.func.grad(loss, argnums=(0, 1))(*inputs)
    for grads in (eager, transformed):
        for actual, true in zip(grads, expected, strict=True):
            assert relative_error(actual, true) < 1e-5


def test_the_second_unit_of_rows_far_longer_than_all_units() -> None:
    z, prototypes = torch.randn(4, 3) * 1e10, torch.randn(6, 3) * 2.0**-100
    for distance in ("sqeuclidean", "euclidean"):
        units, nearest = find_bmu(z, prototypes, distance=distance, k=2)
        assert nearest.isfinite().all()
        assert (units[:, 0] != units[:, 1]).all()
    z, prototypes = torch.randn(5, 8).sign() * 3e38, torch.randn(12, 8) * 1e35
    units, _ = find_bmu(z, prototypes, distance="manhattan", k=2)
    true = (z.double()[:, None] - prototypes.double()).abs().sum(dim=2).topk(2, largest=False).indices
    assert torch.equal(units, true)


def test_what_is_no_weight_is_refused() -> None:
    z, prototypes, grid = torch.randn(5, 4), torch.randn(6, 4), Grid(2, 3)
    for weight in ([1.0] * 5, torch.ones(5, dtype=torch.int64)):
        with pytest.raises(TypeError, match=r"sample_weight must be a floating torch\.Tensor"):
            som_loss(z, prototypes, grid, 1.0, sample_weight=weight)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(5,\).*got \(4,\)"):
        som_loss(z, prototypes, grid, 1.0, sample_weight=torch.ones(4))
    for k, error in ((0, ValueError), (3, ValueError), (True, TypeError), (2.0, TypeError)):
        with pytest.raises(error, match="k must be"):
            find_bmu(z, prototypes, k=k)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_compiled_loss_is_the_same(distance: str) -> None:
    grid, z, prototypes = Grid(3, 4), torch.randn(7, 5), torch.randn(12, 5)
    device = BACKENDS["torch"]
    weight = torch.rand(7)

    def step(z: Tensor, prototypes: Tensor) -> Tensor:
        return som_loss(z, prototypes, grid, 1.0, distance=distance, sample_weight=weight, backend="torch")[0]

    torch._dynamo.reset()
    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        inputs = [x.to(device).requires_grad_() for x in (z.clone(), prototypes.clone())]
        loss = function(*inputs)
        results.append((loss.detach(), *torch.autograd.grad(loss, inputs)))
    for one, other in zip(*results, strict=True):
        assert relative_error(one, other) <= 1e-6

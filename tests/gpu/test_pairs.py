"""The Triton kernels for distances that do not factorise, beyond the contract: chunks, units of data, one gradient."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import GPU, relative_error
from torch import Tensor

from vitsom_fast import Grid, available_backends, find_bmu, reference, som_loss
from vitsom_fast.neighborhoods import neighborhood

REASON = available_backends()["triton"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

DISTANCES = ("euclidean", "manhattan")


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, imported late, as Triton may be absent; plans are made anew, before and after."""
    plan = importlib.import_module("vitsom_fast.kernels.launch.plan")
    plan.forget()
    yield importlib.import_module("vitsom_fast.kernels.pairs.gradients")
    plan.forget()


def check_pairs(
    z: Tensor, prototypes: Tensor, grid: Grid, distance: str, wanted: tuple[bool, bool] = (True, True), at_least: float = 0.0
) -> None:
    """Losses and gradients, for losses that count differently, against those of all pairs at once in fp64."""
    triton: Any = importlib.import_module("vitsom_fast.backends.triton")
    wide = [x.double().requires_grad_() for x in (z, prototypes)]
    distances = reference.distances(*wide, distance)
    bmu, factors = distances.argmin(dim=1), neighborhood(grid, 1.3, "mexican_hat")
    weights = torch.einsum("tij,tkl->ikjl", *(x.double() for x in (factors.rows, factors.cols))).flatten(2).flatten(0, 1)
    grad = torch.rand(z.shape[0], dtype=torch.float64)
    true = (weights[bmu] * distances).sum(dim=1)
    true_grads = torch.autograd.grad(true, wide, grad)
    inputs = [x.to(GPU) for x in (z, prototypes, bmu, factors.rows, factors.cols)]
    losses = triton.pair_losses(*inputs, distance)
    assert relative_error(losses.cpu(), true.detach()) <= 1e-5
    grads = triton.pair_gradients(grad.to(GPU), *inputs, distance, *wanted)
    for found, expected, needed, x in zip(grads, true_grads, wanted, (z, prototypes), strict=True):
        assert found.dtype == x.dtype
        assert found.numel() == (x.numel() if needed else 0)
        if needed:
            assert relative_error(found.cpu(), expected) <= max(1e-5, at_least)


@pytest.mark.parametrize(
    ("distance", "pairs", "chunks"), [("manhattan", 1, (3, 2)), ("euclidean", 64 * 128, (3, 1))], ids=DISTANCES[::-1]
)
def test_chunks_are_no_matter(
    gradients: Any, monkeypatch: pytest.MonkeyPatch, distance: str, pairs: int, chunks: tuple[int, int]
) -> None:
    """Of tiles and of sums, too: what is split into parts is added up."""
    monkeypatch.setattr(gradients, "_FEWEST_PULLS", pairs)
    monkeypatch.setattr(gradients, "_PULLS", 0)
    batch, grid = 130, Grid(9, 8)
    chunk = gradients.chunk_size(batch, grid.num_prototypes, 3)
    assert (-(-batch // chunk.samples), -(-grid.num_prototypes // chunk.units)) == chunks
    check_pairs(torch.randn(batch, 3), torch.randn(grid.num_prototypes, 3), grid, distance)


@pytest.mark.parametrize("batch", [1, 100, 4096, 10**6])
@pytest.mark.parametrize("count", [1, 65, 16384, 10**6])
@pytest.mark.parametrize("dim", [1, 192])
def test_chunks_are_bounded(gradients: Any, batch: int, count: int, dim: int) -> None:
    """A constant, or two numbers for every one of the inputs; padding makes a tile of 64 x 64 of a pair."""
    chunk = gradients.chunk_size(batch, count, dim)
    assert chunk.samples % 64 == chunk.units % 64 == 0
    assert chunk.samples * chunk.units <= max(1 << 21, 2 * (batch + count) * dim)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("distance", DISTANCES)
def test_whatever_the_unit(distance: str, scale: float) -> None:
    """Squares of these are no fp32 numbers."""
    check_pairs(torch.randn(5, 3) * scale, torch.randn(6, 3) * scale, Grid(2, 3), distance)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_one_gradient_alone_and_strides(distance: str, dtype: torch.dtype, wanted: tuple[bool, bool]) -> None:
    z, prototypes = torch.randn(5, 9).to(dtype).T.contiguous().T, torch.randn(6, 18).to(dtype)[:, ::2]
    check_pairs(z, prototypes, Grid(2, 3), distance, wanted, at_least=0.03)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_pair_without_a_distance_pulls_nowhere(distance: str) -> None:
    """Beside others that do, and far from the origin."""
    prototypes = torch.randn(6, 4) + 1e3
    check_pairs(prototypes[[2, 2, 0]] + torch.tensor([[0.0], [0.0], [1.0]]), prototypes, Grid(2, 3), distance)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("distance", DISTANCES)
def test_search_of_several_tiles_and_splits(distance: str, k: int) -> None:
    """Ties between tiles go to the lower index; what is no number is never near."""
    triton: Any = importlib.import_module("vitsom_fast.backends.triton")
    z, prototypes = torch.randn(3, 5), torch.randn(160, 5)
    prototypes[[70, 150]], prototypes[100] = prototypes[3].clone(), torch.nan
    z[0] = prototypes[3] + 1e-3
    units, distances = (x.cpu() for x in triton.pair_search(z.to(GPU), prototypes.to(GPU), distance, k))
    true = reference.distances(z.double(), prototypes.double(), distance).nan_to_num(torch.inf)
    order = true.sort(dim=1, stable=True)
    assert torch.equal(units, order.indices[:, :k])
    assert units[0].tolist() == [3, 70][:k]
    assert torch.allclose(distances.double(), order.values[:, :k], rtol=1e-6)


def _step(distance: str, z: Tensor, prototypes: Tensor, grid: Grid, backend: str = "triton") -> tuple[Tensor, ...]:
    loss, bmu = som_loss(z, prototypes, grid, 16.0, distance=distance, backend=backend)
    return loss.detach(), bmu, *torch.autograd.grad(loss, (z, prototypes))


@pytest.mark.skipif(GPU != "cuda", reason="no GPU")
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_large_step(distance: str) -> None:
    """As PyTorch operations have it, the same bits each time, and in memory in proportion to the inputs: the pulls of all pairs
    would take 537 MB."""
    grid = Grid(128, 128)
    z, prototypes = (torch.randn(count, 192, device=GPU, requires_grad=True) for count in (4096, grid.num_prototypes))
    first = _step(distance, z, prototypes, grid)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    second = _step(distance, z, prototypes, grid)
    assert torch.cuda.max_memory_allocated() - before < 500e6
    assert all(map(torch.equal, first, second))
    small, few = z.detach()[:128].requires_grad_(), Grid(40, 40)
    rows = prototypes.detach()[:1600].requires_grad_()
    for one, other in zip(_step(distance, small, rows, few), _step(distance, small, rows, few, "torch"), strict=True):
        assert relative_error(one.double().cpu(), other.double().cpu()) <= 1e-5


@pytest.mark.skipif(GPU != "cuda", reason="no GPU")
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_host_never_waits(distance: str) -> None:
    grid = Grid(9, 14)
    z, prototypes = (torch.randn(count, 33, device=GPU, requires_grad=True) for count in (70, grid.num_prototypes))
    _step(distance, z, prototypes, grid)
    torch.cuda.set_sync_debug_mode("error")
    try:
        _step(distance, z, prototypes, grid)
        find_bmu(z.detach(), prototypes.detach(), distance=distance, k=2, backend="triton")
    finally:
        torch.cuda.set_sync_debug_mode("default")

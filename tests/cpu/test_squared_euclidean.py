"""The squared Euclidean distance in the CPU kernels: lifted rows, and losses and gradients by the kernels of the cosine, which
say where fp32 is not enough."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error
from torch import Tensor

from vitsom_fast import Grid, neighborhoods, reference
from vitsom_fast.backends import cpu, get
from vitsom_fast.backends.distances import lifted
from vitsom_fast.backends.distances.losses import sample_losses

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))

# Thin factors; a band; three terms; weights below zero; one unit.
CASES = [
    ("gaussian", Grid(36, 40), 190, 9.0),
    ("gaussian", Grid(17, 30), 33, 0.7),
    ("gaussian", Grid(12, 9, "hexagonal", periodic=True), 17, 2.0),
    ("mexican_hat", Grid(9, 31), 40, 3.0),
    ("bubble", Grid(1, 127), 1, 5.0),
    ("gaussian", Grid(1, 1), 3, 1.0),
]


def _losses(
    z: Tensor, prototypes: Tensor, grid: Grid, temperature: float, kind: str, bmu: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (B,) fp64 and the gradients of their sum, weighted with the shares (B,)."""
    inputs = z.clone().requires_grad_(), prototypes.clone().requires_grad_()
    factors = neighborhoods.neighborhood(grid, temperature, kind, device=z.device, dtype=torch.float32)
    losses = sample_losses(get("cpu"), bmu, *inputs, factors.rows, factors.cols, "sqeuclidean")
    return losses.detach(), *torch.autograd.grad(losses, inputs, shares)


def _truth(
    z: Tensor, prototypes: Tensor, grid: Grid, temperature: float, kind: str, bmu: Tensor, shares: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, literally and in fp64."""
    inputs = z.double().requires_grad_(), prototypes.double().requires_grad_()
    h = reference.neighborhood_weights(bmu, grid, temperature, torch.float64, kind)
    losses = torch.stack([(h[i] * (x - inputs[1]).square().sum(dim=1)).sum() for i, x in enumerate(inputs[0])])
    return losses.detach(), *torch.autograd.grad(losses, inputs, shares)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "grid", "dim", "temperature"), CASES, ids=str)
def test_losses_and_gradients(kind: str, grid: Grid, dim: int, temperature: float, dtype: torch.dtype) -> None:
    # Views of wider rows, far from the origin.
    z, prototypes = (torch.randn(rows, dim + 3).add(5).to(dtype)[:, 2:-1] for rows in (19, grid.num_prototypes))
    bmu, shares = torch.randint(grid.num_prototypes, (19,)), torch.rand(19, dtype=torch.float64) - 0.2
    losses, *grads = _losses(z, prototypes, grid, temperature, kind, bmu, shares)
    true_losses, *true_grads = _truth(z, prototypes, grid, temperature, kind, bmu, shares)
    size = _truth(z, prototypes, grid, temperature, "gaussian", bmu, shares)[0]  # weights below zero cancel others
    assert ((losses - true_losses).abs() / torch.maximum(true_losses.abs(), size)).max() <= 3e-6
    for grad, true in zip(grads, true_grads, strict=True):
        assert grad.dtype == dtype
        assert relative_error(grad, true) <= (1e-2 if dtype == torch.bfloat16 else 2e-6)


def test_few_samples_that_cancel_are_summed_up_literally() -> None:
    """Two of 64 lie within a cluster, and what is theirs is a millionth of what is summed up."""
    grid, prototypes = Grid(8, 16), torch.randn(128, 24)
    prototypes[::2] += 500
    prototypes[1::2] -= 500
    z, bmu = 3000 * torch.randn(64, 24), torch.randint(128, (64,))
    z[[7, 40]] = prototypes[[30, 99]] + 0.1 * torch.randn(2, 24)
    bmu[[7, 40]] = torch.tensor([30, 99])
    case = z, prototypes, grid, 0.2, "gaussian", bmu, torch.ones(64, dtype=torch.float64)
    factors = neighborhoods.neighborhood(grid, 0.2, device=z.device, dtype=torch.float32)
    assert cpu.squared_losses(z, prototypes, factors.rows, factors.cols, bmu) is not None
    (losses, *grads), (true_losses, *true_grads) = _losses(*case), _truth(*case)
    assert ((losses - true_losses).abs() / true_losses).max() <= 3e-6
    for grad, true in zip(grads, true_grads, strict=True):
        assert relative_error(grad, true) <= 2e-6


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15, 1e36])
def test_many_samples_that_cancel_are_left_to_fp64(scale: float) -> None:
    """As are numbers of which n times the largest is beyond fp32."""
    grid, prototypes = Grid(5, 8), torch.randn(40, 3) + 1e3 * torch.tensor([-1.0, 1.0]).repeat_interleave(20)[:, None]
    bmu = torch.randint(40, (50,))
    z = prototypes[bmu] + 0.3 * torch.randn(50, 3)
    z, prototypes = scale / 1e3 * z, scale / 1e3 * prototypes
    case = z, prototypes, grid, 0.3, "gaussian", bmu, torch.full((50,), 1 / max(scale, 1), dtype=torch.float64)
    factors = neighborhoods.neighborhood(grid, 0.3, device=z.device, dtype=torch.float32)
    assert cpu.squared_losses(z, prototypes, factors.rows, factors.cols, bmu) is None
    (losses, *grads), (true_losses, *true_grads) = _losses(*case), _truth(*case)
    assert ((losses - true_losses).abs() / true_losses).max() <= 1e-5
    for grad, true in zip(grads, true_grads, strict=True):
        assert relative_error(grad, true) <= 1e-5


def test_rows_beyond_fp32_once_they_are_weighted() -> None:
    grid, z, prototypes = Grid(12, 12), 1e37 * torch.randn(20, 3), 1e37 * torch.randn(144, 3)
    case = z, prototypes, grid, 8.0, "bubble", torch.randint(144, (20,)), torch.full((20,), 1e-37, dtype=torch.float64)
    (losses, *grads), (true_losses, *true_grads) = _losses(*case), _truth(*case)
    assert ((losses - true_losses).abs() / true_losses).max() <= 1e-5
    for grad, true in zip(grads, true_grads, strict=True):
        assert relative_error(grad, true) <= 1e-5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_is_nobodys_loss(bad: float) -> None:
    grid, z, prototypes = Grid(4, 5), torch.randn(9, 7), torch.randn(20, 7)
    z[3, 2] = bad
    bmu = torch.arange(9)
    case = grid, 1.0, "gaussian", bmu, torch.ones(9, dtype=torch.float64)
    losses, _, grad = _losses(z, prototypes, *case)
    assert losses.isnan().tolist() == [i == 3 for i in range(9)]
    assert grad.isnan().all()
    prototypes[19, 0] = bad
    losses, grad, _ = _losses(z.nan_to_num(0, 0), prototypes, *case)
    assert losses.isnan().all()
    assert grad.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["random", "shifted", "uneven", "tiny", "huge", "subnormal"])
def test_lifted_rows(kind: str, dtype: torch.dtype) -> None:
    """All prototypes are as long, and of their cosines with a sample the order is that of the distances."""
    if dtype != torch.float32 and kind in ("tiny", "huge", "subnormal"):
        pytest.skip("beyond it")
    z, prototypes = torch.randn(17, 6), torch.randn(90, 6)
    shift = {"shifted": 1e3}.get(kind, 0.0)
    scale = {"tiny": 1e-25, "huge": 1e30, "subnormal": 1e-39}.get(kind, 1.0)
    z, prototypes = ((scale * x + shift).to(dtype) for x in (z, prototypes))
    if kind == "uneven":
        prototypes[5] *= 1000
    lifted_z, lifted_prototypes = (x.double() for x in cpu.lift(z, prototypes))
    lengths = lifted_prototypes.norm(dim=1)
    assert (lengths / lengths.mean() - 1).abs().max() <= 1e-7
    cosines = lifted_z @ lifted_prototypes.T / lengths  # [B, K], times the length of the sample
    squared = (z.double()[:, None] - prototypes.double()).square().sum(dim=2)  # [B, K]
    nearest = squared.gather(1, cosines.argmax(dim=1, keepdim=True))[:, 0]
    assert ((nearest - squared.amin(dim=1)) / squared.amax(dim=1)).max() <= 1e-9
    if kind != "shifted":  # where another centre is as good
        expected = lifted.lift(z, prototypes)[1].double()
        assert (lifted_prototypes / lengths[:, None] - expected / expected.norm(dim=1, keepdim=True)).abs().max() <= 1e-6


def test_rows_that_are_no_numbers_lift_no_others() -> None:
    z, prototypes = torch.randn(5, 4), torch.randn(8, 4)
    prototypes[2, 1], prototypes[3, 0], z[1, 1] = torch.nan, torch.inf, torch.nan
    _, lifted_prototypes = cpu.lift(z, prototypes)
    finite = prototypes.isfinite().all(dim=1)
    assert torch.equal(lifted_prototypes.isfinite().all(dim=1), finite)
    assert torch.equal(cpu.lift(z, prototypes[finite])[1], lifted_prototypes[finite])
    squared = cpu.euclidean_search(z, prototypes[:1], 0, 0, "sqeuclidean", 1)[1].double()
    assert squared.isnan().tolist() == [False, True, False, False, False]
    assert torch.allclose(squared[[0, 2]], (z[[0, 2]].double() - prototypes[0].double()).square().sum(dim=1), rtol=1e-7)


def test_rows_that_are_left_are_searched_apart() -> None:
    """Samples far outside of the map are not for the passes that prune and code; all come back in their places."""
    prototypes = torch.randn(1024, 64)
    z = prototypes[torch.randint(1024, (500,))] + 0.1 * torch.randn(500, 64)
    z[::7] *= 1e6
    z[3, 5] = torch.nan
    for k in (1, 2):
        counts = cpu.search_counts(z, prototypes, k, "sqeuclidean")
        assert counts["fp32"] + counts["fp64"] >= 72
        units, nearest = cpu.euclidean_search(z, prototypes, 0, 0, "sqeuclidean", k)
        truth = (z.double()[:, None] - prototypes.double()).square().sum(dim=2)  # [B, K]
        finite = torch.arange(500) != 3
        expected, order = truth.sort(dim=1, stable=True)
        assert torch.equal(units.view(500, k)[finite], order[finite, :k])
        assert torch.allclose(nearest.view(500, k)[finite].double(), expected[finite, :k], rtol=1e-6)
        assert nearest.view(500, k)[3].isnan().all()

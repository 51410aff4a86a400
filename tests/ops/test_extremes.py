"""The contract where numbers come close to one another, or to the ends of their dtype, on every backend."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    BACKENDS,
    EXACT_BMU_TOLERANCE,
    LOSS_FLOOR,
    check,
    check_bmu,
    is_emulated,
    relative_error,
    run,
    search,
    skip_unless_supported,
    truth,
)
from torch import Tensor

from vitsom_fast import Grid, find_bmu

HALF = (torch.bfloat16, torch.float16)


def unit(x: Tensor) -> Tensor:
    """Rows of length 1 in fp64, whatever their magnitude: the largest element is 1 before anything is squared."""
    x = x.double()
    return torch.nn.functional.normalize(x / x.abs().amax(dim=1, keepdim=True).clamp_min(1e-300))


# Magnitudes


@pytest.mark.parametrize("which", ["z", "prototypes", "both"])
@pytest.mark.parametrize("length", [1e-11, 1e18, 3e19, 1e30, 1e37, 3e38, 2e39])
@pytest.mark.parametrize("dim", [2, 64, 300])
def test_rows_of_any_finite_length(backend: str, dim: int, length: float, which: str) -> None:
    """Up to lengths beyond the largest fp32 number, which the elements of a row are not."""
    grid = Grid(7, 9)
    z, prototypes = (unit(torch.randn(n, dim)) for n in (33, grid.num_prototypes))
    if which != "prototypes":
        z = z * length
    if which != "z":
        prototypes = prototypes * length
    z, prototypes = (x.clamp(-3.4e38, 3.4e38).float() for x in (z, prototypes))
    bmu, distance = search(backend, z, prototypes)
    exact = 1 - unit(z) @ unit(prototypes).T
    nearest = exact.gather(1, bmu[:, None])[:, 0]
    assert (nearest - exact.min(dim=1).values).max() <= 1e-6
    assert (distance - nearest).abs().max() <= 1e-6
    grad_output = max(1.0, min(length, 1e30))  # what fp32 ends above is no fault of a backend
    result = run(backend, z, prototypes, grid, 2.5, reduction="sum", grad_output=grad_output)
    true = truth(z, prototypes, grid, 2.5, result.bmu, reduction="sum", grad_output=grad_output)
    assert result.loss.item() == pytest.approx(true.loss, rel=1e-5)
    for grad, true_grad in ((result.grad_z, true.grad_z), (result.grad_prototypes, true.grad_prototypes)):
        assert grad.isfinite().all()
        if true_grad.norm() > 1e-30:
            assert relative_error(grad, true_grad) <= 1e-5


def test_sums_of_one_sign_and_the_other_beyond_fp32(backend: str) -> None:
    """All that a long prototype has in common with the latents is what two sums of 1e40 leave; the others are opposite."""
    z, prototypes = torch.ones(3, 192), -1 + 0.1 * torch.randn(70, 192)
    prototypes[50] = 3e38
    prototypes[50, 96:186] *= -1
    bmu, distance = search(backend, z, prototypes)
    assert (bmu == 50).all()
    assert (distance - (1 - 12 / 192)).abs().max() <= 1e-6


@pytest.mark.parametrize("dim", [64, 300])
def test_long_prototypes_close_to_the_nearest(backend: str, dim: int) -> None:
    """Where fp32 leaves some in doubt: the nearest is of length 1, the others are longer than any fp32 number."""
    direction = unit(torch.randn(1, dim))
    prototypes = unit(direction + 2.5e-3 * dim**-0.5 * torch.randn(70, dim))  # at distances of 3e-6
    prototypes[8:] = unit(torch.randn(62, dim))
    prototypes *= 3e38 / prototypes.abs().amax(dim=1, keepdim=True)
    prototypes[5] = direction
    z = direction.float().repeat(9, 1)
    prototypes = prototypes.float()
    exact = 1 - unit(z) @ unit(prototypes).T
    bmu, _ = search(backend, z, prototypes)
    nearest = exact.gather(1, bmu[:, None])[:, 0]
    assert (nearest - exact.min(dim=1).values).max() <= 1e-6


@pytest.mark.parametrize("which", ["z", "prototypes"])
def test_lengths_from_end_to_end_of_fp32(backend: str, which: str) -> None:
    z, prototypes = torch.randn(200, 24), torch.randn(99, 24)
    x = z if which == "z" else prototypes
    x *= 10 ** torch.linspace(-11, 37, len(x))[torch.randperm(len(x)), None]
    bmu, distance = search(backend, z, prototypes)
    exact = 1 - unit(z) @ unit(prototypes).T
    nearest = exact.gather(1, bmu[:, None])[:, 0]
    assert (nearest - exact.min(dim=1).values).max() <= 1e-6
    assert (distance - nearest).abs().max() <= 1e-6


def test_a_far_prototype_that_is_short_has_the_largest_gradient(backend: str) -> None:
    """Its weight is below anything that fp32 sees beside 1, and its gradient is divided by its length."""
    grid = Grid(1, 64)
    prototypes = torch.randn(64, 16)
    prototypes[10:] *= 1e-9
    z = prototypes[:1] + 0.1 * torch.randn(4, 16)
    result = run(backend, z, prototypes, grid, 1.7)
    true = truth(z, prototypes, grid, 1.7, result.bmu)
    largest = true.grad_prototypes.norm(dim=1).argmax()
    assert largest >= 10
    assert relative_error(result.grad_prototypes, true.grad_prototypes) <= 1e-5
    assert relative_error(result.grad_z, true.grad_z) <= 1e-5


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_lengths_of_a_wide_map_differ_a_million_times(backend: str, topology: str) -> None:
    grid = Grid(18, 22, topology)
    prototypes = torch.randn(grid.num_prototypes, 40) * 10 ** torch.empty(grid.num_prototypes, 1).uniform_(-6, 0)
    z = torch.randn(9, 40)
    check(run(backend, z, prototypes, grid, 1.3), z, prototypes, grid, 1.3)


# Distances and ties


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dim", [1, 3, 50, 500])
def test_distances_are_within_0_and_2(backend: str, dim: int, sign: int, dtype: torch.dtype) -> None:
    skip_unless_supported(backend, dtype)
    x = torch.rand(100 if is_emulated(backend) else 1000, dim).to(dtype)
    _, distance = search(backend, x, sign * x if sign > 0 else -x[:1])
    assert distance.min() >= 0
    assert distance.max() <= 2
    assert distance.sqrt().isfinite().all()


@pytest.mark.parametrize("dim", [1, 3, 17, 40])
def test_distances_of_a_few_rows_are_within_0_and_2(backend: str, dim: int) -> None:
    """So few that launches count, and a backend may go another way."""
    for _ in range(2 if is_emulated(backend) else 20):
        x = torch.rand(20, dim)
        for prototypes in (x, -x[:1]):
            _, distance = search(backend, x, prototypes)
            assert distance.min() >= 0
            assert distance.max() <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 3, 17, 64, 192])
@pytest.mark.parametrize("exponents", [(-6, 6), (-36, 60)], ids=str)
def test_prototypes_that_differ_by_a_power_of_two_are_equal(
    backend: str, exponents: tuple[int, int], dim: int, dtype: torch.dtype
) -> None:
    """Each is at least 1e-12 long: the same row, once its length is 1, and the lowest index wins."""
    kinds = torch.randn(10, dim).to(dtype)
    kinds = kinds.sign() if dim == 1 else kinds  # only the direction counts, and there are two
    kind = torch.randint(10, (300,))
    prototypes = kinds[kind] * 2.0 ** torch.randint(exponents[0], exponents[1] + 1, (300, 1)).to(dtype)
    z = torch.randn(200, dim).to(dtype)
    bmu, _ = search(backend, z, prototypes)
    check_bmu(bmu, z, prototypes)
    directions = unit(prototypes)
    same = (directions[bmu][:, None, :] == directions[None, :, :]).all(-1)
    assert torch.equal(bmu, same.int().argmax(dim=1))


# Roundings that all go one way


@pytest.mark.parametrize("dim", [96, 192, 480, 1000, 4096])
def test_constant_rows(backend: str, dim: int) -> None:
    """Where all features are alike, so are the roundings of their products; prototypes nearby have others."""
    if is_emulated(backend) and dim > 1000:
        pytest.skip("an interpreter takes long for so many features")
    for seed in range(2 if is_emulated(backend) else 6):
        torch.manual_seed(seed)
        level, other = torch.rand(2) + 0.5
        z = torch.full((1, dim), level.item())
        prototypes = other * (1 + 10 ** torch.empty(63, 1).uniform_(-4, -2.5) * torch.randn(63, dim))
        prototypes = torch.cat([torch.full((1, dim), other.item()), prototypes])[torch.randperm(64)]
        check_bmu(search(backend, z, prototypes)[0], z, prototypes)


@pytest.mark.parametrize("temperature", [0.5, 8.0, 30.0, 1e6])
@pytest.mark.parametrize(
    ("rows", "cols", "dim", "batch"), [(40, 40, 31, 12), (16, 16, 192, 64), (1, 282, 1, 64), (31, 29, 100, 12)], ids=str
)
def test_loss_of_a_collapsed_map(backend: str, rows: int, cols: int, dim: int, batch: int, temperature: float) -> None:
    """All latents and prototypes point one way, the loss is 0, and what it is the difference of is not."""
    grid = Grid(rows, cols)
    for seed in range(2 if is_emulated(backend) else 6):
        torch.manual_seed(seed)
        direction = torch.randn(1, dim) if seed % 2 else torch.ones(1, dim)
        z, prototypes = ((torch.rand(1) * 3).item() * direction.repeat(n, 1) for n in (batch, grid.num_prototypes))
        result = run(backend, z, prototypes, grid, temperature)
        true = truth(z, prototypes, grid, temperature, result.bmu)
        assert result.loss >= 0 or backend in ("triton", "cuda")  # which are off by as much either way
        assert abs(result.loss.item() - true.loss) <= 1e-5 * true.loss + LOSS_FLOOR * true.weight
        check(result, z, prototypes, grid, temperature, cancels=True)


@pytest.mark.parametrize(("rows", "cols", "batch"), [(1, 282, 300), (200, 1, 100), (12, 130, 300)], ids=str)
def test_gradients_of_sums_of_many_that_are_alike(backend: str, rows: int, cols: int, batch: int) -> None:
    """Every unit has its samples, all point one way and weigh the same: a chain of so many equal products in fp32 is wrong by
    more than the contract allows."""
    grid = Grid(rows, cols)
    for seed in range(1 if is_emulated(backend) else 4):
        torch.manual_seed(seed)
        prototypes = torch.randn(1, 33) + 1e-6 * torch.randn(grid.num_prototypes, 33)
        z = prototypes[torch.randint(grid.num_prototypes, (batch,))]
        check(run(backend, z, prototypes, grid, 1e6), z, prototypes, grid, 1e6, cancels=True)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("own", ["cpu", "torch"])
def test_loss_of_few_features(own: str, dim: int) -> None:
    """Half of the map points one way and half the other: over so few features roundings of fp32 add up."""
    skip_unless_supported(own, torch.float32)
    grid = Grid(40, 36)
    above = []
    for seed in range(12):
        torch.manual_seed(seed)
        direction = torch.randn(1, dim)
        z, prototypes = (torch.rand(n, 1) * direction for n in (100, grid.num_prototypes))
        prototypes[grid.num_prototypes // 2 :] *= -1
        result = run(own, z, prototypes, grid, 1.0 + 1.5 * seed)
        true = truth(z, prototypes, grid, 1.0 + 1.5 * seed, result.bmu)
        above.append((abs(result.loss.item() - true.loss) - 1e-5 * true.loss) / true.weight)
    assert max(above) <= 2e-8


# The CPU kernels promise more: what fp64 would find


@pytest.mark.parametrize("pruning", ["auto", "always"])
@pytest.mark.parametrize("kind", ["random", "smooth", "collapsed", "constant", "copies", "opposite"])
@pytest.mark.parametrize("dim", [3, 64, 192, 500])
def test_cpu_search_is_that_of_fp64(monkeypatch: pytest.MonkeyPatch, dim: int, kind: str, pruning: str) -> None:
    if BACKENDS["cpu"] != "cpu":
        pytest.skip("no CPU kernels")
    monkeypatch.setenv("VITSOM_CPU_PRUNING", pruning)
    grid = Grid(26, 31)
    place = grid.positions.float() / 8  # [K, 2]
    smooth = torch.sin(place @ torch.randn(2, dim) + torch.rand(dim) * 6)
    prototypes = {
        "random": torch.randn(grid.num_prototypes, dim),
        "smooth": smooth,
        "collapsed": torch.randn(1, dim) + 1e-5 * smooth,
        "constant": torch.ones(grid.num_prototypes, dim) * (1 + 1e-4 * smooth),
        "copies": torch.randn(7, dim)[torch.randint(7, (grid.num_prototypes,))],
        "opposite": (place[:, :1] - 1.5).sign() * (torch.randn(1, dim) + 1e-3 * smooth),
    }[kind]
    z = prototypes[torch.randint(grid.num_prototypes, (300,))] * (1 + 1e-3 * torch.randn(300, dim))
    bmu, distance = find_bmu(z, prototypes, backend="cpu")
    d = 1 - unit(z) @ unit(prototypes).T  # [B, K]
    nearest = d.gather(1, bmu[:, None])[:, 0]
    assert (nearest - d.min(dim=1).values).max() <= EXACT_BMU_TOLERANCE
    assert (distance - nearest.clamp_min(0)).abs().max() <= 3e-7


@pytest.mark.parametrize("dim", [96, 192, 1000, 4096])
def test_cpu_search_of_constant_rows_is_that_of_fp64(dim: int) -> None:
    """Roundings that all go one way are within what the passes in fp32 allow for."""
    if BACKENDS["cpu"] != "cpu":
        pytest.skip("no CPU kernels")
    for seed in range(10):
        torch.manual_seed(seed)
        z = (torch.rand(40, 1) + 0.5).repeat(1, dim)
        level = torch.rand(1) + 0.5
        prototypes = level * (1 + 10 ** torch.empty(63, 1).uniform_(-4, -2.5) * torch.randn(63, dim))
        prototypes = torch.cat([level.expand(1, dim), prototypes])[torch.randperm(64)]
        d = 1 - unit(z) @ unit(prototypes).T
        bmu, _ = find_bmu(z, prototypes, backend="cpu")
        assert (d.gather(1, bmu[:, None])[:, 0] - d.min(dim=1).values).max() <= EXACT_BMU_TOLERANCE


def test_weights_next_to_nothing_count_where_all_else_cancels(backend: str) -> None:
    """The sample is its BMU; all of the loss is the weight 2.6e-8 of an opposite unit on either side."""
    z, prototypes = torch.tensor([[2.2]]), torch.tensor([[-1.3], [2.2], [-0.7]])
    result = run(backend, z, prototypes, Grid(1, 3), 0.1692, reduction="sum")
    true = truth(z, prototypes, Grid(1, 3), 0.1692, result.bmu, reduction="sum")
    assert true.loss == pytest.approx(1.05e-7, rel=0.1)
    assert abs(result.loss.item() - true.loss) < 0.5 * true.loss

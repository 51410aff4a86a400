"""The torch backend, and the operations that forward derivatives and gradients of gradients of all backends go through: rows of
any length, small differences, ties, and products that PyTorch may round."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    BACKENDS,
    LOW_PRECISION,
    RELATIVE_TOLERANCE,
    Result,
    check,
    check_bmu,
    low_precision_products,
    matmul_setting,
    relative_error,
    run,
    search,
    truth,
)
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from vitsom_fast import Grid, backends, long_axis, reference, som_loss
from vitsom_fast.backends import centred, products, ties, torch_ops
from vitsom_fast.backends.differentiable import loss_at
from vitsom_fast.backends.unit_rows import unit_rows
from vitsom_fast.neighborhoods import neighborhood

# Rows of any length


def _of_lengths(x: Tensor, low: float, high: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """The directions of x with lengths spread evenly, by exponent, from the one to the other."""
    exponents = torch.linspace(math.log2(low), math.log2(high), len(x), dtype=torch.float64)
    return (normalize(x.double()) * exponents[torch.randperm(len(x)), None].exp2()).to(dtype)


LENGTHS = {  # of the latents and of the prototypes
    "long latents": ((1e18, 3e38), (0.1, 10.0)),
    "long prototypes": ((0.1, 10.0), (1e18, 3e38)),
    "longer than the largest number": ((1e37, 1e39), (1e37, 1e39)),
    "all lengths": ((1e-11, 1e38), (1e-11, 1e38)),
}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("dim", [192, 3000])
def test_rows_of_any_length(dim: int, lengths: str) -> None:
    """A prototype's gradient is the shorter the longer it is: of both, what is compared is the gradient for the direction."""
    grid = Grid(7, 9)
    z, prototypes = (_of_lengths(torch.randn(n, dim), *limits) for n, limits in zip((33, 63), LENGTHS[lengths], strict=True))
    assert z.isfinite().all()
    assert prototypes.isfinite().all()
    result = run("torch", z, prototypes, grid, 2.5, reduction="sum", grad_output=2.0**60)
    check_bmu(result.bmu, z, prototypes)
    check_bmu(search("torch", z, prototypes)[0], z, prototypes)
    true = truth(z, prototypes, grid, 2.5, result.bmu, reduction="sum", grad_output=2.0**60)
    assert result.loss.item() == pytest.approx(true.loss, rel=RELATIVE_TOLERANCE)
    for x, grad, true_grad in ((z, result.grad_z, true.grad_z), (prototypes, result.grad_prototypes, true.grad_prototypes)):
        length = x.double().norm(dim=1, keepdim=True)
        assert relative_error(grad.double() * length, true_grad * length) < RELATIVE_TOLERANCE


@pytest.mark.parametrize("power", [-1000, -500, 0, 500, 1000])
def test_rows_of_any_length_in_fp64(power: int) -> None:
    """A power of two changes no bit of a direction."""
    x = torch.randn(9, 24, dtype=torch.float64)
    rows, expected = unit_rows(x * 2.0**power * (1e-12 if power == 0 else 1.0)), unit_rows(x)
    if power < 0:  # shorter than eps
        assert torch.equal(rows.unit, x * 2.0**power / 1e-12)
    else:
        assert torch.allclose(rows.unit, expected.unit, rtol=0, atol=1e-15)


def test_the_shortest_rows_are_divided_by_eps() -> None:
    x = torch.full((3, 24), 1e-45)
    x[1] = 1e-30
    x[2] = 0
    for dtype in (torch.float32, torch.float64):
        assert torch.allclose(unit_rows(x.to(dtype)).unit, x.double() * 1e12, rtol=1e-12, atol=0)


@pytest.mark.parametrize("length", [1e-30, 1e-11, 1e19, 1e38, 3e39])
def test_rows_of_any_length_without_fp64(length: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On devices that have none, a power of two is taken off before anything is squared."""
    x = torch.randn(9, 300, dtype=torch.float64)
    x = (normalize(x) * length).clamp(-3.4e38, 3.4e38).float()
    expected = unit_rows(x)
    monkeypatch.setattr(sys.modules["vitsom_fast.backends.unit_rows"], "widest", lambda x: torch.float32)
    rows = unit_rows(x)
    assert rows.unit.dtype == torch.float32
    assert relative_error(rows.unit, expected.unit) < 1e-6


DERIVATIVES: dict[str, Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor, Tensor], Any]] = {
    "grad": lambda f, z, w, v: torch.func.grad(f, argnums=(0, 1))(z, w),
    "jvp": lambda f, z, w, v: (torch.func.jvp(f, (z, w), (v, torch.zeros_like(w)))[1],),
    "double backward": lambda f, z, w, v: _gradient_of_gradients(f, z, w, v),
}


def _gradient_of_gradients(f: Callable[[Tensor, Tensor], Tensor], z: Tensor, w: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    z, w = z.clone().requires_grad_(), w.clone().requires_grad_()
    (grad,) = torch.autograd.grad(f(z, w), z, create_graph=True)
    return torch.autograd.grad((grad * v).sum(), (z, w))


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("which", ["z", "prototypes"])
def test_derivatives_for_long_rows(backend: str, which: str, derivative: str) -> None:
    """In operations that PyTorch differentiates: half the rows are longer than the root of the largest number."""
    grid = Grid(3, 4)
    z, w, v = torch.randn(9, 8), torch.randn(12, 8), torch.randn(9, 8)
    if which == "z":
        z[::2], v[::2] = z[::2] * 2.0**80, v[::2] * 2.0**80
    else:
        w[::2] *= 2.0**80
    device = BACKENDS[backend]

    def along(loss: Callable[..., Any], dtype: torch.dtype, device: str) -> list[Tensor]:
        def f(z: Tensor, w: Tensor) -> Tensor:
            return loss(z, w, grid, 1.3)[0]

        results = DERIVATIVES[derivative](f, *(x.to(device, dtype) for x in (z, w, v)))
        return [x.cpu().double() for x in results]

    ours = along(lambda *a: som_loss(*a, backend=backend), torch.float32, device)
    theirs = along(reference.som_loss, torch.float64, "cpu")
    for actual, expected in zip(ours, theirs, strict=True):
        rows = (slice(None, None, 2), slice(1, None, 2)) if expected.dim() else (...,)
        for part in rows:  # long and ordinary ones, whose derivatives differ by as much as their lengths
            assert relative_error(actual[part], expected[part]) < RELATIVE_TOLERANCE


# Small differences


@pytest.mark.parametrize("dim", [1, 50, 3136])
def test_distances_are_never_below_zero(dim: int) -> None:
    x = torch.rand(300, dim)
    _, distance = search("torch", x, x)
    assert (distance >= 0).all()
    assert (distance < 1e-6).all()
    _, distance = search("torch", x, -x[:1])
    assert (distance <= 2).all()
    x[3, 0] = torch.nan
    assert search("torch", x, x[4:])[1][3].isnan()


@pytest.mark.parametrize("through", ["forward", "torch.func", "double backward"])
@pytest.mark.parametrize("temperature", [3.0, 1e6])
@pytest.mark.parametrize("dim", [1, 64, 4096])
def test_loss_of_a_collapsed_map(dim: int, temperature: float, through: str) -> None:
    """All in one direction: the loss is 0, to within 1e-7 of the mean weight."""
    grid = Grid(16, 16)
    for value in (0.3, 0.7, 1.1):
        prototypes = torch.full((256, dim), value)
        z = (torch.rand(65, 1) + 0.2).expand(65, dim).contiguous()

        def loss(z: Tensor, prototypes: Tensor = prototypes) -> Tensor:
            return som_loss(z, prototypes, grid, temperature, backend="torch")[0]

        if through == "forward":
            value = loss(z)
        elif through == "torch.func":
            value = torch.func.grad_and_value(loss)(z)[1]
        else:
            leaf = z.clone().requires_grad_()
            value = loss(leaf)
            (grad,) = torch.autograd.grad(value, leaf, create_graph=True)
            assert torch.autograd.grad(grad.square().sum(), leaf)[0].isfinite().all()
        bmu = torch.zeros(65, dtype=torch.int64)
        weight = reference.neighborhood_weights(bmu, grid, temperature, torch.float64).mean().item()
        assert abs(value.item()) <= 1e-7 * weight


@pytest.mark.parametrize("through", ["backward", "torch.func"])
@pytest.mark.parametrize("noise", [1e-2, 1e-3, 1e-4])
def test_gradients_of_a_map_that_fits_its_data(noise: float, through: str) -> None:
    """Small differences of large pulls, and exact all the same: without the centre they are off by 1e-7 / noise."""
    grid = Grid(17, 17)
    prototypes = torch.randn(1, 64) + noise * torch.randn(289, 64)
    z = prototypes[torch.randint(289, (200,))] + noise * torch.randn(200, 64)
    result = run("torch", z, prototypes, grid, 2.0)
    true = truth(z, prototypes, grid, 2.0, result.bmu)
    grads = result.grad_z, result.grad_prototypes
    if through == "torch.func":
        grads = torch.func.grad(lambda z, w: som_loss(z, w, grid, 2.0, backend="torch")[0], argnums=(0, 1))(z, prototypes)
    assert relative_error(grads[0], true.grad_z) < 1e-6
    assert relative_error(grads[1], true.grad_prototypes) < 1e-6


@pytest.mark.parametrize("dim", [96, 384, 4096])
def test_constant_rows(dim: int) -> None:
    """Products that are all alike are rounded one way, by up to 3e-6 of the cosine in chains of some hundred."""
    bmus = []
    for seed in range(10):
        torch.manual_seed(seed)
        z, constant = torch.rand(1) + 0.5, torch.rand(1) + 0.5
        others = constant * (1 + 1.7e-3 * torch.randn(63, dim))  # at a distance of 1.5e-6
        prototypes = torch.cat([constant.expand(1, dim), others, torch.randn(500, dim)])
        latents = z.expand(9, dim)
        bmus.append(search("torch", latents, prototypes)[0])
        check_bmu(bmus[-1], latents, prototypes)


@pytest.mark.parametrize("case", ["grad", "plain"])
def test_an_empty_batch_pulls_on_nothing(backend: str, case: str) -> None:
    """Not even on a prototype that is NaN."""
    device = BACKENDS[backend]
    z, prototypes = torch.randn(0, 8, device=device), torch.randn(12, 8, device=device)
    prototypes[3] = torch.nan

    def loss(prototypes: Tensor) -> Tensor:
        return som_loss(z, prototypes, Grid(3, 4), 1.3, backend=backend)[0]

    if case == "grad":
        grad = torch.func.grad(loss)(prototypes)
    else:
        (grad,) = torch.autograd.grad(loss(prototypes.requires_grad_()), prototypes)
    assert torch.equal(grad, torch.zeros_like(grad))


# Ties


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 3, 17, 127])
@pytest.mark.parametrize(("count", "distinct"), [(17, 2), (1000, 300), (2159, 12)])
def test_prototypes_that_differ_by_a_power_of_two_are_ties(count: int, distinct: int, dim: int, dtype: torch.dtype) -> None:
    kinds = torch.randn(distinct, dim).to(dtype)
    if dim == 1:  # there are two directions
        kinds = kinds.sign()
    kind = torch.randint(distinct, (count,))
    prototypes = kinds[kind] * 2.0 ** torch.randint(-30, 60, (count, 1))
    z = torch.randn(500, dim).to(dtype)
    bmu, _ = search("torch", z, prototypes.to(dtype))
    directions = kinds.flatten() if dim == 1 else torch.arange(distinct)
    same = directions[kind[bmu]][:, None] == directions[kind]
    assert torch.equal(bmu, same.int().argmax(dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "distinct"), [(17, 2), (200, 30)])
def test_ties_of_a_step_and_of_a_search_are_the_same(count: int, distinct: int, dtype: torch.dtype) -> None:
    kind = torch.randint(distinct, (count,))
    prototypes = (torch.randn(distinct, 64)[kind] * 2.0 ** torch.randint(-30, 60, (count, 1))).to(dtype)
    z = torch.randn(500, 64, dtype=dtype)
    bmu = run("torch", z, prototypes, Grid(1, count), 2.5).bmu
    assert torch.equal(bmu, (kind[bmu][:, None] == kind).int().argmax(dim=1))
    assert torch.equal(bmu, search("torch", z, prototypes)[0])


@pytest.mark.parametrize(("batch", "count", "dim"), [(5, 33, 60), (7, 31, 33), (2, 127, 25), (1, 9, 1500)])
def test_ties_of_a_small_map(batch: int, count: int, dim: int) -> None:
    """Where all is computed at once: a product of matrices rounds equal columns differently at the edge of its tiles."""
    prototypes = torch.randn(1, dim) * 2.0 ** torch.randint(-30, 60, (count, 1))
    z = torch.randn(batch, dim)
    assert torch_ops._is_small(z, prototypes)
    bmu = run("torch", z, prototypes, Grid(1, count), 2.5).bmu
    assert not bmu.any()
    assert not search("torch", z, prototypes)[0].any()


def _first_of(x: Tensor) -> Tensor:
    """The lowest index of a row that is the same as each."""
    return ties.lowest_equal(x, unit_rows(x).norm, torch.arange(len(x)))


def test_equal_rows_are_found_whatever_their_zeros() -> None:
    x = torch.randn(4, 6)
    x[:, 2] = torch.tensor([0.0, -0.0, 0.0, -0.0])
    x[2:] = 4 * x[:2]
    x[1] = x[0]
    x[1, 2] = -0.0
    assert _first_of(x).tolist() == [0, 0, 0, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hashes_of_small_integers_differ(dtype: torch.dtype) -> None:
    """Only the highest of their bits are set; where hashes are equal, the lowest of the equal rows can be overlooked."""
    x = torch.cartesian_prod(*[torch.arange(-2.0, 3.0, dtype=dtype)] * 7)
    x = x[x.square().sum(dim=1) == 10]  # of one length: that is in the hash, too
    assert len(x) == 4256
    assert len(ties._hash(x, x.norm(dim=1, keepdim=True)).unique()) == len(x)


def test_equal_hashes_are_no_equal_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ties, "_hash", lambda rows, norm: torch.zeros(len(rows), dtype=torch.int64))
    x = torch.randn(4, 6)
    assert _first_of(x).tolist() == [0, 1, 2, 3]


def test_below_eps_a_power_of_two_counts() -> None:
    x = 1e-14 * torch.randn(1, 24) * torch.tensor([[1.0], [4.0], [4.0], [2.0]])
    assert _first_of(x).tolist() == [0, 1, 1, 3]


def test_below_eps_the_length_counts() -> None:
    """The longer of two prototypes in one direction is nearer, as long as both are shorter than eps."""
    direction = normalize(torch.randn(1, 24))
    lengths = torch.cat([torch.full((600,), 1e-13), torch.full((100,), 4e-13), torch.tensor([5e-13, 5e-13])])
    bmu, distance = search("torch", direction.expand(300, 24), lengths[:, None] * direction)
    assert (bmu == 700).all()
    assert torch.allclose(distance, torch.tensor(0.5), atol=1e-6)


# Products that may be rounded


class _Rounded(TorchDispatchMode):
    """PyTorch as it is where it may round: operands of fp32 products are cut to bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default):
            self.count += any(x.dtype == torch.float32 for x in args)
            args = [x.bfloat16().float() if x.dtype == torch.float32 else x for x in args]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("how", LOW_PRECISION)
@pytest.mark.parametrize("spread", [1.0, 0.1])
def test_rounded_operands_change_nothing(spread: float, how: str) -> None:
    """Not every processor rounds where it may: here all do. Nor is the setting changed, for other threads or at all."""
    grid = Grid(17, 31, "hexagonal")
    prototypes = torch.randn(1, 64) + spread * torch.randn(grid.num_prototypes, 64)
    z = prototypes[torch.randint(grid.num_prototypes, (300,))] + spread * torch.randn(300, 64)
    factors = neighborhood(grid, 2.5)
    with low_precision_products(how):
        setting, rounded = matmul_setting(), _Rounded()
        assert products.may_be_rounded(z)
        with rounded:
            assert relative_error(z @ prototypes.T, z.double() @ prototypes.double().T) > 1e-4
            assert rounded.count == 1
            loss, bmu, *kept = torch_ops.som_forward(z, prototypes, *factors, "mean")
            grads = backends.get("torch").som_backward(
                torch.tensor(1.0), z, prototypes, *factors, bmu, *kept, "mean", True, True
            )
            found, _ = torch_ops.search(z, prototypes)
            by_func = torch.func.grad(lambda z: loss_at(bmu, z, prototypes, *factors, "mean")[0])(z)
        assert rounded.count > 2  # the searches are products of fp32
        assert matmul_setting() == setting
    check(Result(loss, bmu, *grads), z, prototypes, grid, 2.5)
    assert torch.equal(found, bmu)
    assert relative_error(by_func, truth(z, prototypes, grid, 2.5, bmu).grad_z) < RELATIVE_TOLERANCE


def test_rounded_operands_change_nothing_on_a_long_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_axis, "_dtype_of_sums", lambda z: torch.float32)  # as on a GPU
    grid = Grid(1, 300)
    z, prototypes = torch.randn(20, 64), torch.randn(300, 64)
    with low_precision_products(LOW_PRECISION[0]):
        rounded = _Rounded()
        with rounded:
            result = run("torch", z, prototypes, grid, 2.5)
        assert rounded.count > 2
    check(result, z, prototypes, grid, 2.5)


@pytest.mark.parametrize("how", LOW_PRECISION)
def test_settings_are_never_written(how: str) -> None:
    """Not even for a moment: another thread would compute with it."""
    with low_precision_products(how):
        during = set()

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                during.add(matmul_setting())
                return func(*args, **(kwargs or {}))

        z, prototypes, factors = torch.randn(300, 64), torch.randn(99, 64), neighborhood(Grid(9, 11), 2.5)
        with Watch():
            _, *kept = torch_ops.som_forward(z, prototypes, *factors, "mean")
            backends.get("torch").som_backward(torch.tensor(1.0), z, prototypes, *factors, *kept, "mean", True, True)
            torch_ops.search(z, prototypes)
        assert during == {matmul_setting()}


def test_products_in_full_precision_are_plain() -> None:
    a, b = torch.randn(33, 24), torch.randn(24, 17)
    assert torch.equal(products.product(a, b), a @ b)


def test_parts_add_up() -> None:
    x = torch.randn(33, 24) * 10.0 ** torch.randint(-20, 20, (33, 1))
    parts = products._parts(x)
    assert torch.equal(parts[0] + parts[1] + parts[2], x)
    assert all(torch.equal(part.bfloat16().float(), part) for part in parts)


@pytest.mark.parametrize(("setting", "rounded"), [("highest", False), ("high", True), ("medium", True)])
def test_settings_before_torch_2_9(monkeypatch: pytest.MonkeyPatch, setting: str, rounded: bool) -> None:
    """One for all devices, and no ``torch.backends.mkldnn.matmul`` at all."""
    monkeypatch.setattr(torch.backends, "cuda", object())
    monkeypatch.setattr(torch.backends, "mkldnn", object())
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: setting)
    assert products.may_be_rounded(torch.randn(1)) == rounded


def test_pieces_and_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(9, 11)
    z, prototypes = torch.randn(70, 24), torch.randn(99, 24)
    z[::7], prototypes[50] = z[:1], prototypes[3]
    whole = run("torch", z, prototypes, grid, 2.5), search("torch", z, prototypes)
    monkeypatch.setattr(centred, "_PIECE", 100)
    monkeypatch.setattr(torch_ops, "_CHUNK", 2000)
    monkeypatch.setattr(sys.modules["vitsom_fast.backends.ties"], "_PIECE", 100)
    parts = run("torch", z, prototypes, grid, 2.5), search("torch", z, prototypes)
    check(parts[0], z, prototypes, grid, 2.5)
    assert torch.equal(parts[0].bmu, whole[0].bmu)
    assert torch.equal(parts[1][0], whole[1][0])
    assert torch.allclose(parts[1][1], whole[1][1], atol=1e-6)

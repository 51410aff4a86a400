"""Maps with a long axis, whose weights are computed for the samples at hand and not for all places along it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import BACKENDS, check, is_emulated, relative_error, run, skip_unless_supported, truth
from torch._subclasses.fake_tensor import FakeTensorMode

from vitsom_fast import Grid, long_axis, reference, som_loss

GRIDS = [
    Grid(1, 700),
    Grid(700, 1, periodic=True),
    Grid(2, 500, "hexagonal"),
    Grid(500, 3, "hexagonal"),
    Grid(2, 501, "hexagonal", True),
    Grid(600, 2, "hexagonal", True),
]


@pytest.mark.parametrize("temperature", [0.3, 5.0, 60.0, 1e6])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_contract(backend: str, grid: Grid, temperature: float) -> None:
    batch = 7
    assert long_axis.serves(grid, batch)
    z, prototypes = torch.randn(batch, 12), torch.randn(grid.num_prototypes, 12)
    for given_as in (temperature, torch.tensor(temperature)):
        result = run(backend, z, prototypes, grid, given_as)
        check(result, z, prototypes, grid, temperature, cancels=True)


@pytest.mark.parametrize("chunk", [1, 3000])
def test_many_samples_in_many_parts(backend: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_axis, "_CHUNK", chunk)
    grid = Grid(1, 999)
    z, prototypes = torch.randn(120, 12), torch.randn(999, 12)
    check(run(backend, z, prototypes, grid, 9.0), z, prototypes, grid, 9.0, cancels=True)


def test_collapsed_map(backend: str) -> None:
    grid = Grid(1, 800)
    z, prototypes = torch.full((9, 31), 0.7), torch.full((800, 31), 1.3)
    for temperature in (8.0, 1e6):
        check(run(backend, z, prototypes, grid, temperature), z, prototypes, grid, temperature, cancels=True)


def test_two_features_of_opposite_clusters(backend: str) -> None:
    """Roundings of two features do not even out: in fp32 this loss was off by up to 3e-7 of the weight."""
    grid = Grid(1, 600)
    place = torch.linspace(-1, 1, 600, dtype=torch.float64)[:, None]
    for seed in range(10):
        torch.manual_seed(seed)
        bend = torch.cat([place, place**2, (3 * place).sin()], dim=1) @ torch.randn(3, 2, dtype=torch.float64)
        prototypes = (bend - bend.mean(dim=0)).float()
        z = prototypes[torch.randint(600, (1,))] * 1.01
        check(run(backend, z, prototypes, grid, 27.57), z, prototypes, grid, 27.57, cancels=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(backend: str, dtype: torch.dtype) -> None:
    skip_unless_supported(backend, dtype)
    grid = Grid(1, 600)
    z, prototypes = torch.randn(9, 12).to(dtype), torch.randn(600, 12).to(dtype)
    result = run(backend, z, prototypes, grid, 4.0, reduction="sum")  # a mean would be below what fp16 holds
    true = truth(z, prototypes, grid, 4.0, result.bmu, reduction="sum")
    rounding = 1e-12 if dtype == torch.float64 else torch.finfo(dtype).eps
    assert result.loss.item() == pytest.approx(true.loss, rel=min(rounding, 1e-5))
    assert relative_error(result.grad_z, true.grad_z) < rounding
    assert relative_error(result.grad_prototypes, true.grad_prototypes) < rounding


def test_what_is_not_finite_makes_the_loss_nan(backend: str) -> None:
    """Be it out of reach of all BMUs."""
    grid = Grid(1, 600)
    z, prototypes = torch.randn(9, 12), torch.randn(600, 12)
    prototypes[:500] = 1e-3 * torch.randn(500, 12) - z.mean(0)
    prototypes[0, 3] = torch.nan
    result = run(backend, z, prototypes, grid, 0.5)
    assert result.loss.isnan()
    assert run(backend, torch.full_like(z, torch.inf), torch.randn(600, 12), grid, 0.5).loss.isnan()


def test_empty_batch(backend: str) -> None:
    for value in (1.0, torch.nan):
        result = run(backend, torch.randn(0, 12), torch.full((600, 12), value), Grid(1, 600), 2.0)
        assert result.loss.item() == 0
        assert not result.grad_prototypes.any()


def test_autocast_changes_nothing(backend: str) -> None:
    """Not even where the gradients are taken within it."""
    grid = Grid(1, 600)
    z, prototypes = torch.randn(9, 12), torch.randn(600, 12)
    expected = run(backend, z, prototypes, grid, 4.0)
    with torch.autocast(BACKENDS[backend], dtype=torch.bfloat16):
        result = run(backend, z, prototypes, grid, 4.0)
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


def test_derivatives_of_any_kind() -> None:
    """Twice backwards, forwards, batched, and by torch.func."""
    grid = Grid(1, 300)
    z = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    prototypes = torch.randn(300, 2, dtype=torch.float64, requires_grad=True)

    def loss(z: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
        return som_loss(z, prototypes, grid, 3.0, reduction="sum")[0]

    assert long_axis.serves(grid, 3)
    assert torch.autograd.gradcheck(loss, (z, prototypes), check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, (z, prototypes), fast_mode=True)
    expected = torch.autograd.grad(loss(z, prototypes), z)[0]
    assert torch.allclose(torch.func.grad(loss)(z, prototypes), expected)


DERIVATIVES: dict[str, Callable[[Any, torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]] = {
    "backward": lambda f, z, w: torch.autograd.grad(f(z.requires_grad_(), w.requires_grad_()), (z, w)),
    "torch.func": lambda f, z, w: torch.func.grad(f, argnums=(0, 1))(z, w),
}


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("which", ["z", "prototypes"])
def test_rows_longer_than_the_root_of_the_largest_number(backend: str, which: str, derivative: str) -> None:
    """Every second one, and a gradient is the shorter the longer its row is."""
    grid = Grid(1, 300)
    inputs = {"z": torch.randn(9, 8), "prototypes": torch.randn(300, 8)}
    inputs[which][::2] *= 2.0**80
    ours, theirs = (
        DERIVATIVES[derivative](lambda z, w, loss=loss: 2.0**20 * loss(z, w), *(x.to(device, dtype) for x in inputs.values()))
        for loss, device, dtype in (
            (lambda z, w: som_loss(z, w, grid, 3.0, backend=backend)[0], BACKENDS[backend], torch.float32),
            (lambda z, w: reference.som_loss(z, w, grid, 3.0)[0], "cpu", torch.float64),
        )
    )
    for actual, expected in zip(ours, theirs, strict=True):
        for rows in (slice(None, None, 2), slice(1, None, 2)):
            assert relative_error(actual.cpu()[rows], expected[rows]) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_short_prototype_far_away_has_the_largest_gradient(backend: str, dtype: torch.dtype) -> None:
    """Its weight is next to nothing, and its gradient divided by its length."""
    skip_unless_supported(backend, dtype)
    grid = Grid(1, 300)
    prototypes = torch.randn(300, 12, dtype=dtype)
    prototypes[20:] *= 1e-11
    z = prototypes[:1] + 0.1 * torch.randn(4, 12, dtype=dtype)
    result = run(backend, z, prototypes, grid, 3.0)
    true = truth(z, prototypes, grid, 3.0, result.bmu)
    assert true.grad_prototypes.norm(dim=1).argmax() >= 20
    assert relative_error(result.grad_prototypes, true.grad_prototypes) < 1e-5


def test_gradients_of_a_map_that_fits_its_data(backend: str) -> None:
    """Those of the prototypes are exact: the latents are seen from a centre of their own."""
    grid, noise = Grid(1, 300), 1e-3
    prototypes = torch.randn(1, 64) + noise * torch.randn(300, 64)
    z = prototypes[torch.randint(300, (9 if is_emulated(backend) else 90,))] + noise * torch.randn(1, 64)
    result = run(backend, z, prototypes, grid, 5.0)
    true = truth(z, prototypes, grid, 5.0, result.bmu)
    check(result, z, prototypes, grid, 5.0, cancels=True)
    assert relative_error(result.grad_prototypes, true.grad_prototypes) < 1e-5


@pytest.mark.parametrize(
    "grid",
    [Grid(204, 1, "hexagonal", True), Grid(1474, 1, "hexagonal", True), Grid(2, 1501, "hexagonal", True)],
    ids=str,
)
def test_weights_are_right_across_the_seam(grid: Grid) -> None:
    """Offsets are wrapped where they are exact, before the rows of a hexagonal grid move together."""
    ends = torch.cat([torch.arange(4), torch.arange(grid.num_prototypes - 4, grid.num_prototypes)])
    every = long_axis._Part(torch.arange(8), *long_axis._places(grid, torch.device("cpu")), grid.cols)
    weights = every.weights(ends, grid, 0.5, torch.float32)
    expected = reference.neighborhood_weights(ends, grid, 0.5, torch.float64)
    seen = expected > 0.01
    assert ((weights - expected).abs() / expected)[seen].max() < 5e-6
    assert (weights - expected).abs().max() < 5e-7


def test_fake_tensors() -> None:
    """Which BMUs these are nobody can tell."""
    with FakeTensorMode():
        z, prototypes = torch.randn(9, 12, requires_grad=True), torch.randn(600, 12, requires_grad=True)
        loss, bmu = som_loss(z, prototypes, Grid(1, 600), 4.0)
        grads = torch.autograd.grad(loss, (z, prototypes))
    assert loss.shape == ()
    assert bmu.shape == (9,)
    assert [grad.shape for grad in grads] == [z.shape, prototypes.shape]


def test_bits_repeat(backend: str) -> None:
    grid = Grid(1, 600)
    z, prototypes = torch.randn(50, 12), torch.randn(600, 12)
    z[::2] = z[0]
    one, other = (run(backend, z, prototypes, grid, 4.0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


_PEAK = """
import sys
import torch
from vitsom_fast import Grid, som_loss

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

def step(count):
    z, prototypes = torch.randn(32, 8, requires_grad=True), torch.randn(count, 8, requires_grad=True)
    som_loss(z, prototypes, Grid(1, count), 10.0, backend=sys.argv[1])[0].backward()

step(300)
before = status("VmRSS")
step(20000)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_a_chain_never_holds_a_number_for_each_pair_of_units(backend: str) -> None:
    """That would be 1600 MB; one for each pair of a sample and a unit is 3 MB."""
    if BACKENDS[backend] != "cpu" or backend in ("triton", "cuda"):
        pytest.skip("the peak of this process says nothing of a GPU, or of an interpreter")
    done = subprocess.run([sys.executable, "-c", _PEAK, backend], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 160e6

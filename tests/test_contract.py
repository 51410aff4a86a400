"""The numerical contract, point by point, on every backend.

The variants of one backend (the instruction sets of "cpu", chosen by an environment variable when its module is imported) are
covered by running this module again in a process of its own.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    BACKENDS,
    GRADIENT_FLOOR,
    LOW_PRECISION,
    RELATIVE_TOLERANCE,
    Result,
    check,
    check_bmu,
    is_emulated,
    low_precision_products,
    relative_error,
    run,
    search,
    skip_unless_supported,
    truth,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitsom_fast import Grid, reference

MAPS = [(topology, periodic) for topology in ("rectangular", "hexagonal") for periodic in (False, True)]
TEMPERATURES = (1e-3, 0.4, 2.5, 1e3)
HALF = (torch.bfloat16, torch.float16)

SHAPES = [  # B, rows, cols, D
    (1, 1, 1, 17),
    (3, 1, 17, 3),
    (17, 127, 1, 17),
    (1000, 3, 3, 3),
    (127, 3, 17, 127),
    (3, 17, 3, 1000),
    (17, 17, 17, 17),
    (127, 17, 127, 17),
    (1000, 3, 127, 127),
    (17, 1, 1000, 3),
    (1, 1000, 1, 127),
]


def make_grid(rows: int, cols: int, topology: str = "rectangular", periodic: bool = False) -> Grid:
    """A hexagonal torus needs an even number of rows: it gets one more where the number is odd."""
    return Grid(rows + rows % 2 if topology == "hexagonal" and periodic else rows, cols, topology, periodic)


def make_inputs(batch: int, grid: Grid, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Gaussian latents (B, D) and prototypes (K, D)."""
    return torch.randn(batch, dim).to(dtype), torch.randn(grid.num_prototypes, dim).to(dtype)


def assert_same_bits(actual: Result, expected: Result) -> None:
    for name, a, b in zip(Result._fields, actual, expected, strict=True):
        assert torch.equal(a, b), f"{name} differs"


# Sizes, maps, temperatures, reductions


@pytest.mark.parametrize(("topology", "periodic"), MAPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_odd_sizes(any_backend: str, shape: tuple[int, int, int, int], topology: str, periodic: bool) -> None:
    batch, rows, cols, dim = shape
    grid = make_grid(rows, cols, topology, periodic)
    temperature = TEMPERATURES[(SHAPES.index(shape) + MAPS.index((topology, periodic))) % len(TEMPERATURES)]
    z, prototypes = make_inputs(batch, grid, dim)
    check(run(any_backend, z, prototypes, grid, temperature), z, prototypes, grid, temperature)


@pytest.mark.parametrize("temperature", [1e-3, 0.03, 0.4, 1.0, 2.5, 7.0, 40.0, 1e3])
@pytest.mark.parametrize(("topology", "periodic"), MAPS)
def test_temperatures(any_backend: str, topology: str, periodic: bool, temperature: float) -> None:
    grid = make_grid(18, 31, topology, periodic)
    z, prototypes = make_inputs(65, grid, 24)
    result = run(any_backend, z, prototypes, grid, temperature)
    check(result, z, prototypes, grid, temperature)
    as_tensor = run(any_backend, z, prototypes, grid, torch.tensor(temperature))
    check(as_tensor, z, prototypes, grid, torch.tensor(temperature))
    assert torch.equal(as_tensor.bmu, result.bmu)


@pytest.mark.parametrize("noise", [None, 0.03], ids=["random", "organised"])
@pytest.mark.parametrize("temperature", [2.5, 6.0, 20.0, 1e3])
@pytest.mark.parametrize(("topology", "periodic"), MAPS)
def test_neighborhoods_of_few_ranks(
    any_backend: str, topology: str, periodic: bool, temperature: float, noise: float | None
) -> None:
    """Maps with enough features for a backend to replace smooth factors by thin ones."""
    grid = make_grid(26, 35, topology, periodic)
    z, prototypes = make_inputs(65, grid, 307)
    if noise is not None:
        prototypes = torch.randn(1, 307) + noise * prototypes
        z = prototypes[torch.randint(grid.num_prototypes, (65,))] + noise * z
    result = run(any_backend, z, prototypes, grid, temperature)
    check(result, z, prototypes, grid, temperature, cancels=noise is not None)
    assert_same_bits(run(any_backend, z, prototypes, grid, temperature), result)


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_neighborhood_of_few_ranks_that_is_nan(any_backend: str, topology: str) -> None:
    grid = Grid(26, 35, topology)
    assert run(any_backend, *make_inputs(9, grid, 307), grid, torch.tensor(math.nan)).loss.isnan()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_temperature_tensor_of_another_dtype(any_backend: str, dtype: torch.dtype) -> None:
    grid = Grid(9, 11)
    temperature = torch.tensor(2.3, dtype=dtype)
    z, prototypes = make_inputs(33, grid, 24)
    check(run(any_backend, z, prototypes, grid, temperature), z, prototypes, grid, temperature)


@pytest.mark.parametrize("temperature", [1e-25, 1e25])
@pytest.mark.parametrize(("topology", "periodic"), MAPS)
def test_extreme_temperatures(backend: str, topology: str, periodic: bool, temperature: float) -> None:
    """1 / T^2 is neither 0 nor finite in fp32; the weights are still those of a delta and of a constant."""
    grid = make_grid(4, 5, topology, periodic)
    z, prototypes = make_inputs(9, grid, 8)
    for given_as in (temperature, torch.tensor(temperature)):
        check(run(backend, z, prototypes, grid, given_as), z, prototypes, grid, temperature)


@pytest.mark.parametrize(
    ("temperature", "alike"), [(1e-200, 1e-25), (1e200, 1e25), (torch.tensor(math.inf), 1e25)], ids=["1e-200", "1e200", "inf"]
)
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_temperatures_beyond_fp32(backend: str, topology: str, temperature: float | Tensor, alike: float) -> None:
    grid = Grid(4, 5, topology)
    z, prototypes = make_inputs(9, grid, 8)
    result, expected = (run(backend, z, prototypes, grid, t) for t in (temperature, alike))
    assert all(torch.equal(one, other) for one, other in zip(result, expected, strict=True))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_temperature_tensor_that_is_not_positive_makes_the_loss_nan(backend: str, topology: str, temperature: float) -> None:
    grid = Grid(4, 5, topology)
    assert run(backend, *make_inputs(9, grid, 8), grid, torch.tensor(temperature)).loss.isnan()


@pytest.mark.parametrize("temperature", [0.4, 1e3])
@pytest.mark.parametrize("reduction", ["mean", "batchmean", "sum"])
@pytest.mark.parametrize(("topology", "periodic"), MAPS)
def test_reductions(any_backend: str, topology: str, periodic: bool, reduction: str, temperature: float) -> None:
    grid = make_grid(7, 13, topology, periodic)
    z, prototypes = make_inputs(37, grid, 24)
    result = run(any_backend, z, prototypes, grid, temperature, reduction=reduction)
    check(result, z, prototypes, grid, temperature, reduction=reduction)


@pytest.mark.parametrize("shape", [(7, 3, 3, 3136), (3, 2, 2, 49152), (1, 1, 5, 49152)], ids=str)
def test_many_features(any_backend: str, shape: tuple[int, int, int, int]) -> None:
    batch, rows, cols, dim = shape
    grid = Grid(rows, cols)
    z, prototypes = make_inputs(batch, grid, dim)
    check(run(any_backend, z, prototypes, grid, 1.5), z, prototypes, grid, 1.5)


@pytest.mark.parametrize("batch", [1, 3, 127])
@pytest.mark.parametrize(("topology", "periodic"), MAPS)
def test_one_feature(any_backend: str, topology: str, periodic: bool, batch: int) -> None:
    """With D = 1 all distances are 0 or 2, and no gradient is left after the projection."""
    grid = make_grid(3, 17, topology, periodic)
    z, prototypes = make_inputs(batch, grid, 1)
    check(run(any_backend, z, prototypes, grid, 2.0), z, prototypes, grid, 2.0, cancels=True)


@pytest.mark.parametrize("batch", [1, 3, 1000])
@pytest.mark.parametrize("dim", [3, 127])
def test_one_prototype(any_backend: str, batch: int, dim: int) -> None:
    grid = Grid(1, 1)
    z, prototypes = make_inputs(batch, grid, dim)
    check(run(any_backend, z, prototypes, grid, 1.0), z, prototypes, grid, 1.0)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("shape", [(1, 1, 1, 17), (2, 1, 2, 3), (1, 31, 33, 24), (300, 1, 3, 24), (301, 33, 31, 48)], ids=str)
def test_several_threads(backend: str, shape: tuple[int, int, int, int], threads: int) -> None:
    """Also with fewer rows than threads on either side."""
    torch.set_num_threads(threads)
    batch, rows, cols, dim = shape
    grid = Grid(rows, cols)
    z, prototypes = make_inputs(batch, grid, dim)
    check(run(backend, z, prototypes, grid, 2.5), z, prototypes, grid, 2.5)


_small_cases = given(
    batch=st.integers(1, 40),
    rows=st.integers(1, 12),
    cols=st.integers(1, 12),
    dim=st.integers(1, 40),
    map_=st.sampled_from(MAPS),
    log_temperature=st.floats(-3, 3),
    reduction=st.sampled_from(("mean", "batchmean", "sum")),
    seed=st.integers(0, 2**32 - 1),
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@_small_cases
def test_any_small_case(backend: str, **case: Any) -> None:
    if is_emulated(backend):
        pytest.skip("fewer of them will do: the next test")
    _check_small_case(backend, **case)


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@_small_cases
def test_some_small_case(backend: str, **case: Any) -> None:
    """For kernels of a GPU that run without one, a thousand times as long."""
    if not is_emulated(backend):
        pytest.skip("more of them: the test before")
    _check_small_case(backend, **case)


def _check_small_case(
    backend: str,
    batch: int,
    rows: int,
    cols: int,
    dim: int,
    map_: tuple[str, bool],
    log_temperature: float,
    reduction: str,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    grid, temperature = make_grid(rows, cols, *map_), 10**log_temperature
    z, prototypes = make_inputs(batch, grid, dim)
    result = run(backend, z, prototypes, grid, temperature, reduction=reduction)
    check(result, z, prototypes, grid, temperature, reduction=reduction, cancels=True)


@pytest.mark.parametrize("temperature", [0.4, 1e3])
@pytest.mark.parametrize("noise", [0.1, 1e-2, 1e-3, 1e-4, 0.0])
@pytest.mark.parametrize("shape", [(1, 1, 1, 17), (5, 1, 1, 17), (1, 3, 5, 24), (200, 17, 17, 64), (7, 3, 3, 3136)], ids=str)
def test_map_that_fits_its_data(backend: str, shape: tuple[int, int, int, int], noise: float, temperature: float) -> None:
    """All of the map within ``noise`` of one direction: 1 - cos is down to nothing, 1 and cos are not."""
    batch, rows, cols, dim = shape
    grid = Grid(rows, cols)
    centre = torch.randn(1, dim)
    prototypes = centre + noise * torch.randn(rows * cols, dim)
    z = prototypes[torch.randint(rows * cols, (batch,))] + noise * torch.randn(batch, dim)
    check(run(backend, z, prototypes, grid, temperature), z, prototypes, grid, temperature, cancels=True)


def test_latents_that_are_prototypes(backend: str) -> None:
    """Distinct prototypes at a temperature where only the BMU counts: the loss is 0 up to rounding."""
    grid = Grid(9, 11)
    prototypes = torch.randn(99, 24)
    result = run(backend, prototypes, prototypes, grid, 1e-3)
    assert torch.equal(result.bmu, torch.arange(99))
    check(result, prototypes, prototypes, grid, 1e-3, cancels=True)


# Dtypes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
def test_dtypes_of_results(any_backend: str, dtype: torch.dtype) -> None:
    skip_unless_supported(any_backend, dtype)
    grid = Grid(3, 5)
    z, prototypes = make_inputs(9, grid, 8, dtype)
    result = run(any_backend, z, prototypes, grid, 1.0)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert result.loss.dtype == expected
    assert search(any_backend, z, prototypes)[1].dtype == expected
    assert result.grad_z.dtype == dtype
    assert result.grad_prototypes.dtype == dtype


@pytest.mark.parametrize(("topology", "periodic"), MAPS)
def test_fp64(any_backend: str, topology: str, periodic: bool) -> None:
    skip_unless_supported(any_backend, torch.float64)
    grid = make_grid(9, 11, topology, periodic)
    z, prototypes = make_inputs(33, grid, 24, torch.float64)
    result = run(any_backend, z, prototypes, grid, 2.3)
    true = truth(z, prototypes, grid, 2.3, reference.find_bmu(z, prototypes)[0])
    assert result.loss.item() == pytest.approx(true.loss, rel=1e-12)
    assert relative_error(result.grad_z, true.grad_z) < 1e-12
    assert relative_error(result.grad_prototypes, true.grad_prototypes) < 1e-12


@pytest.mark.parametrize("temperature", [0.4, 2.5, 1e3])
@pytest.mark.parametrize(("topology", "periodic"), MAPS)
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_against_eager(
    any_backend: str, dtype: torch.dtype, topology: str, periodic: bool, temperature: float
) -> None:
    """At most twice the rounding error that the eager formulas have in the same dtype; the search is exact."""
    skip_unless_supported(any_backend, dtype)
    grid = make_grid(9, 11, topology, periodic)
    z, prototypes = make_inputs(33, grid, 24, dtype)
    result = run(any_backend, z, prototypes, grid, temperature)
    check_bmu(result.bmu, z, prototypes)

    leaves = z.clone().requires_grad_(), prototypes.clone().requires_grad_()
    loss, bmu = reference.som_loss(*leaves, grid, temperature)
    eager = Result(loss.detach(), bmu, *torch.autograd.grad(loss, leaves))

    errors = []
    for one in (result, eager):
        true = truth(z, prototypes, grid, temperature, one.bmu)
        errors.append(
            (
                abs(one.loss.item() - true.loss),
                relative_error(one.grad_z, true.grad_z),
                relative_error(one.grad_prototypes, true.grad_prototypes),
            )
        )
    for ours, theirs in zip(*errors, strict=True):
        assert ours <= 2 * theirs


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("shape", [(127, 17, 127, 17), (1000, 9, 11, 3), (17, 3, 17, 1000)], ids=str)
def test_half_precision_search_is_exact(any_backend: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """Prototypes so close together that scores rounded to half precision could not tell them apart."""
    skip_unless_supported(any_backend, dtype)
    batch, rows, cols, dim = shape
    prototypes = (torch.randn(1, dim) + 0.05 * torch.randn(rows * cols, dim)).to(dtype)
    z = prototypes[torch.randint(rows * cols, (batch,))] + (0.05 * torch.randn(batch, dim)).to(dtype)
    bmu, distance = search(any_backend, z, prototypes)
    check_bmu(bmu, z, prototypes)
    exact = reference.distances(z.double(), prototypes.double()).gather(1, bmu[:, None])[:, 0]
    assert (distance.double() - exact).abs().max() <= 1e-6


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("narrow", ["z", "prototypes"])
def test_mixed_dtypes(any_backend: str, narrow: str, dtype: torch.dtype) -> None:
    """The wider dtype rules; the gradient of the narrow input is rounded to its dtype, and nothing else is."""
    grid = Grid(9, 11)
    z, prototypes = make_inputs(33, grid, 24)
    z, prototypes = (z.to(dtype), prototypes) if narrow == "z" else (z, prototypes.to(dtype))
    result = run(any_backend, z, prototypes, grid, 2.5)
    check_bmu(result.bmu, z, prototypes)
    true = truth(z, prototypes, grid, 2.5, result.bmu)
    assert result.loss.item() == pytest.approx(true.loss, rel=RELATIVE_TOLERANCE)
    for x, grad, true_grad in ((z, result.grad_z, true.grad_z), (prototypes, result.grad_prototypes, true.grad_prototypes)):
        assert grad.dtype == x.dtype
        assert relative_error(grad, true_grad.to(x.dtype)) <= RELATIVE_TOLERANCE + torch.finfo(x.dtype).eps / 4


# Gradients


@pytest.mark.parametrize("grad_output", [3.7, -0.01, 65536.0])
def test_gradient_of_a_multiple(any_backend: str, grad_output: float) -> None:
    grid = Grid(9, 11)
    z, prototypes = make_inputs(33, grid, 24)
    result = run(any_backend, z, prototypes, grid, 2.5, grad_output=grad_output)
    check(result, z, prototypes, grid, 2.5, grad_output=grad_output)


def test_scaled_loss_does_not_underflow(any_backend: str) -> None:
    """Unscaled, most of these gradients are subnormal in fp16 or 0; with a GradScaler's factor all are normal numbers."""
    skip_unless_supported(any_backend, torch.float16)
    grid, scale = Grid(30, 30), 65536.0
    z, prototypes = make_inputs(128, grid, 24, torch.float16)
    result = run(any_backend, z, prototypes, grid, 1.0, grad_output=scale)
    true = truth(z, prototypes, grid, 1.0, result.bmu, grad_output=scale)
    assert (true.grad_z / scale).abs().max() < torch.finfo(torch.float16).tiny
    # Rounding to fp16 is off by 2^-12 of a number on average; 2^-11 at worst.
    assert relative_error(result.grad_z, true.grad_z) < 2**-11
    assert relative_error(result.grad_prototypes, true.grad_prototypes) < 2**-11


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("batch", [4096, 20000])
def test_many_samples_of_one_unit(any_backend: str, batch: int, noise: float) -> None:
    """As before training: a plain fp32 sum of 4096 (20000) such samples is off by 2.5e-5 (1.6e-4), eager PyTorch by 1.5e-6."""
    grid = Grid(3, 3)
    prototypes = torch.randn(9, 17)
    if is_emulated(any_backend):
        batch = min(batch, 600)
    z = torch.randn(1, 17) + noise * torch.randn(batch, 17)
    check(run(any_backend, z, prototypes, grid, 1.0), z, prototypes, grid, 1.0)


@pytest.mark.parametrize("needs_grad", [(True, False), (False, True)])
def test_gradient_of_one_input_only(any_backend: str, needs_grad: tuple[bool, bool]) -> None:
    grid = Grid(9, 11, "hexagonal")
    inputs = make_inputs(33, grid, 24)
    result = run(any_backend, *inputs, grid, 2.5, needs_grad=needs_grad)
    true = truth(*inputs, grid, 2.5, result.bmu)
    for grad, true_grad, needed in zip(result[2:], (true.grad_z, true.grad_prototypes), needs_grad, strict=True):
        assert bool(grad.numel()) == needed
        if needed:
            assert relative_error(grad, true_grad) < RELATIVE_TOLERANCE


def test_loss_without_gradients_is_the_same(any_backend: str) -> None:
    grid = Grid(9, 11)
    inputs = make_inputs(33, grid, 24)
    result = run(any_backend, *inputs, grid, 2.5, needs_grad=(False, False))
    assert torch.equal(result.loss, run(any_backend, *inputs, grid, 2.5).loss)


# Memory layouts


def _within(shape: tuple[int, ...], view: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """x as a view into a larger tensor whose other elements are NaN."""
    target = view(torch.full(shape, torch.nan, dtype=x.dtype))
    return target.copy_(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.T.contiguous().T,
    "every second row": lambda x: _within((2 * x.shape[0], x.shape[1]), lambda t: t[::2], x),
    "every third column": lambda x: _within((x.shape[0], 3 * x.shape[1]), lambda t: t[:, 1::3], x),
    "columns of a wider one": lambda x: _within((x.shape[0], x.shape[1] + 5), lambda t: t[:, 2:-3], x),
    "unaligned": lambda x: _within((x.numel() + 3,), lambda t: t[3:].view(x.shape), x),
    "negative bit": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["z", "prototypes", "both"])
def test_memory_layouts(any_backend: str, which: str, layout: str) -> None:
    grid = Grid(9, 11, "hexagonal")
    z, prototypes = make_inputs(33, grid, 25)
    view = LAYOUTS[layout]
    strided = (z if which == "prototypes" else view(z)), (prototypes if which == "z" else view(prototypes))
    assert torch.equal(strided[0], z)
    assert torch.equal(strided[1], prototypes)
    check(run(any_backend, *strided, grid, 2.5), z, prototypes, grid, 2.5)
    bmu, distance = search(any_backend, *strided)
    plain_bmu, plain_distance = search(any_backend, z, prototypes)
    assert torch.equal(bmu, plain_bmu)
    assert torch.allclose(distance, plain_distance, atol=1e-6)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "negative bit"])  # complex numbers have no bf16
def test_memory_layouts_in_half_precision(any_backend: str, layout: str, dtype: torch.dtype) -> None:
    skip_unless_supported(any_backend, dtype)
    grid = Grid(9, 11)
    z, prototypes = make_inputs(33, grid, 25, dtype)
    strided = run(any_backend, LAYOUTS[layout](z), LAYOUTS[layout](prototypes), grid, 2.5)
    plain = run(any_backend, z, prototypes, grid, 2.5)
    assert torch.equal(strided.bmu, plain.bmu)
    assert strided.loss.item() == pytest.approx(plain.loss.item(), rel=RELATIVE_TOLERANCE)
    assert relative_error(strided.grad_z, plain.grad_z) < torch.finfo(dtype).eps
    assert relative_error(strided.grad_prototypes, plain.grad_prototypes) < torch.finfo(dtype).eps


@pytest.mark.parametrize("which", ["z", "prototypes"])
def test_expanded_input(any_backend: str, which: str) -> None:
    """A row of stride 0: its gradient is the sum over the rows that it stands for."""
    grid = Grid(5, 7)
    z, prototypes = make_inputs(33, grid, 24)
    row = torch.randn(1, 24)
    expanded = (row.expand_as(z), prototypes) if which == "z" else (z, row.expand_as(prototypes))
    check(run(any_backend, *expanded, grid, 2.5), *expanded, grid, 2.5)


# Zero, tiny, huge and non-finite rows


@pytest.mark.parametrize("temperature", [1e-3, 2.5])
@pytest.mark.parametrize("small", [0.0, 1e-13])
@pytest.mark.parametrize("which", ["z", "prototypes", "both"])
def test_zero_and_tiny_rows(any_backend: str, which: str, small: float, temperature: float) -> None:
    """Norms up to 1e-12 are divided by 1e-12: distance 1, and gradients that are 1e12 times those of other rows."""
    grid = Grid(7, 9)
    z, prototypes = make_inputs(33, grid, 24)
    rows = torch.tensor([0, 5, 32])
    inputs = {"z": z, "prototypes": prototypes}
    changed = ["z", "prototypes"] if which == "both" else [which]
    for name in changed:
        inputs[name][rows] *= small
    if "z" in changed and "prototypes" not in changed:
        z[1] = -z[1]
    result = run(any_backend, z, prototypes, grid, temperature)
    check_bmu(result.bmu, z, prototypes)
    true = truth(z, prototypes, grid, temperature, result.bmu)
    assert result.loss.item() == pytest.approx(true.loss, rel=RELATIVE_TOLERANCE)
    for name, grad, true_grad, pull in (
        ("z", result.grad_z, true.grad_z, true.pull_z),
        ("prototypes", result.grad_prototypes, true.grad_prototypes, true.pull_prototypes),
    ):
        assert grad.isfinite().all()
        is_small = torch.zeros(len(grad), dtype=torch.bool)
        is_small[rows] = name in changed
        for part in (is_small, ~is_small):
            if true_grad[part].any():
                assert relative_error(grad[part], true_grad[part]) < RELATIVE_TOLERANCE
            else:
                assert grad[part].norm() <= GRADIENT_FLOOR * pull
    if "z" in changed and small == 0:
        assert (result.bmu[rows] == 0).all()
        bmu, distance = search(any_backend, z, prototypes)
        assert (bmu[rows] == 0).all()
        assert (distance[rows] == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_zero_prototype_is_nearest_to_an_opposite_latent(any_backend: str, dtype: torch.dtype) -> None:
    skip_unless_supported(any_backend, dtype)
    prototypes = torch.rand(99, 24).add(0.1).to(dtype)
    prototypes[[41, 57]] = 0
    bmu, distance = search(any_backend, -torch.rand(33, 24).add(0.1).to(dtype), prototypes)
    assert (bmu == 41).all()
    assert (distance == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scales", [(1e30, 1.0), (1.0, 1e30), (1e30, 1e30), (1e-30, 1.0), (1.0, 1e-30)], ids=str)
def test_huge_and_tiny_values(
    request: pytest.FixtureRequest, any_backend: str, scales: tuple[float, float], dtype: torch.dtype
) -> None:
    skip_unless_supported(any_backend, dtype)
    if any_backend == "reference" and max(scales) > 1:
        reason = "PyTorch's norm sums the squares in fp32, which overflows beyond 1e19"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    grid = Grid(7, 9)
    z, prototypes = make_inputs(33, grid, 24)
    z, prototypes = (z * scales[0]).to(dtype), (prototypes * scales[1]).to(dtype)
    # fp32 ends at 1e-38: the gradients of values of 1e30 must not be made smaller still.
    grad_output = max(scales)
    result = run(any_backend, z, prototypes, grid, 2.5, reduction="sum", grad_output=grad_output)
    if dtype == torch.float32:
        check(result, z, prototypes, grid, 2.5, reduction="sum", grad_output=grad_output)
    else:
        check_bmu(result.bmu, z, prototypes)
        true = truth(z, prototypes, grid, 2.5, result.bmu, reduction="sum", grad_output=grad_output)
        assert result.loss.item() == pytest.approx(true.loss, rel=RELATIVE_TOLERANCE)
        assert relative_error(result.grad_z, true.grad_z) < 2**-8
        assert relative_error(result.grad_prototypes, true.grad_prototypes) < 2**-8


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("temperature", [1e-3, 2.5])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_latent(any_backend: str, bad: float, temperature: float, dtype: torch.dtype) -> None:
    skip_unless_supported(any_backend, dtype)
    grid = Grid(17, 31)
    z, prototypes = make_inputs(33, grid, 25, dtype)
    clean_bmu, _ = search(any_backend, z, prototypes)
    z[7, 3], z[32, 24] = bad, bad
    is_bad = torch.zeros(33, dtype=torch.bool)
    is_bad[[7, 32]] = True
    result = run(any_backend, z, prototypes, grid, temperature)
    assert result.loss.isnan()
    bmu, distance = search(any_backend, z, prototypes)
    for found in (result.bmu, bmu):
        assert found.min() >= 0
        assert found.max() < grid.num_prototypes
        assert torch.equal(found[~is_bad], clean_bmu[~is_bad])
    assert distance[is_bad].isnan().all()
    assert not distance[~is_bad].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("temperature", [1e-3, 2.5])
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("batch", [1, 200])
def test_non_finite_prototype(
    any_backend: str, batch: int, bad: float, topology: str, temperature: float, dtype: torch.dtype
) -> None:
    """Also where its weight is 0: it is in the last corner, the BMUs are in the first, and T is tiny."""
    skip_unless_supported(any_backend, dtype)
    grid = Grid(17, 31, topology)
    prototypes = torch.randn(grid.num_prototypes, 25).to(dtype)
    z = prototypes[:4].repeat(batch // 4 + 1, 1)[:batch]
    prototypes[-1, -1] = bad
    result = run(any_backend, z, prototypes, grid, temperature)
    assert result.loss.isnan()
    for bmu in (result.bmu, search(any_backend, z, prototypes)[0]):
        assert bmu.min() >= 0
        assert bmu.max() < grid.num_prototypes


# Ties


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
@pytest.mark.parametrize("dim", [1, 3, 17, 127])
@pytest.mark.parametrize(("count", "distinct"), [(17, 2), (127, 30), (1000, 300), (2159, 1000), (2159, 12)])
def test_equal_prototypes_give_the_lowest_index(backend: str, count: int, distinct: int, dim: int, dtype: torch.dtype) -> None:
    """Duplicates all over the map. A plain matrix product with argmax gets about 0.5 % of the rows wrong."""
    skip_unless_supported(backend, dtype)
    kinds = torch.randn(distinct, dim).to(dtype)
    if dim == 1:  # only the direction counts, and there are two
        kinds = kinds.sign()
    kind = torch.randint(distinct, (count,))
    prototypes = kinds[kind]
    z = torch.randn(1000, dim).to(dtype)
    bmu, _ = search(backend, z, prototypes)
    check_bmu(bmu, z, prototypes)
    same = (prototypes[bmu][:, None, :] == prototypes[None, :, :]).all(-1) if dim == 1 else kind[bmu][:, None] == kind[None, :]
    lowest = same.int().argmax(dim=1)  # the first of the prototypes that equal the BMU
    assert torch.equal(bmu, lowest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1000, 2159, 17), (17, 127, 1000), (127, 1000, 3)], ids=str)
def test_all_prototypes_equal(backend: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    skip_unless_supported(backend, dtype)
    batch, count, dim = shape
    prototypes = torch.randn(1, dim).to(dtype).expand(count, dim)
    z = torch.randn(batch, dim).to(dtype)
    assert not search(backend, z, prototypes)[0].any()
    assert not run(backend, z, prototypes, Grid(1, count), 2.0).bmu.any()


def test_negative_zero_equals_zero(backend: str) -> None:
    prototypes = torch.randn(99, 24)
    prototypes[:, ::2] = 0.0
    prototypes[70] = prototypes[30]
    prototypes[30, ::2] = -0.0
    z = prototypes[[70, 30]] + 0.01 * torch.randn(2, 24)
    assert search(backend, z, prototypes)[0].tolist() == [30, 30]


# Empty batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
@pytest.mark.parametrize("reduction", ["mean", "batchmean", "sum"])
def test_empty_batch(any_backend: str, reduction: str, dtype: torch.dtype) -> None:
    skip_unless_supported(any_backend, dtype)
    grid = Grid(3, 5, "hexagonal")
    z, prototypes = make_inputs(0, grid, 8, dtype)
    result = run(any_backend, z, prototypes, grid, 2.5, reduction=reduction)
    assert result.loss.item() == 0
    assert result.bmu.shape == (0,)
    assert result.bmu.dtype == torch.int64
    assert result.grad_z.shape == (0, 8)
    assert torch.equal(result.grad_prototypes, torch.zeros_like(prototypes))
    bmu, distance = search(any_backend, z, prototypes)
    assert bmu.shape == distance.shape == (0,)


# The search


@pytest.mark.parametrize("shape", [(127, 2159, 17), (1000, 127, 127), (3, 1000, 3), (1, 1, 3), (17, 17, 1)], ids=str)
def test_find_bmu(any_backend: str, shape: tuple[int, int, int]) -> None:
    batch, count, dim = shape
    z, prototypes = torch.randn(batch, dim), torch.randn(count, dim)
    bmu, distance = search(any_backend, z, prototypes)
    check_bmu(bmu, z, prototypes)
    exact = reference.distances(z.double(), prototypes.double()).gather(1, bmu[:, None])[:, 0]
    assert (distance.double() - exact).abs().max() <= 1e-6
    assert torch.equal(bmu, run(any_backend, z, prototypes, Grid(1, count), 1.0).bmu)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("noise", [0.3, 0.03])
def test_find_bmu_in_a_smooth_map(any_backend: str, noise: float, dtype: torch.dtype) -> None:
    """Neighbouring prototypes are close, as after training: what an exact search may use, and where rounding decides most."""
    skip_unless_supported(any_backend, dtype)
    coordinates = Grid(33, 47).positions.float() / 20  # [K, 2]
    curve = torch.randn(2, 24)
    prototypes = (torch.sin(coordinates @ curve) + 1.0).to(dtype)
    z = prototypes[torch.randint(len(prototypes), (500,))] + (noise * torch.randn(500, 24)).to(dtype)
    bmu, _ = search(any_backend, z, prototypes)
    check_bmu(bmu, z, prototypes)


def test_lengths_do_not_matter(any_backend: str) -> None:
    z, prototypes = torch.randn(127, 24), torch.randn(999, 24)
    lengths = 10 ** torch.empty(999, 1).uniform_(-6, 6)
    check_bmu(search(any_backend, z, prototypes * lengths)[0], z, prototypes * lengths)


@pytest.mark.parametrize("how", LOW_PRECISION)
def test_products_stay_in_full_precision(backend: str, how: str) -> None:
    """Whatever the user allows elsewhere, and that stays as it was: scores in bf16 or TF32 would pick other BMUs."""
    grid = Grid(17, 31)
    prototypes = torch.randn(1, 64) + 0.1 * torch.randn(grid.num_prototypes, 64)
    z = prototypes[torch.randint(grid.num_prototypes, (300,))] + 0.1 * torch.randn(300, 64)
    with low_precision_products(how):
        result, found = run(backend, z, prototypes, grid, 2.5), search(backend, z, prototypes)
    check(result, z, prototypes, grid, 2.5)
    assert torch.equal(found[0], result.bmu)


# Repeatability, uninitialised memory, peak memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_repeats_bit_for_bit(any_backend: str, topology: str, dtype: torch.dtype) -> None:
    """For any number of threads; between those, results agree as closely as with the truth."""
    skip_unless_supported(any_backend, dtype)
    grid = Grid(5, 14, topology) if is_emulated(any_backend) else Grid(17, 41, topology)
    z, prototypes = make_inputs(67 if is_emulated(any_backend) else 517, grid, 33, dtype)
    z[::2] = z[:1]  # many samples share a BMU: sums of many terms, in an order that must not change
    for threads in (1,) if any_backend == "triton" else (1, 2, 5):
        torch.set_num_threads(threads)
        first = run(any_backend, z, prototypes, grid, 2.5)
        for _ in range(2):
            assert_same_bits(run(any_backend, z, prototypes, grid, 2.5), first)
        bmu, distance = search(any_backend, z, prototypes)
        assert torch.equal(search(any_backend, z, prototypes)[1], distance)
        assert torch.equal(bmu, first.bmu)
        if dtype == torch.float32:
            check(first, z, prototypes, grid, 2.5)


@contextmanager
def _fresh_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # which fills what torch.empty returns
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("shape", [(33, 9, 11, 25), (1, 40, 40, 3), (200, 2, 3, 17), (0, 3, 5, 8)], ids=str)
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_no_uninitialised_memory_is_read(
    any_backend: str, topology: str, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    skip_unless_supported(any_backend, dtype)
    batch, rows, cols, dim = shape
    grid = Grid(rows, cols, topology)
    inputs = make_inputs(batch, grid, dim, dtype)
    for temperature in (0.4, 2.5):
        expected = run(any_backend, *inputs, grid, temperature)
        expected_search = search(any_backend, *inputs)
        with _fresh_memory_is_nan():
            poisoned = run(any_backend, *inputs, grid, temperature)
            poisoned_search = search(any_backend, *inputs)
        assert_same_bits(poisoned, expected)
        for ours, theirs in zip(poisoned_search, expected_search, strict=True):
            assert torch.equal(ours, theirs)


_PEAK_OF_A_STEP = """
import sys
import torch
from vitsom_fast import Grid, find_bmu, som_loss

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

def step(z, prototypes, grid):
    loss, _ = som_loss(z, prototypes, grid, 16.0, backend=sys.argv[1])
    loss.backward()
    find_bmu(z, prototypes, backend=sys.argv[1])

torch.set_num_threads(2)
step(torch.randn(8, 32, requires_grad=True), torch.randn(16, 32, requires_grad=True), Grid(4, 4))
z, prototypes = torch.randn(4096, 32, requires_grad=True), torch.randn(16384, 32, requires_grad=True)
before = status("VmRSS")
step(z, prototypes, Grid(128, 128))
print(status("VmHWM") - before)
torch.ones(4096, 16384)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_a_step_never_holds_one_number_per_sample_and_prototype(backend: str) -> None:
    """Forward, backward and search of 4096 samples on 128 x 128: one B x K tensor in fp32 alone would take 268 MB."""
    if BACKENDS[backend] != "cpu" or backend == "triton":
        pytest.skip("the peak of this process says nothing of a GPU, or of an interpreter")
    command = [sys.executable, "-c", _PEAK_OF_A_STEP, backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    step, with_full_tensor = map(int, done.stdout.split())
    full = 4096 * 16384 * 4
    assert with_full_tensor > 0.9 * full  # such a tensor would be seen
    assert step < 0.75 * full

"""Any size, map, temperature and reduction."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from contract_cases import MAPS, SHAPES, TEMPERATURES, assert_same_bits, make_grid, make_inputs
from helpers import (
    check,
    is_emulated,
    run,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitsom_fast import Grid


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


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
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

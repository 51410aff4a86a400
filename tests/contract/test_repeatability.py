"""The same bits each time, nothing read that was not written, and no tensor of batch x prototypes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from contract_cases import HALF, assert_same_bits, make_inputs
from helpers import (
    BACKENDS,
    check,
    is_emulated,
    run,
    search,
    skip_unless_supported,
)

from vitsom_fast import Grid


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

"""The baseline far from the origin and with more features than samples."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from vitsom_fast import Grid, find_bmu
from vitsom_fast.initialization import principal_axes
from vitsom_fast.models import fit_plain_som


def farther(x: torch.Tensor, prototypes: torch.Tensor) -> float:
    """How much farther than the nearest prototype the found ones are, at most, over the spread of the data; in fp64."""
    distance = torch.cdist(x.double(), prototypes.double(), compute_mode="donot_use_mm_for_euclid_dist")
    bmu, _ = find_bmu(x, prototypes, distance="euclidean")
    found = distance.gather(1, bmu[:, None])[:, 0]
    return ((found - distance.min(dim=1).values).max() / x.double().std()).item()


# What fp32 keeps of the data at these offsets is 2^-24 of them: 0.006 of their spread at 1e5.
@pytest.mark.parametrize(("offset", "kept"), [(0.0, 1e-6), (1e3, 1e-4), (-1e4, 1e-3), (1e5, 1e-2)])
@pytest.mark.parametrize("dim", [3, 700])  # fewer features than samples, and more
def test_the_nearest_is_found_far_from_the_origin(offset: float, kept: float, dim: int) -> None:
    x = torch.randn(300, dim)
    prototypes = fit_plain_som(x + offset, Grid(5, 5), epochs=10)
    assert farther(x + offset, prototypes) <= kept * dim**0.5


@pytest.mark.parametrize("offset", [100.0, -1e3, 1e4])
def test_the_map_is_as_good_far_from_the_origin(offset: float) -> None:
    x = torch.randn(500, 5)
    expected, found = (
        torch.cdist(y.double(), fit_plain_som(y, Grid(6, 6)).double()).min(dim=1).values.mean() for y in (x, x + offset)
    )
    assert found <= 1.05 * expected


def test_the_map_begins_around_the_mean_of_the_data() -> None:
    x = torch.randn(300, 5, dtype=torch.float64)
    for epochs in (1, 10):
        found = fit_plain_som(x + 1e3, Grid(5, 5), epochs=epochs) - 1e3
        torch.testing.assert_close(found, fit_plain_som(x, Grid(5, 5), epochs=epochs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 40), (40, 40), (40, 6), (1, 3), (3, 1)], ids=str)
def test_principal_axes_are_those_of_the_covariance(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    x = x - x.mean(0)
    axes = principal_axes(x)
    _, singular, directions = torch.linalg.svd(x, full_matrices=False)
    expected = (directions * singular[:, None] / shape[0] ** 0.5)[:2]
    torch.testing.assert_close(axes.abs(), expected.abs(), rtol=1e-6, atol=1e-7)  # up to signs
    torch.testing.assert_close(axes @ axes.T, torch.diag(singular[:2] ** 2) / shape[0], rtol=1e-6, atol=1e-7)


LARGE = """
import resource, torch
from vitsom_fast import Grid
from vitsom_fast.models import fit_plain_som
x = torch.rand(20, 50_000)  # 4 MB
fit_plain_som(x[:, :99], Grid(2, 2), epochs=1)
free = 1 << 30  # bytes beyond what is taken now; D x D are 10^10
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + free, taken + free))
assert torch.isfinite(fit_plain_som(x, Grid(3, 3), epochs=3)).all()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory through Linux")
def test_memory_is_not_dim_squared() -> None:
    subprocess.run([sys.executable, "-c", LARGE], check=True)


def test_another_device_may_be_the_default() -> None:
    x, grid = torch.randn(30, 5, device="cpu"), Grid(3, 4)
    expected = fit_plain_som(x, grid, epochs=2)
    with torch.device("meta"):
        assert torch.equal(fit_plain_som(x, grid, epochs=2), expected)

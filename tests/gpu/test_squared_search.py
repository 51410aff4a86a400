"""The search by squared Euclidean distance of the Triton backend: every form of it against fp64, as seen from a centre."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import BACKENDS, GPU
from torch import Tensor

from vitsom_fast import available_backends, find_bmu
from vitsom_fast.backends import triton

REASON = available_backends()["triton"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


def kernels(name: str) -> Any:
    """A module of vitsom_fast.kernels; imported late, as Triton may be absent."""
    return importlib.import_module(f"vitsom_fast.kernels.{name}")


@pytest.fixture(params=["streaming", "split features", "resident", "certified"])
def search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Tensor, Tensor]]]:
    """One form, in small tiles where it does not say what they are."""
    passes, configs, plan = kernels("passes"), kernels("launch.configs"), kernels("launch.plan")
    plan.forget()

    def run(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        dim = z.shape[1]
        config = configs.search_streaming("ampere", True, dim, few_tiles=True)
        if request.param == "split features":
            module = kernels("search.search")
            monkeypatch.setattr(module, "FEATURES_A_SPLIT", module.tl.constexpr(64))
            monkeypatch.setattr(module, "multiprocessors", lambda device: 100)
            config = configs.with_tile(config, BLOCK_B=16, BLOCK_K=16)
            assert module.plan_search(config, len(z), len(prototypes), dim, z.device).dim_splits > (dim > 128)
        elif request.param == "resident":
            if not configs.is_resident("hopper", True, dim):
                pytest.skip("too many features")
            config = configs.search_resident(True, dim)
        choice = passes.Choice(request.param == "certified", config)
        inputs = z.to(GPU), prototypes.to(GPU)
        bmu, distance = plan.planned(passes.find_nearest, inputs, choice)(*inputs)
        return bmu.cpu(), distance.cpu()

    yield run
    plan.forget()


def regret(z: Tensor, prototypes: Tensor, bmu: Tensor) -> float:
    """How much farther the BMUs are than the nearest, in fp64, relative to the scale as seen from the mean prototype: of data
    far from the origin, a part of what the contract allows."""
    z, prototypes = z.double(), prototypes.double()
    centre = prototypes.mean(dim=0)
    squared = torch.stack([(row - prototypes).square().sum(dim=1) for row in z])  # [B, K]
    scale = (z - centre).square().sum(dim=1) + (prototypes - centre).square().sum(dim=1).amax()
    return ((squared.gather(1, bmu[:, None])[:, 0] - squared.amin(dim=1)) / scale).max().item()


def _inputs(kind: str, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    z, prototypes = torch.randn(40, dim), torch.randn(70, dim)
    if kind == "shifted":
        z, prototypes = z + 3000, prototypes + 3000
    if kind == "tied":
        prototypes = prototypes[:35].repeat(2, 1)
        z[:20] = prototypes[:20]
    if kind == "norms apart":
        z, prototypes = z * 10 ** torch.empty(40, 1).uniform_(-4, 4), prototypes * 10 ** torch.empty(70, 1).uniform_(-4, 0)
    if kind == "one far away":
        prototypes[7] += 1e4
    if kind == "near":
        z, prototypes = 0.01 * z + 1, 0.01 * prototypes + 1
    return z.to(dtype), prototypes.to(dtype)


KINDS = ["random", "shifted", "tied", "norms apart", "one far away", "near"]
ROWS = [(70, torch.float32), (130, torch.float32), (3, torch.bfloat16), (9, torch.float16)]
# An interpreter, 0.3 s a case, sees half of them: every kind in fp32 and in half precision, every sort of rows three times.
CASES = [(kind, *rows) for at, kind in enumerate(KINDS) for of, rows in enumerate(ROWS) if GPU == "cuda" or (at + of) % 2 == 0]


@pytest.mark.parametrize(("kind", "dim", "dtype"), CASES)
def test_against_fp64(search: Callable[..., tuple[Tensor, Tensor]], kind: str, dim: int, dtype: torch.dtype) -> None:
    z, prototypes = _inputs(kind, dim, dtype)
    bmu, distance = search(z, prototypes)
    assert regret(z, prototypes, bmu) <= 1e-6
    squared = (z.double() - prototypes[bmu].double()).square().sum(dim=1)
    torch.testing.assert_close(distance.double(), squared, rtol=1e-6, atol=0)
    same = (prototypes[bmu][:, None] == prototypes).all(dim=2)  # [B, K]
    assert torch.equal(bmu, same.int().argmax(dim=1)), "not the lowest of its equals"


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite(search: Callable[..., tuple[Tensor, Tensor]], bad: float) -> None:
    """A prototype is never found, also where the centre is made of it, nor does it change the others' distances."""
    z, prototypes = torch.randn(6, 20), torch.randn(99, 20)
    expected, _ = search(z, torch.cat([prototypes[1:4], prototypes[5:]]))
    prototypes[0, 3], prototypes[4, 1] = bad, bad
    z[2, 5] = bad
    bmu, distance = search(z, prototypes)
    assert distance.isnan().tolist() == [False, False, True, False, False, False]
    kept = torch.arange(6) != 2
    assert torch.equal(bmu[kept], (expected + 1 + (expected >= 3))[kept])
    assert 0 <= bmu[2] < 99


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e15, 1e37])
@pytest.mark.parametrize("of_z", [1.0, 1e-20, 1e-38])
def test_whatever_the_unit(search: Callable[..., tuple[Tensor, Tensor]], scale: float, of_z: float) -> None:
    """Products of these numbers are not in the range of fp32, nor are some lengths."""
    z, prototypes = torch.randn(20, 5) * scale * of_z, torch.randn(33, 5) * scale
    bmu, _ = search(z, prototypes)
    assert regret(z, prototypes, bmu) <= 1e-6


@pytest.mark.parametrize("length", [0.0, 1e-38])
def test_latents_at_the_centre(search: Callable[..., tuple[Tensor, Tensor]], length: float) -> None:
    """The shortest prototype is the nearest; what it weighs in units of these latents is no fp32 number."""
    prototypes = torch.arange(8.0, 0.0, -1)[:, None] * torch.ones(5)  # with the next line these add up to 0, in any order
    prototypes = torch.cat([prototypes, -prototypes])
    z = length * torch.randn(3, 5)
    bmu, _ = search(z, prototypes)
    assert regret(z, prototypes, bmu) <= 1e-6


def test_zeros(search: Callable[..., tuple[Tensor, Tensor]]) -> None:
    bmu, distance = search(torch.zeros(3, 4), torch.zeros(5, 4))
    assert bmu.tolist() == [0, 0, 0]
    assert distance.tolist() == [0, 0, 0]


def test_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ``find_bmu``, where pairs are not gone through one by one: those of the cosine and one more."""
    launched = []
    kernel_type = type(kernels("search.search").search_streaming_kernel)
    original = kernel_type.run

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        launched.append(self.fn.__name__)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(kernel_type, "run", counting)
    monkeypatch.setattr(triton, "_FEW_PAIRS", 0)
    kernels("launch.plan").forget()
    z, prototypes = torch.randn(9, 8, device=GPU), torch.randn(12, 8, device=GPU)
    find_bmu(z, prototypes, distance="sqeuclidean", backend="triton")
    assert len(launched) == 4
    assert launched[:2] == ["longest_kernel", "prepare_squared_kernel"]
    assert launched[-1] == "squared_distance_kernel"
    assert find_bmu(z[:0], prototypes, distance="sqeuclidean", backend="triton")[0].shape == (0,)


@pytest.mark.skipif(BACKENDS["triton"] != "cpu", reason="a GPU has multiprocessors for all of them")
def test_a_program_looks_at_many_prototypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the longest: another program than the first, and not in its first block of rows."""
    monkeypatch.setattr(kernels("search.squared"), "_MOST_PROGRAMS", 2)
    monkeypatch.setattr(triton, "_FEW_PAIRS", 0)
    kernels("launch.plan").forget()
    z, prototypes = torch.randn(9, 8), torch.randn(90, 8)
    prototypes[40] *= 1000
    z[3] = prototypes[40]
    bmu, _ = find_bmu(z, prototypes, distance="sqeuclidean", backend="triton")
    assert regret(z, prototypes, bmu) <= 1e-6
    assert bmu[3] == 40
    kernels("launch.plan").forget()

"""The Triton kernels beyond the contract: every form of the search, the number of launches, autotuning."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import BACKENDS, GPU, check, check_bmu, relative_error, run, truth
from torch import Tensor

from vitsom_fast import Grid, available_backends, backends, batch_update, find_bmu
from vitsom_fast.neighborhoods import NEIGHBORHOODS, neighborhood

REASON = available_backends()["triton"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

FAMILIES = ("ampere", "hopper", "blackwell", "cdna")


def kernels(name: str) -> Any:
    """A module of vitsom_fast.kernels; imported late, as Triton may be absent."""
    return importlib.import_module(f"vitsom_fast.kernels.{name}")


def search_with(config: Any, z: Tensor, prototypes: Tensor) -> Tensor:
    """BMUs as one configuration of the search finds them."""
    passes = kernels("passes")
    bmu, _ = kernels("launch.plan").planned(passes.find_bmu, (z, prototypes), passes.Choice(config=config))(z, prototypes)
    return bmu


@pytest.fixture
def along_axes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """However small batch and map are, the neighborhood is applied along one axis of the grid after the other."""
    plan = kernels("launch.plan")
    plan.forget()
    monkeypatch.setattr(kernels("context"), "_MOST_WEIGHTS", 0)
    yield
    plan.forget()


@pytest.mark.parametrize(
    ("dim", "dtype"),
    [(3, torch.float16), (40, torch.float32), (250, torch.bfloat16), (130, torch.float32)],
)
def test_every_configuration_finds_the_bmu(dim: int, dtype: torch.dtype) -> None:
    """In a map with ties all over it, and a latent and a prototype that are no numbers."""
    z = torch.randn(70, dim, device=GPU).to(dtype)
    prototypes = torch.randn(90, dim, device=GPU).to(dtype).repeat(2, 1)
    z[7], prototypes[120] = torch.nan, torch.inf
    finite = torch.arange(70) != 7
    configs = kernels("launch.configs")
    families = FAMILIES if BACKENDS["triton"] == "cpu" else [kernels("launch.device").family(z.device)]
    split = dtype == torch.float32
    candidates = [config for family in families for config in configs.search_candidates(family, split, dim)]
    for config in {json.dumps(config.options()): config for config in candidates}.values():
        bmu = search_with(config, z, prototypes).cpu()
        valid = torch.arange(180) != 120
        order = torch.arange(180)[valid]
        position = torch.searchsorted(order, bmu[finite])
        check_bmu(position, z[finite.to(GPU)].cpu(), prototypes.cpu()[valid])
        assert (bmu[finite] < 90).all(), config
        assert 0 <= bmu[7] < 180


@pytest.mark.parametrize(("batch", "count", "dim"), [(3, 5, 3136), (1, 1, 1100)])
def test_features_split_across_programs(batch: int, count: int, dim: int) -> None:
    """Few tiles and many features: the parts of a score are added up by the last program."""
    z, prototypes = torch.randn(batch, dim, device=GPU), torch.randn(count, dim, device=GPU)
    configs = kernels("launch.configs")
    config = configs.with_tile(configs.search_streaming("ampere", True, dim, few_tiles=True), BLOCK_B=16, BLOCK_K=16)
    assert kernels("search.search").plan_search(config, batch, count, dim, z.device).dim_splits > 1
    check_bmu(search_with(config, z, prototypes).cpu(), z.cpu(), prototypes.cpu())


@pytest.mark.parametrize(("dim", "near"), [(100, 1.0), (100, 1e-2), (3, 1e-4)])
def test_certified_search(monkeypatch: pytest.MonkeyPatch, dim: int, near: float) -> None:
    """Prototypes so close that the upper halves alone cannot tell which is nearest."""
    monkeypatch.setenv("VITSOM_TRITON_SEARCH", "certified")
    assert kernels("search.certified").is_affordable(40, 300, dim)
    centre = torch.randn(1, dim)
    z = (centre + near * torch.randn(40, dim)).to(GPU)
    prototypes = (centre + near * torch.randn(150, dim)).repeat(2, 1).to(GPU)
    z[3], z[4, 0], prototypes[100::150] = 0.0, torch.nan, 0.0
    bmu, distance = (x.cpu() for x in find_bmu(z, prototypes, backend="triton"))
    finite = torch.arange(40) != 4
    check_bmu(bmu[finite], z.cpu()[finite], prototypes.cpu())
    if near == 1e-2 and dim == 100:  # the upper halves alone do get it wrong
        upper_z, upper_prototypes = (torch.nn.functional.normalize(x.cpu()).half().double() for x in (z, prototypes))
        with pytest.raises(AssertionError):
            check_bmu((upper_z @ upper_prototypes.T).argmax(1)[finite], z.cpu()[finite], prototypes.cpu())
    assert (bmu < 150).all()
    assert distance[4].isnan()
    assert distance[3] == 1


@pytest.fixture(params=["dense", "factorised"])
def form(request: pytest.FixtureRequest) -> str:
    """How the neighborhood is applied: by the weights of all pairs, or along one axis of the grid after the other."""
    if request.param == "factorised":
        request.getfixturevalue("along_axes")
    return request.param


@pytest.mark.parametrize("count", [1, 3, 16, 1600])
def test_kept_weights_are_bounded(count: int) -> None:
    """4 MB, padding included, however many samples there are."""
    for batch in (1 << power for power in range(24)):
        assert kernels("context").size(batch, 1, count) <= (1 << 20) + 2 * (batch + count) + 1


LAUNCHES = {"dense": 7, "factorised": 8}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are launched, by way of their arguments: no plan is there yet."""
    launched: list[str] = []
    kernel_type = type(kernels("search.search").search_streaming_kernel)
    original = kernel_type.run

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        launched.append(self.fn.__name__)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(kernel_type, "run", counting)
    kernels("launch.plan").forget()
    return launched


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
@pytest.mark.parametrize("temperature", [2.5, torch.tensor(2.5)], ids=["float", "tensor"])
def test_launches_of_a_step(form: str, launched: list[str], temperature: float | Tensor, topology: str) -> None:
    run("triton", torch.randn(9, 8), torch.randn(12, 8), Grid(3, 4, topology), temperature)
    assert len(launched) == LAUNCHES[form], launched


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_launches_of_the_primitives(launched: list[str], topology: str) -> None:
    """However many terms a neighborhood has, and also where its factors are transposed."""
    own, grid = backends.get("triton"), Grid(3, 4, topology)
    x, bmu = torch.randn(9, 8, device=GPU), torch.randint(0, 12, (9,), device=GPU)
    factors = neighborhood(grid, 1.0, device=GPU)
    sums, _ = own.sum_by_bmu(x, bmu, 12)
    assert launched == ["sort_columns_kernel", "sort_units_kernel", "sum_units_kernel"]
    launched.clear()
    own.smooth(sums, factors.rows.mT, factors.cols.mT)
    assert launched == ["smooth_axis_kernel"] * 2
    launched.clear()
    own.add_by_bmu(torch.zeros(12, 9, dtype=torch.float64, device=GPU), x, bmu)  # type: ignore[attr-defined]
    assert len(launched) == 3


def test_a_batch_update_is_made_of_kernels(launched: list[str]) -> None:
    batch_update(torch.randn(9, 8, device=GPU), torch.randn(12, 8, device=GPU), Grid(3, 4), 1.0, backend="triton")
    assert [name for name in launched if not name.startswith(("prepare", "search", "distance", "gaussian"))] == [
        "sort_columns_kernel",
        "sort_units_kernel",
        "sum_units_kernel",
        "smooth_axis_kernel",
        "smooth_axis_kernel",
    ]


@pytest.mark.parametrize("transposed", [False, True])
def test_smoothing_leaves_out_blocks_of_zeros_only(monkeypatch: pytest.MonkeyPatch, transposed: bool) -> None:
    """On an axis so long that blocks of a factor are looked for that matter: weights of 1e-30 do."""
    configs = kernels("launch.configs")
    blocks = configs.Config({"BLOCK_OUT": 16, "BLOCK_IN": 16, "BLOCK_D": 32})
    monkeypatch.setattr(configs, "smooth_axis", lambda *_: blocks)
    kernels("launch.plan").forget()
    grid = Grid(1, 150)
    rows, cols = neighborhood(grid, 2.7, device=GPU)[:2]
    cols = cols + torch.arange(150, device=GPU) * 1e-3 * cols  # no longer its own transpose
    assert (cols == 0).any()
    x = torch.rand(150, 3, device=GPU)
    x[40:] = 0
    factors = (rows.mT, cols.mT) if transposed else (rows, cols)
    found = backends.get("triton").smooth(x, *factors).double()
    expected = factors[1][0].double() @ x.double()
    seen = expected > 1e-30
    assert (expected[60:][seen[60:]] < 1e-10).any()
    assert ((found - expected).abs() <= 1e-5 * expected)[seen].all()
    kernels("launch.plan").forget()


@pytest.mark.parametrize(
    ("grid", "batch", "dim", "data", "dtype"),
    [
        (Grid(3, 4), 1, 3, "organised", torch.float32),
        (Grid(3, 4), 17, 3, "random", torch.bfloat16),
        (Grid(1, 40), 17, 3, "random", torch.float32),
        (Grid(5, 3, "hexagonal"), 33, 40, "in strides", torch.float16),
        (Grid(5, 3, "hexagonal"), 33, 40, "not finite", torch.bfloat16),
        (Grid(3, 4), 33, 40, "short", torch.float32),
        (Grid(4, 6, periodic=True), 40, 127, "organised", torch.float16),
        (Grid(4, 6, periodic=True), 40, 65, "in strides", torch.float32),
        (Grid(4, 6, "hexagonal", periodic=True), 70, 65, "organised", torch.float32),
    ],
    ids=str,
)
def test_both_forms(form: str, grid: Grid, batch: int, dim: int, data: str, dtype: torch.dtype) -> None:
    """The contract once more, each form of narrow and of wide neighborhoods: sizes alone decide which the other tests run."""
    prototypes = torch.randn(grid.num_prototypes, dim)
    z = torch.randn(batch, dim)
    if data == "organised":  # the loss is the small difference of two large sums
        prototypes = prototypes[:1] + 0.01 * prototypes
        z = prototypes[torch.randint(grid.num_prototypes, (batch,))] + 0.001 * z
    if data == "short":  # x / max(|x|, eps) is in the range of fp16, below it, or a unit vector
        z[::3], z[1::3], prototypes[::3], prototypes[1::3] = 1e-14 * z[::3], 1e-30, 1e-14 * prototypes[::3], 1e-30
    z, prototypes = z.to(dtype), prototypes.to(dtype)
    if data == "in strides":
        z, prototypes = z.T.contiguous().T, prototypes.repeat_interleave(2, dim=1)[:, ::2]
    temperature = 0.4 if (form == "dense") == (dtype == torch.float32) else 100.0
    if data == "not finite":
        prototypes[-1, 0] = torch.nan
        assert run("triton", z, prototypes, grid, temperature).loss.isnan()
    else:  # sums: means of gradients would be subnormal in fp16
        result = run("triton", z, prototypes, grid, temperature, reduction="sum")
        check(result, z, prototypes, grid, temperature, reduction="sum", cancels=True)


@pytest.mark.usefixtures("along_axes")
def test_a_short_prototype_far_away_has_the_largest_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weight is 1e-31 and less, too far away for a block of columns that leaves out what is nothing beside 1; and its
    gradient is divided by its length."""
    configs = kernels("launch.configs")
    blocks = configs.Config({"BLOCK_OUT": 16, "BLOCK_IN": 16, "BLOCK_D": 64})
    monkeypatch.setattr(configs, "project", lambda family: blocks)
    grid = Grid(1, 129)  # the shortest axis of which blocks of this size are left out
    prototypes = torch.randn(129, 16)
    z = prototypes[:1].clone()
    prototypes[:32] *= 1e25
    prototypes[32:36] *= 1e-11
    inputs = [x.to(GPU) for x in (z, prototypes)]
    factors = neighborhood(grid, 2.7, device=GPU)
    _, bmu, *kept = torch.ops.vitsom.som_forward(*inputs, *factors, "sum", "triton")
    one = torch.ones((), device=GPU)
    _, grad = torch.ops.vitsom.som_backward(one, *inputs, *factors, bmu, *kept, "sum", False, True, "triton")
    true = truth(z, prototypes, grid, 2.7, bmu.cpu(), reduction="sum").grad_prototypes
    assert not bmu.any()
    assert true.norm(dim=1).argmax() >= 32
    # An exponent of -70 to -84 in fp32 is off by 4e-6.
    assert relative_error(grad[32:36].cpu(), true[32:36]) < 1e-4


@pytest.mark.parametrize("batch", [9, 33])  # by weights, and along axes
@pytest.mark.parametrize("kind", NEIGHBORHOODS)
def test_every_neighborhood(monkeypatch: pytest.MonkeyPatch, kind: str, batch: int) -> None:
    """Weights of either sign, and a loss below zero."""
    if batch == 33:
        monkeypatch.setattr(kernels("context"), "_MOST_WEIGHTS", 0)
    grid = Grid(3, 7, "rectangular" if kind == "manhattan_gaussian" else "hexagonal")
    z, prototypes = torch.randn(batch, 9), torch.randn(21, 9)
    result = run("triton", z, prototypes, grid, 1.1, neighborhood=kind)
    check(result, z, prototypes, grid, 1.1, neighborhood=kind, cancels=True)
    if kind == "mexican_hat":
        assert result.loss < 0


def _fresh_autotune(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    autotune = kernels("launch.autotune")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    autotune._known.cache_clear()
    return autotune


def test_autotuning_keeps_the_fastest_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    autotune = _fresh_autotune(monkeypatch, tmp_path)
    candidates = kernels("launch.configs").search_candidates("hopper", True, 64)
    timed = []

    def seconds(launch: Any, config: Any) -> float:
        timed.append(config)
        return float("inf") if config is candidates[0] else float(candidates[::-1].index(config))

    monkeypatch.setattr(autotune, "_median_seconds", seconds)
    assert autotune.fastest("a", candidates[1], candidates, print) == candidates[-1]
    assert autotune.fastest("a", candidates[1], candidates, print) == candidates[-1]
    assert timed == candidates  # once
    autotune._known.cache_clear()  # as in the next process
    assert autotune.fastest("a", candidates[1], [], print) == candidates[-1]
    autotune.cache_file().write_text("no json")
    autotune._known.cache_clear()
    assert autotune.fastest("a", candidates[1], candidates[:2], print) == candidates[1]
    autotune._known.cache_clear()


def test_autotuning_never_runs_during_capture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    autotune = _fresh_autotune(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(autotune, "_median_seconds", lambda *_: pytest.fail("timed during capture"))
    candidates = kernels("launch.configs").search_candidates("ampere", False, 64)
    assert autotune.fastest("b", candidates[1], candidates, print) is candidates[1]
    assert not autotune.cache_file().exists()
    autotune._known.cache_clear()


def test_autotuning_is_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    autotune = kernels("launch.autotune")
    monkeypatch.delenv("VITSOM_AUTOTUNE", raising=False)
    assert not autotune.is_on()
    monkeypatch.setenv("VITSOM_AUTOTUNE", "1")
    assert autotune.is_on() == (BACKENDS["triton"] == "cuda")

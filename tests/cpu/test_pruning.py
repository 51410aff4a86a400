"""The search that rules out tiles of the map, on maps in order and on maps made to break its bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from helpers import check_bmu, search
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitsom_fast import Grid, find_bmu, reference
from vitsom_fast.backends import cpu

VARIABLE = "VITSOM_CPU_PRUNING"

# Squares, strips, primes, grids that tiles do not divide.
SHAPES = ((1, 1), (1, 3), (1, 127), (127, 1), (2, 100), (3, 3), (17, 23), (16, 16), (31, 33), (64, 48), (70, 80))
DIMS = (1, 3, 17, 64, 127, 192, 300)


@pytest.fixture(autouse=True)
def _needs_pruning() -> None:
    if reason := cpu.unavailable():
        pytest.skip(f"backend 'cpu': {reason}")


def map_in_order(
    rows: int, cols: int, dim: int, *, topology: str = "rectangular", periodic: bool = False, bend: float = 0.3
) -> Tensor:
    """(K, D): a surface over the grid that bends as it likes, but smoothly; closed in both directions on a torus."""
    position = Grid(rows, cols, topology).positions.float()  # [K, 2]
    if periodic:
        angle = 2 * math.pi * position / torch.tensor([rows, cols])
        basis = torch.cat((angle.sin(), angle.cos()), dim=1)
    else:
        unit = position / max(rows, cols)
        basis = torch.cat((unit, unit.square(), unit.prod(1, keepdim=True), (3 * unit).sin()), dim=1)
    return torch.randn(1, dim) + bend * basis @ torch.randn(basis.shape[1], dim)


def near(prototypes: Tensor, count: int, noise: float = 0.02) -> Tensor:
    """Latents close to prototypes, as those that the map was fitted to are."""
    z = prototypes[torch.randint(len(prototypes), (count,))]
    return (z + noise * z.norm(dim=1, keepdim=True) / z.shape[1] ** 0.5 * torch.randn_like(z)) * torch.rand(count, 1).exp()


def _far_prototype_in_each_tile(w: Tensor) -> Tensor:
    w[::13] = torch.randn_like(w[::13])
    return w


def _opposite_prototypes(w: Tensor) -> Tensor:
    """The cone of every tile is wider than half of all directions."""
    w[::3] *= -1
    return w


def _zeros(w: Tensor) -> Tensor:
    w[:: max(2, len(w) // 5)] = 0
    return w


def _tiny_and_huge(w: Tensor) -> Tensor:
    w[::2] *= 1e-30
    w[1::5] *= 1e28
    return w


def _duplicates(w: Tensor) -> Tensor:
    return w[torch.randint(len(w), (len(w),)).sort().values // 4 * 4]


def _collapsed(w: Tensor) -> Tensor:
    return w[:1] + 1e-6 * w.norm(dim=1).mean() * torch.randn_like(w)


def _large_features(w: Tensor) -> Tensor:
    """Beside two large elements, codes of int8 have little left for the others."""
    w[:, :2] *= 50
    return w


def _not_finite(w: Tensor) -> Tensor:
    w[1::3, 0] = torch.nan
    return w


MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "organised": lambda w: w,
    "a far prototype in each tile": _far_prototype_in_each_tile,
    "opposite prototypes": _opposite_prototypes,
    "zeros": _zeros,
    "tiny and huge": _tiny_and_huge,
    "duplicates": _duplicates,
    "collapsed": _collapsed,
    "equal": lambda w: w[:1].repeat(len(w), 1),
    "random": torch.randn_like,
    "large features": _large_features,
}


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    shape=st.sampled_from(SHAPES),
    dim=st.sampled_from(DIMS),
    change=st.sampled_from(sorted(MAPS)),
    topology=st.sampled_from((("rectangular", False), ("rectangular", True), ("hexagonal", False))),
    noise=st.sampled_from((0.0, 0.02, 0.3, 3.0)),
    batch=st.sampled_from((1, 3, 17, 127)),
    dtype=st.sampled_from((torch.float32, torch.float32, torch.bfloat16, torch.float16)),
    threads=st.sampled_from((1, 2, 5)),
    seed=st.integers(0, 2**32 - 1),
)
def test_search_where_every_tile_must_be_ruled_out_for_good(
    shape: tuple[int, int],
    dim: int,
    change: str,
    topology: tuple[str, bool],
    noise: float,
    batch: int,
    dtype: torch.dtype,
    threads: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    w = map_in_order(*shape, dim, topology=topology[0], periodic=topology[1])
    z = near(w, batch, noise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "always")
        if change == "tiny and huge" and dtype == torch.float16:
            dtype = torch.bfloat16
        _check(z.to(dtype), MAPS[change](w).to(dtype))


def _check(z: Tensor, prototypes: Tensor) -> None:
    bmu, distance = search("cpu", z, prototypes)
    check_bmu(bmu, z, prototypes)
    exact = reference.distances(z.double(), prototypes.double()).gather(1, bmu[:, None])[:, 0]
    assert (distance.double() - exact).abs().max() <= 1e-6
    _, group = prototypes.float().unique(dim=0, return_inverse=True)  # [K]
    first = torch.full_like(group, len(group)).scatter_reduce(0, group, torch.arange(len(group)), "amin")
    assert torch.equal(bmu, first[group[bmu]]), "not the lowest index of equal prototypes"
    again = search("cpu", z, prototypes)
    assert torch.equal(again[0], bmu)
    assert torch.equal(again[1], distance)
    _check_two(z, prototypes, group)


def _check_two(z: Tensor, prototypes: Tensor, group: Tensor) -> None:
    """The nearest, then the nearest of the others, the lowest index of equal prototypes; ``group`` is the same for those."""
    two, distances = search("cpu", z, prototypes, k=2)
    exact = reference.distances(z.double(), prototypes.double())
    for unit, distance in zip(two.T[: len(prototypes)], distances.T, strict=False):
        own = exact.gather(1, unit[:, None])[:, 0]
        assert (own - exact.amin(dim=1)).max() <= 1e-12
        assert (distance.double() - own).abs().max() <= 1e-6
        equal = (group == group[unit][:, None]) & exact.isfinite()  # [B, K]
        assert torch.equal(unit, equal.int().argmax(dim=1))
        exact = exact.scatter(1, unit[:, None], torch.inf)


def test_rows_and_prototypes_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "always")
    w = map_in_order(20, 20, 64)
    z = near(w, 100)
    w, z[::5, 3] = _not_finite(w), torch.inf
    bmu, distance = search("cpu", z, w)
    finite = torch.arange(100) % 5 != 0
    assert cpu.search_counts(z, w)["pruned"] == len(z)
    assert not bmu[~finite].any()
    assert distance[~finite].isnan().all()
    kept = torch.arange(400)[torch.arange(400) % 3 != 1]
    assert torch.equal(bmu[finite], kept[reference.distances(z[finite].double(), w[kept].double()).argmin(dim=1)])


@pytest.mark.parametrize("pruning", ["always", "never"])
def test_the_nearest_two_are_found_by_bounds_as_well(pruning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tiles, or of codes where there are any: no sample is left to the search in fp32."""
    if pruning == "never" and cpu._cpu.selected() not in ("avx512bf16", "avx512vnni"):
        pytest.skip(f"the kernels for {cpu._cpu.selected()} have no codes")
    monkeypatch.setenv(VARIABLE, pruning)
    w = map_in_order(20, 50, 192, bend=3.0)
    z = near(w, 128, 0.3)
    assert cpu.search_counts(z, w, 2)["pruned" if pruning == "always" else "int8"] == len(z)
    _check(z, w)


@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (128, 32), (1, 4096)])
def test_a_map_in_order_is_pruned_whatever_its_shape(shape: tuple[int, int]) -> None:
    """No one says what the shape is: it shows in the prototypes. Of 256 tiles, each row has to look into a few."""
    w = map_in_order(*shape, 192)
    z = near(w, 1100)
    counts = cpu.search_counts(z, w)
    assert counts["pruned"] == len(z)
    assert counts["tiles"] <= 0.15 * 256 * len(z)
    assert counts["candidates"] <= 200 * len(z)  # of 4096
    _check(z, w)


def test_a_map_out_of_order_is_left_alone() -> None:
    z, w = torch.randn(1100, 192), torch.randn(4096, 192)
    assert cpu.search_counts(z, w)["pruned"] == 0
    shuffled = map_in_order(64, 64, 192)[torch.randperm(4096)]
    assert cpu.search_counts(near(shuffled, 1100), shuffled)["pruned"] == 0


@pytest.mark.parametrize("share", [0.6, 0.8, 0.9])
@pytest.mark.parametrize("shape", [(64, 64), (80, 80)])
def test_the_smaller_of_two_opposite_clusters_is_pruned_as_well(
    shape: tuple[int, int], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in data whose mean was removed. What all prototypes have in common points to the larger one, and scores that take a
    sample to be there, too, lead it to the wrong side of the map, where bounds tell nothing."""
    monkeypatch.setenv(VARIABLE, "always")
    w = map_in_order(*shape, 192)
    w[int(share * shape[0]) * shape[1] :] *= -1
    z = near(w, 600)
    counts = cpu.search_counts(z, w)
    assert counts["pruned"] == len(z)
    assert counts["candidates"] <= 30 * len(z)  # of 4096 or more
    _check(z, w)


def test_rows_far_from_the_map_are_left_to_brute_force() -> None:
    """On the other side of the origin, every tile is as far; the rows near the map are not held up by them."""
    w = map_in_order(64, 64, 192)
    z = near(w, 2000)
    z[1::2] *= -1
    torch.set_num_threads(2)
    counts = cpu.search_counts(z, w)
    assert counts["pruned"] == 1000
    assert counts["int8"] + counts["bf16"] + counts["small"] + counts["fp32"] + counts["fp64"] == len(z) - counts["pruned"]
    _check(z, w)


@pytest.mark.parametrize("change", ["organised", "large features", "a far prototype in each tile"])
@pytest.mark.parametrize(("shape", "dim"), [((64, 64), 192), ((130, 131), 64), ((1, 70000), 17)])
def test_distances_are_those_of_brute_force(
    shape: tuple[int, int], dim: int, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more than 256 tiles there are tiles of tiles, and with more than 4096 tiles of those."""
    w = map_in_order(*shape, dim, bend=1.0)
    z = torch.cat((near(w, 100), near(w, 100, 0.3), torch.randn(100, dim)))
    w = MAPS[change](w)
    results = []
    for pruning in ("always", "never"):
        monkeypatch.setenv(VARIABLE, pruning)
        results.append(search("cpu", z, w))
    check_bmu(results[0][0], z, w)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-6)


def test_the_variable_must_be_one_of_three_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "often")
    with pytest.raises(ValueError, match=r"VITSOM_CPU_PRUNING must be one of .*'always'.* got 'often'"):
        search("cpu", torch.randn(2, 3), torch.randn(4, 3))


# Balls, under the squared Euclidean distance


def beside(prototypes: Tensor, count: int) -> Tensor:
    """Latents at a fiftieth of the width of the map from prototypes."""
    z = prototypes[torch.randint(len(prototypes), (count,))]
    return z + 0.02 * (prototypes - prototypes.mean(dim=0)).abs().max() * torch.randn_like(z)


def _check_balls(z: Tensor, w: Tensor, k: int = 1) -> None:
    """Units are those of fp64, the lowest of those that are as near."""
    bmu, distance = find_bmu(z, w, distance="sqeuclidean", backend="cpu", k=k)
    exact = (z.double()[:, None] - w.double()).square().sum(dim=2).nan_to_num(torch.inf)  # [B, K]
    nearest = exact.sort(dim=1, stable=True)
    scale = z.double().square().sum(dim=1) + w.double().nan_to_num().square().sum(dim=1).max()
    for place, units in enumerate(bmu.reshape(len(z), k).T):
        own = exact.gather(1, units[:, None])[:, 0]
        assert ((own - nearest.values[:, place]) / scale).max() <= 1e-12
        assert torch.allclose(distance.reshape(len(z), k)[:, place].double(), own, rtol=1e-6)


@pytest.mark.parametrize("kind", ["as it is", "far from the origin", "of all lengths", "tiny", "with gaps"])
@pytest.mark.parametrize(("shape", "dim"), [((1, 127), 17), ((17, 23), 192), ((64, 48), 3), ((20, 5), 1)])
def test_balls_find_the_nearest(shape: tuple[int, int], dim: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "always")
    w = map_in_order(*shape, dim)
    if kind == "far from the origin":
        w += 1e4
    elif kind == "of all lengths":
        w *= (3 * torch.rand(len(w), 1)).exp()
    elif kind == "tiny":
        w *= 1e-25
    elif kind == "with gaps":
        w[3::7] = torch.nan
    there = w[w.isfinite().all(dim=1)]
    z = beside(there, 100)
    z[::9] += 50 * (there.mean(dim=0) - z[::9])  # on the other side, and far
    _check_balls(z, w)
    _check_balls(z, w, 2)
    counts = cpu.search_counts(z, w, distance="sqeuclidean")
    assert counts["pruned"] == len(z)


def test_balls_of_samples_far_from_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a sample 200 times as far as the map is wide, all distances are alike, and roundings of what is reached are large."""
    monkeypatch.setenv(VARIABLE, "always")
    for seed in range(16):
        torch.manual_seed(seed)
        w = map_in_order(11, 18, 1 + seed % 8)
        _check_balls(200 * beside(w, 100) * torch.randn(100, 1).sign(), w)


def test_balls_of_a_map_whose_middle_is_almost_the_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The square of its distance from there is 0 in fp32, and samples have a part in its direction all the same."""
    monkeypatch.setenv(VARIABLE, "always")
    w = torch.randint(-8, 9, (32, 5)).float().repeat_interleave(2, dim=0)
    w[1::2] *= -1
    w[:, -1] = 1e-24
    z = beside(w, 100)
    z[:, -1] = 1.0
    _check_balls(z, w)
    assert cpu.search_counts(z, w, distance="sqeuclidean")["pruned"] == len(z)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_balls_rule_out_most_of_a_map_in_order(offset: float) -> None:
    """Rows as far apart as prototypes that are near: nothing that all have in common matters."""
    w = map_in_order(64, 64, 192)
    w = w + offset
    z = beside(w, 1030)
    counts = cpu.search_counts(z, w, distance="sqeuclidean")
    assert counts["pruned"] == len(z)
    assert counts["tiles"] <= 0.15 * 256 * len(z)
    assert counts["candidates"] <= 200 * len(z)  # of 4096
    _check_balls(z[:200], w)

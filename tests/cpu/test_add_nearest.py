"""An epoch of a small map in one pass: every row is in the sums of the unit that fp64 finds, or is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vitsom_fast import SOM
from vitsom_fast.backends import cpu

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason="no kernels here")

SIZES = [(1, 3, 17), (2, 1, 1000), (7, 17, 127), (100, 20, 3000), (33, 15, 65), (16, 64, 129), (256, 63, 1000), (1000, 3, 2500)]


def added(
    x: Tensor, prototypes: Tensor, centre: Tensor, unit: float, *, squared: bool = False, before: Tensor | None = None
) -> tuple[Tensor, float, Tensor]:
    """Sums (K, D + 1), the sum of distances, and which rows (B,) are not left."""
    sums = torch.zeros(len(prototypes), x.shape[1] + 1, dtype=torch.float64) if before is None else before.clone()
    distance, left = cpu.add_nearest(sums, x, prototypes, centre, unit, squared=squared)
    is_added = torch.ones(len(x), dtype=torch.bool)
    assert (left[1:] > left[:-1]).all()
    is_added[left] = False
    return sums, distance, is_added


def check(x: Tensor, prototypes: Tensor, centre: Tensor, unit: float, *, least: float, squared: bool = False) -> None:
    """At least this share of the rows is added, each to its unit in fp64, and what was in the sums stays."""
    seen = ((x - centre) * unit).double()
    exact = torch.stack([(seen - w).square().sum(1) for w in prototypes.double()], dim=1)  # [B, K]
    nearest, unit_of = exact.min(1)
    before = torch.randn(len(prototypes), x.shape[1] + 1, dtype=torch.float64)
    sums, distance, is_added = added(x, prototypes, centre, unit, squared=squared, before=before)
    assert is_added.double().mean() >= least
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    expected = before.index_add(0, unit_of[is_added], torch.cat([seen, ones], dim=1)[is_added])
    torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)
    if not is_added.any():
        return
    of_all = (nearest if squared else nearest.sqrt())[is_added]
    size = prototypes.double().square().sum(1).max() + seen.square().sum(1).max()
    # Distances are what the squares of rows and prototypes leave: right to a thousandth of their size.
    error = (1e-6 * size if squared else (1e-6 * size).sqrt()) * len(of_all)
    assert abs(distance - of_all.sum()) <= (1e-5 * of_all.sum() if of_all.min() > 0.1 * size.sqrt() else error)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(("count", "dim", "batch"), SIZES)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_size(count: int, dim: int, batch: int, threads: int, squared: bool) -> None:
    torch.manual_seed(0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        x = (3 * torch.randn(batch, dim + 2) + 5)[:, 1 : dim + 1]  # rows that are apart
        check(x, 0.7 * torch.randn(count, dim), torch.full((dim,), 5.0), 0.25, least=0.98, squared=squared)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-6, 1e-5, 1e-4])
def test_units_that_fp32_cannot_tell_apart(spread: float) -> None:
    """Rows are left, not added to the wrong unit: each has at least two prototypes about as far away."""
    for seed in range(5):
        torch.manual_seed(seed)
        some = torch.randn(20, 12)
        prototypes = torch.cat([some, some + spread * torch.randn(20, 12)])[torch.randperm(40)]
        x = some[torch.randint(20, (500,))] + 0.1 * torch.randn(500, 12)
        check(x, prototypes, torch.zeros(12), 1.0, least=0.0)
        if spread == 0:
            assert not added(x, prototypes, torch.zeros(12), 1.0)[2].any()


@pytest.mark.parametrize("far", [1.0, 30.0, 1e3, 1e6])
def test_rows_and_maps_far_from_the_centre(far: float) -> None:
    torch.manual_seed(1)
    for x, prototypes in (
        (far * torch.randn(400, 9), torch.randn(30, 9)),
        (far + torch.randn(400, 9), far + torch.randn(30, 9)),
        (far * torch.randn(400, 9), far * torch.randn(30, 9)),
    ):
        check(x, prototypes, torch.zeros(9), 1.0, least=0.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38, 1e25])
def test_rows_that_have_no_nearest_unit_in_fp32_are_left(value: float) -> None:
    torch.manual_seed(2)
    x, prototypes = torch.randn(200, 5), torch.randn(9, 5)
    x[[0, 3, 64, 199], 2] = value
    sums, distance, is_added = added(x, prototypes, torch.zeros(5), 1.0)
    assert not is_added[[0, 3, 64, 199]].any()
    assert is_added.sum() >= 190
    assert sums.isfinite().all()
    assert np.isfinite(distance)


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-20, 1e20, 3e38, float("nan")])
def test_maps_of_no_size_that_fp32_holds_leave_all_rows(size: float) -> None:
    sums, distance, is_added = added(torch.randn(70, 5), size * torch.ones(9, 5), torch.zeros(5), 1.0)
    assert not is_added.any()
    assert not sums.any()
    assert distance == 0


def test_the_same_bits_again() -> None:
    torch.manual_seed(3)
    x, prototypes = torch.randn(20000, 7), torch.randn(50, 7)
    first, *others = (added(x, prototypes, torch.zeros(7), 1.0) for _ in range(3))
    for other in others:
        assert torch.equal(first[0], other[0])
        assert first[1] == other[1]


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fit_is_that_of_a_search_and_sums(monkeypatch: pytest.MonkeyPatch, metric: str, dtype: type) -> None:
    """Copies of rows among them, and rows that are prototypes: some are left."""
    random = np.random.default_rng(0)
    x = (1e3 + random.normal(size=(3000, 6)) * [1, 2, 3, 4, 5, 1e-3]).astype(dtype)
    x[::7] = x[0]
    at_once = SOM(8, 9, metric=metric, n_epochs=4).fit(x)
    passes = []
    monkeypatch.setattr(cpu, "adds_nearest", lambda prototypes: passes.append(prototypes.shape))
    apart = SOM(8, 9, metric=metric, n_epochs=4).fit(x)
    assert len(passes) == 4
    np.testing.assert_allclose(at_once.prototypes_, apart.prototypes_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(at_once.history_, apart.history_, rtol=1e-4)


def test_maps_that_are_searched_in_groups_are_not_for_one_pass() -> None:
    assert cpu.adds_nearest(torch.empty(100, 20))
    assert not cpu.adds_nearest(torch.empty(1024, 3))
    assert not cpu.adds_nearest(torch.empty(100, 65))
    assert not cpu.adds_nearest(torch.empty(600, 60))


@pytest.mark.parametrize(("dim", "dtype"), [(65, torch.float32), (3, torch.bfloat16), (3, torch.float64)], ids=str)
def test_rows_that_no_block_has_room_for_are_refused(dim: int, dtype: torch.dtype) -> None:
    x, prototypes = torch.randn(5, dim, dtype=dtype), torch.randn(4, dim, dtype=dtype)
    sums = torch.zeros(4, dim + 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="x must be fp32 of at most 64 features"):
        cpu.add_nearest(sums, x, prototypes, torch.zeros(dim), 1.0, squared=True)


def test_bad_sums_are_refused() -> None:
    x, prototypes = torch.randn(5, 3), torch.randn(4, 3)
    with pytest.raises(ValueError, match="sums must"):
        cpu.add_nearest(torch.zeros(4, 3, dtype=torch.float64), x, prototypes, torch.zeros(3), 1.0, squared=True)
    with pytest.raises(ValueError, match="in one piece"):
        cpu.add_nearest(torch.zeros(4, 4, dtype=torch.float64).T, x, prototypes, torch.zeros(3), 1.0, squared=True)

"""Searches on inputs made to break them: where rounding decides, where a bound says nothing, where numbers are at their limits.

The fast passes of the "cpu" backend multiply short codes of the inputs, and a certificate says what they may rule out. What
they cannot decide is left to the next pass: here each of them is made to decide, and to give up.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import check_bmu, search
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitsom_fast import reference
from vitsom_fast.backends import cpu

BATCH, COUNT, DIM = 128, 300, 70  # just enough for codes to be worth while; no multiple of any tile


def _directions(spread: float) -> tuple[Tensor, Tensor]:
    """Latents and prototypes that are all within ``spread`` of one direction."""
    centre = torch.randn(1, DIM)
    return centre + spread * torch.randn(BATCH, DIM), centre + spread * torch.randn(COUNT, DIM)


def _near_ties(gap: float) -> tuple[Tensor, Tensor]:
    """Every prototype has others within ``gap`` of it, and latents sit on them."""
    prototypes = torch.randn(10, DIM)[torch.randint(10, (COUNT,))]
    prototypes = prototypes + gap * torch.randn(COUNT, DIM)
    return prototypes[torch.randint(COUNT, (BATCH,))] + 0.5 * torch.randn(BATCH, DIM), prototypes


def _duplicates(distinct: int) -> tuple[Tensor, Tensor]:
    return torch.randn(BATCH, DIM), torch.randn(distinct, DIM)[torch.randint(distinct, (COUNT,))]


def _one_huge_row(scale: float) -> tuple[Tensor, Tensor]:
    z, prototypes = torch.randn(BATCH, DIM) / scale, torch.randn(COUNT, DIM) / scale
    z[BATCH // 2] *= scale * scale
    prototypes[COUNT // 2] *= scale * scale
    return z, prototypes


def _scaled_rows(largest: float) -> tuple[Tensor, Tensor]:
    """Lengths from 1 / largest to largest."""
    exponents = torch.empty(BATCH + COUNT, 1).uniform_(-1, 1)
    x = torch.randn(BATCH + COUNT, DIM) * largest**exponents
    return x[:BATCH], x[BATCH:]


def _tiny_rows(scale: float) -> tuple[Tensor, Tensor]:
    """Lengths below 1e-12, down to subnormal elements and zero, among ordinary rows."""
    z, prototypes = torch.randn(BATCH, DIM), torch.randn(COUNT, DIM)
    z[::3] *= scale
    prototypes[::2] *= scale
    prototypes[::7] = 0
    return z, prototypes


def _large_features(size: float) -> tuple[Tensor, Tensor]:
    """A few elements of each row dwarf the rest."""
    z, prototypes = torch.randn(BATCH, DIM), torch.randn(COUNT, DIM)
    z[torch.arange(BATCH), torch.randint(DIM, (BATCH,))] *= size
    prototypes[torch.arange(COUNT), torch.randint(DIM, (COUNT,))] *= size
    return z, prototypes


def _far_from_the_map(spread: float) -> tuple[Tensor, Tensor]:
    """The centre of the prototypes is no centre of the latents."""
    z, prototypes = _directions(spread)
    return -z, prototypes


GENERATORS: dict[str, tuple[Callable[[float], tuple[Tensor, Tensor]], tuple[float, ...]]] = {
    "near ties": (_near_ties, (1e-2, 1e-3, 1e-4, 1e-6, 1e-7)),
    "duplicates": (lambda distinct: _duplicates(int(distinct)), (1, 2, 40, 250)),
    "one huge row": (_one_huge_row, (1e3, 1e10, 1e15)),
    "scaled rows": (_scaled_rows, (1e3, 1e12, 1e30)),
    "tiny rows": (_tiny_rows, (1e-10, 1e-20, 1e-38, 1e-42)),
    "one direction": (_directions, (0.1, 1e-2, 1e-4, 1e-6, 1e-8)),
    "large features": (_large_features, (30.0, 1e3, 1e5)),
    "far from the map": (_far_from_the_map, (1.0, 0.1, 1e-3)),
}


def _check_search(z: Tensor, prototypes: Tensor) -> None:
    bmu, distance = search("cpu", z, prototypes)
    check_bmu(bmu, z, prototypes)
    exact = reference.distances(z.double(), prototypes.double()).gather(1, bmu[:, None])[:, 0]
    assert (distance.double() - exact).abs().max() <= 1e-6
    equal = (prototypes[bmu][:, None, :] == prototypes[None, :, :]).all(-1)  # [B, K]
    assert torch.equal(bmu, equal.int().argmax(dim=1)), "not the lowest index of equal prototypes"
    assert torch.equal(search("cpu", z, prototypes)[0], bmu)


@pytest.fixture(autouse=True)
def _needs_cpu_kernels() -> None:
    if reason := cpu.unavailable():
        pytest.skip(f"backend 'cpu': {reason}")


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    case=st.sampled_from([(name, size) for name, (_, sizes) in GENERATORS.items() for size in sizes]),
    dtype=st.sampled_from((torch.float32, torch.float32, torch.bfloat16)),
    threads=st.sampled_from((1, 1, 2, 5)),
    seed=st.integers(0, 2**32 - 1),
)
def test_search_on_cpu(case: tuple[str, float], dtype: torch.dtype, threads: int, seed: int) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    name, size = case
    z, prototypes = GENERATORS[name][0](size)
    _check_search(z.to(dtype), prototypes.to(dtype))


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4])
def test_cosines_near_one_on_cpu(spread: float) -> None:
    """Every partial sum is as large as can be: added up in one chain, 383 products are off by up to 1.7e-6."""
    torch.manual_seed(0)
    centre = torch.randn(1, 383)
    _check_search(centre + spread * torch.randn(BATCH, 383), centre + spread * torch.randn(910, 383))


# The passes of the search on cpu


def _codes() -> list[str]:
    """Of the passes before fp32, those that the instruction set in use has."""
    passes = {"avx512bf16": ["int8", "bf16"], "avx512vnni": ["int8"]}.get(cpu._cpu.selected(), [])
    if not passes:
        pytest.skip(f"the kernels for {cpu._cpu.selected()} have no codes")
    return passes


def test_cpu_codes_decide_and_candidates_are_scored_anew() -> None:
    """Prototypes so close together that codes of int8 cannot tell them apart: most are ruled out, the rest is not guessed."""
    _codes()
    z, prototypes = torch.randn(500, 192), torch.randn(2000, 192)
    prototypes[1000:] = prototypes[:1000] + 1e-4 * torch.randn(1000, 192)
    counts = cpu.search_counts(z, prototypes)
    assert counts["int8"] == len(z)
    assert 2 * len(z) <= counts["candidates"] <= 50 * len(z)  # of 2000
    _check_search(z, prototypes)
    coded = [torch.round(x / (scale := x.abs().amax(1, keepdim=True) / 127)) * scale for x in (z, prototypes)]
    by_codes_alone = reference.distances(coded[0].double(), coded[1].double()).argmin(dim=1)
    assert (by_codes_alone != search("cpu", z, prototypes)[0]).sum() > len(z) / 10


def test_cpu_bf16_decides_what_int8_cannot() -> None:
    """Next to one large element an integer scale has nothing left for the others, on which it depends here which is the BMU."""
    passes = _codes()
    z, prototypes = torch.randn(200, 192), torch.randn(500, 192)
    z[torch.arange(200), 2 * torch.randint(96, (200,))] = 300.0
    prototypes[torch.arange(500), 2 * torch.randint(96, (500,)) + 1] = 300.0
    counts = cpu.search_counts(z, prototypes)
    assert counts["int8"] == 0
    assert counts["bf16"] == (len(z) if "bf16" in passes else 0)
    assert counts["fp32"] + counts["fp64"] == len(z) - counts["bf16"]
    _check_search(z, prototypes)


def test_cpu_scores_all_where_a_bound_says_nothing() -> None:
    """All prototypes equal but for the last bits: every one of them is a candidate."""
    _codes()
    z, prototypes = torch.randn(200, 192), torch.randn(1, 192).repeat(500, 1)
    prototypes[1::2] = torch.nextafter(prototypes[1::2], torch.tensor(torch.inf))
    counts = cpu.search_counts(z, prototypes)
    assert counts["fp32"] + counts["fp64"] == len(z)
    _check_search(z, prototypes)


@pytest.mark.parametrize("open_rows", [10, 90])
def test_cpu_falls_back_for_single_rows(open_rows: int) -> None:
    """To a zero row all prototypes are the same: it is left to fp32, and the rows around it are not."""
    _codes()
    z, prototypes = torch.randn(200, 192), torch.randn(500, 192)
    undecided = torch.randperm(200)[:open_rows]
    z[undecided] = 0
    counts = cpu.search_counts(z, prototypes)
    assert counts["int8"] == len(z) - open_rows
    assert counts["fp32"] + counts["fp64"] == open_rows
    assert not search("cpu", z, prototypes)[0][undecided].any()
    _check_search(z, prototypes)


def test_cpu_codes_stand_rows_that_are_not_finite() -> None:
    _codes()
    z, prototypes = torch.randn(200, 192), torch.randn(500, 192)
    z[::5, 3], prototypes[::2, 7] = torch.nan, torch.inf
    bmu, distance = search("cpu", z, prototypes)
    finite = torch.arange(200) % 5 != 0
    assert cpu.search_counts(z, prototypes)["int8"] == len(z)
    assert not bmu[~finite].any()
    assert distance[~finite].isnan().all()
    expected = reference.distances(z[finite].double(), prototypes[1::2].double()).argmin(dim=1) * 2 + 1
    assert torch.equal(bmu[finite], expected)

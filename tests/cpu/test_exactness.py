"""The comparison of a million rows, on a few hundred: that it passes on every map, and what it refuses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from soak import exactness
from soak.exactness import MAPS, compare, duplicated, searched
from torch import Tensor

from vitsom_fast.backends import cpu


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["exactness", "--side", "14", "--rows", "500", "--sampled", "100", *arguments])
    return exactness.main()


@pytest.mark.skipif(cpu.unavailable() is not None, reason="no kernels here that rule out tiles")
@pytest.mark.parametrize("kind", MAPS)
def test_both_searches_are_right(kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(exactness, "_BATCH", 200)  # which does not divide the rows
    assert run(monkeypatch, "--map", kind) == 0
    printed = capsys.readouterr().out
    assert f"{kind} map of 14 x 14: 500 rows" in printed
    assert "; 0 BMUs not the first" in printed


def test_kernels_that_rule_out_nothing_are_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "search_counts", lambda z, prototypes: {"pruned": 0})
    assert run(monkeypatch) == 1
    assert "nothing to compare" in capsys.readouterr().out


@pytest.mark.parametrize("way", exactness.WAYS)
def test_one_wrong_row_is_found(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is not among those that are sampled: the BMUs differ."""

    def one_wrong(z: Tensor, prototypes: Tensor, asked: str) -> Tensor:
        bmu = searched(z, prototypes, "never")
        if asked == way:
            bmu[17] = (bmu[17] + 98) % 196  # from the other half of the map
        return bmu

    monkeypatch.setattr(exactness, "searched", one_wrong)
    found = compare(MAPS["trained"](14), rows=200, sampled=0)
    assert (found.rows, found.differing, found.checked) == (200, 1, 1)
    assert found.worst[way] > 1e-6 > max(found.worst[other] for other in exactness.WAYS if other != way)
    assert not found.right


def test_rows_that_agree_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "searched", lambda z, prototypes, way: torch.zeros(len(z), dtype=torch.int64))
    found = compare(MAPS["trained"](14), rows=200, sampled=100)
    assert found.differing == 0
    assert 50 < found.checked < 150
    assert not found.right


def test_the_first_of_equal_prototypes_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def last(z: Tensor, prototypes: Tensor, way: str) -> Tensor:
        bmu = searched(z, prototypes, "never")
        return bmu + 1 if way == "always" else bmu

    monkeypatch.setattr(exactness, "searched", last)
    found = compare(duplicated(14), rows=200, sampled=200)
    assert found.not_first == {"always": 200, "never": 0}
    assert max(found.worst.values()) < 1e-6
    assert not found.right


def test_every_map_has_what_it_is_named_for() -> None:
    trained, collapsed, duplicated, adversarial = (make(16) for make in MAPS.values())
    mean = collapsed.mean(0, keepdim=True)
    assert 1 - torch.cosine_similarity(collapsed.double(), mean.double()).min() < 1e-8
    on_grid = duplicated.view(16, 16, -1)
    assert (on_grid[::2] == on_grid[1::2]).all()
    assert (on_grid[:, ::2] == on_grid[:, 1::2]).all()
    assert (on_grid[:8] == on_grid[8:]).all()
    assert len(duplicated.unique(dim=0)) == 4 * 8
    lengths = adversarial.norm(dim=1)
    assert (lengths == 0).any()
    assert (lengths > 1e15).any()
    assert ((lengths > 0) & (lengths < 1e-15)).any()
    assert torch.cosine_similarity(adversarial, trained).min() < -0.99


@pytest.mark.parametrize("way", exactness.WAYS)
def test_each_way_is_asked_for(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the same search would be compared with itself."""
    asked: list[str | None] = []

    def find_bmu(z: Tensor, prototypes: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        asked.append(os.environ.get("VITSOM_CPU_PRUNING"))
        return torch.empty(0), torch.empty(0)

    monkeypatch.setattr(exactness, "find_bmu", find_bmu)
    before = os.environ.get("VITSOM_CPU_PRUNING")
    searched(torch.empty(0), torch.empty(0), way)
    assert asked == [way]
    assert os.environ.get("VITSOM_CPU_PRUNING") == before

"""The collection of maps, on small ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.harness.maps import FAMILIES
from benchmarks.studies import maps
from vitsom_fast.backends import cpu

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason="no kernels here")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_maps_are_fitted_once_and_searched(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--families", "mixture-3", "texts", "--sides", "8", "--batch", "100", "--rounds", "1"]
    assert maps.main(arguments) == 0
    kept = sorted(tmp_path.rglob("*.npy"))
    assert len(kept) == 2
    written = [path.stat().st_mtime_ns for path in kept]
    assert maps.main(arguments) == 0
    assert [path.stat().st_mtime_ns for path in kept] == written
    assert "mixture-3" in capsys.readouterr().out


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.name != "digits-latents"], ids=lambda f: f.name)
def test_rows_are_the_same_every_time(family: object) -> None:
    rows = family.rows(20, seed=1)  # type: ignore[attr-defined]
    assert rows.isfinite().all()
    assert torch.equal(rows, family.rows(20, seed=1))  # type: ignore[attr-defined]
    assert not torch.equal(rows, family.rows(20, seed=2))  # type: ignore[attr-defined]


def test_a_wrong_bmu_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(z: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(z), dtype=torch.int64), torch.zeros(len(z))

    monkeypatch.setattr(maps, "find_bmu", wrong)
    family = next(family for family in FAMILIES if family.name == "mixture-3")
    with pytest.raises(ValueError, match="nearest"):
        maps.measured(family, 8, 100, 1)

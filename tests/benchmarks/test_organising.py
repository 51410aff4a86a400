"""The whole training run among the benchmarks: the same for both backends, and what it says of the search."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.studies import organising
from benchmarks.studies.organising import Epoch, train, verdict
from benchmarks.studies.organising_plot import plot_organising
from vitsom_fast import available_backends, find_bmu
from vitsom_fast.backends import cpu

pytestmark = pytest.mark.skipif(available_backends()["cpu"] is not None, reason="needs the compiled CPU kernels")


def test_both_backends_train_the_same_map_and_all_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(organising, "RESULTS", tmp_path)
    monkeypatch.setattr(organising, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["organising", "--side", "12", "--epochs", "3", "--record", "tiny"])
    organising.main()
    assert re.search(r"^cpu: .* for 3 epochs of a 12 x 12 map", capsys.readouterr().out, re.MULTILINE)
    assert (tmp_path / "docs" / "organising.png").stat().st_size > 10_000
    with (tmp_path / "tiny-organising.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["backend"], row["epoch"]) for row in rows] == [
        (backend, str(epoch)) for backend in ("cpu", "reference") for epoch in range(4)
    ]
    errors = torch.tensor([float(row["quantization_error"]) for row in rows]).view(2, 4)
    torch.testing.assert_close(errors[0], errors[1], atol=1e-4, rtol=0)
    assert (errors[:, 1:] < 0.5 * errors[:, :1]).all()
    seconds = [float(row["seconds"]) for row in rows[:4]]
    assert seconds == sorted(set(seconds))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"pruned": 0, "tiles": 0}, 1.0),
        ({"pruned": 4096, "tiles": 4096 * 3}, 0.5),
        ({"pruned": 1024, "tiles": 1024 * 3}, 0.875),
        ({"pruned": 0, "tiles": 4096 * 3}, 1.0),  # tried in vain
    ],
)
def test_rows_that_are_not_pruned_look_into_every_tile(
    counts: dict[str, int], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map of 5 x 9 is covered by 2 x 3 tiles."""
    samples = torch.randn(4096, 192)
    som = organising.FusedSOMLoss((5, 9), 192, backend="cpu")
    monkeypatch.setattr(cpu, "search_counts", lambda z, prototypes: counts)
    epoch = organising._epoch(som, 1, 0.0, samples, samples)
    assert epoch.tiles == pytest.approx(expected)
    assert epoch.pruned == counts["pruned"] / 4096
    assert epoch.quantization_error == pytest.approx(find_bmu(samples, som.prototypes)[1].mean().item())


def test_the_same_seed_gives_the_same_run() -> None:
    first, again, other = ([epoch.quantization_error for epoch in train("cpu", 6, 1, seed=seed)] for seed in (0, 0, 1))
    assert first == again != other


def epochs() -> list[Epoch]:
    ours = [Epoch("cpu", 8, 8, epoch, 2.0 * epoch, 0.5 / (1 + epoch), epoch / 2, 1 - 0.4 * epoch) for epoch in range(3)]
    theirs = [Epoch("reference", 8, 8, epoch, 30.0 * epoch, 0.5 / (1 + epoch) + 1e-4, None, None) for epoch in range(3)]
    return [*ours, *theirs]


def test_the_verdict_has_times_errors_and_tiles() -> None:
    text = verdict(epochs())
    assert "cpu: 4.0 s for 2 epochs of a 8 x 8 map, quantization error 0.166667" in text
    assert "the reference takes 15.0 times as long; the errors differ by 1.0e-04, 0.06 %" in text
    assert "tiles looked into, by epoch: 100.0% 60.0% 20.0%" in text
    assert "rows pruned, by epoch: 0% 50% 100%" in text


def test_the_picture_has_both_fits_and_the_share_of_tiles() -> None:
    rows = [{name: str(value) for name, value in vars(epoch).items()} for epoch in epochs()]
    fit, search = plot_organising(rows).axes
    assert [line.get_xydata().tolist() for line in search.lines] == [[[0, 100.0], [1, 60.0], [2, pytest.approx(20.0)]]]
    assert {text.get_text() for text in fit.get_legend().get_texts()} == {"reference: 60 s", "vitsom_fast cpu: 4.0 s"}
    assert all(len(line.get_xdata()) == 3 for line in fit.lines)

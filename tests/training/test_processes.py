"""Two processes with half of each batch follow the loss curve of one, and leave one run behind."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import small_pictures, tiny_config, write_dataset

from vitsom_fast import cli
from vitsom_fast.data import load_dataset
from vitsom_fast.training import fit
from vitsom_fast.training.build import build_model, build_optimizer
from vitsom_fast.training.loop import train_epoch
from vitsom_fast.training.processes import ALONE, Processes

OPTIONS = [*("--grid", "3", "4"), "--epochs=2", "--batch-size=16", "--width=8", "--lr=1e-3", "--threads=1", "--backend=torch"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        # More parts than the 6 images that a process has of a batch of 13.
        ["--model=compact", "--accumulate=7", "--refit=2", "--distance=sqeuclidean"],
        ["--model=vit-som", "--task=classify", "--prototypes=ema"],
    ],
    ids=["cluster", "classify"],
)
def test_two_processes_follow_the_curve_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: list[str]) -> None:
    small_pictures(monkeypatch)
    command = ["train", "--data", str(write_dataset(tmp_path)), *OPTIONS, *model]
    assert cli.main([*command, "--out", str(tmp_path / "one")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vitsom_fast.cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    run = [*launch, *command, "--out", str(tmp_path / "two")]
    found = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("training in") == 1
    one, two = (json.loads((tmp_path / each / "metrics.json").read_text()) for each in ("one", "two"))
    assert two["failed"] == {}  # the report is made by one process, when the other has left
    assert two["plain_som"] == one["plain_som"]
    np.testing.assert_allclose(two["loss_per_epoch"], one["loss_per_epoch"], rtol=1e-3)
    np.testing.assert_allclose(two["som_loss_per_epoch"], one["som_loss_per_epoch"], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [3, 7, 16])
def test_parts_make_up_the_batch(size: int, count: int) -> None:
    batch = torch.arange(count)
    parts = [Processes(rank, size).part_of(batch) for rank in range(size)]
    assert torch.equal(torch.cat(parts), batch)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_is_asked_of_others() -> None:
    x = torch.rand(3)
    assert ALONE.total(x) is x
    assert ALONE.agreed("here") == "here"
    assert ALONE.is_first


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def started(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
        yield Processes(0, 4), device

    monkeypatch.setattr(importlib.import_module("vitsom_fast.training.fit"), "started_processes", started)
    named = "batch_size must leave an image for each of 4 processes, got 4: .* smallest batch has 3"
    with pytest.raises(ValueError, match=named):
        fit(tiny_config(tmp_path, batch_size=4), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_process_has_as_many_parts_and_waits_for_others_at_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of batches of 12 or 13 images, three processes have 4 or 5 each."""
    config = tiny_config(tmp_path, accumulate=9, epochs=1, backend="torch", lr=1e-3)
    dataset = load_dataset(config.dataset)
    seen = []
    for rank in range(3):
        model, waits = build_model(config, dataset), list[bool]()

        def recording(_losses: object, more: bool, waits: list[bool] = waits) -> AbstractContextManager[None]:
            waits.append(not more)
            return nullcontext()

        monkeypatch.setattr("vitsom_fast.training.loop.apart", recording)
        monkeypatch.setattr(Processes, "total", lambda _self, x: x)
        train_epoch(model, build_optimizer(model, config), dataset, config, 0, Processes(rank, 3))
        seen.append(waits)
    assert seen == [[False, False, False, True] * 4] * 3

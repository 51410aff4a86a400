"""Two processes with half of each batch follow the loss curve of one, and leave one run behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import write_dataset

from vitsom_fast import cli
from vitsom_fast.training.processes import ALONE, Processes

OPTIONS = [*("--grid", "3", "4"), "--epochs=2", "--batch-size=16", "--width=8", "--lr=1e-3", "--threads=1", "--backend=torch"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [["--model=compact"], ["--model=vit-som", "--task=classify", "--prototypes=ema"]], ids=["cluster", "classify"]
)
def test_two_processes_follow_the_curve_of_one(tmp_path: Path, model: list[str]) -> None:
    command = ["train", "--data", str(write_dataset(tmp_path)), *OPTIONS, *model]
    assert cli.main([*command, "--out", str(tmp_path / "one")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vitsom_fast.cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    run = [*launch, *command, "--out", str(tmp_path / "two")]
    found = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("training in") == 1
    one, two = (json.loads((tmp_path / each / "metrics.json").read_text()) for each in ("one", "two"))
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

"""Weights spread over processes by PyTorch's FSDP, and a map that is whole in each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from host_build import ROOT

from vitsom_fast.models import ModelSpec, build, shard


@pytest.mark.slow
def test_two_processes_follow_the_loss_of_one(tmp_path: Path) -> None:
    script = Path(__file__).parent / "sharded_steps.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(launch, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert {*found} >= {"cluster", "averages", "classify", "compact", "desom"}
    for name, each in found.items():
        assert each["below"], f"{name}: some weights below the map are not sharded"
        assert each["map"], f"{name}: the map is not the same and whole in both"
        assert each["sharded"] == pytest.approx(each["alone"], rel=1e-4), name
        assert max(each["alone"]) - min(each["alone"]) > 1e-2  # steps that are seen


def test_without_processes_it_is_refused() -> None:
    with pytest.raises(ValueError, match="within a process group"):
        shard(build(ModelSpec("desom", (1, 4, 4), grid=(2, 2)), "torch"))

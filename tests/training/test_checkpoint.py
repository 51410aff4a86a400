"""Checkpoints that are not what a run needs: each is one error that names the file and what is wrong with it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from tiny_run import small_pictures, tiny_config

from vitsom_fast import cli
from vitsom_fast.training import TrainConfig, files, fit

Tensors = dict[str, torch.Tensor]
Metadata = dict[str, str]


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    small_pictures(monkeypatch)


@pytest.fixture(scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        small_pictures(patch)
        fit(tiny_config(folder, epochs=1), folder / "run", progress=False)
    return folder / "run"


@pytest.fixture
def run(tmp_path: Path, _finished: Path) -> tuple[TrainConfig, Path]:
    """A copy of a finished run, and the path of its checkpoint."""
    shutil.copytree(_finished, tmp_path / "run")
    return tiny_config(tmp_path, epochs=1), tmp_path / "run" / files.CHECKPOINT


def rewritten(path: Path, change: Callable[[Tensors, Metadata], None]) -> None:
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    safetensors.torch.save_file(tensors, path, metadata)


def tensor(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors, Metadata], None]:
    def change(tensors: Tensors, _metadata: Metadata) -> None:
        tensors[name] = make(tensors.get(name, torch.zeros(2))).contiguous()

    return change


def without(prefix: str) -> Callable[[Tensors, Metadata], None]:
    def change(tensors: Tensors, _metadata: Metadata) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    return change


def field(name: str, text: str | None) -> Callable[[Tensors, Metadata], None]:
    def change(_tensors: Tensors, metadata: Metadata) -> None:
        if text is None:
            del metadata[name]
        else:
            metadata[name] = text

    return change


def history(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Tensors, Metadata], None]:
    def changed(_tensors: Tensors, metadata: Metadata) -> None:
        metadata["history"] = json.dumps(change(json.loads(metadata["history"])))

    return changed


PROTOTYPES = "model.som.prototypes"
DAMAGES: dict[str, tuple[Callable[[Tensors, Metadata], None], str]] = {
    "missing weights": (without(PROTOTYPES), f"{PROTOTYPES} is missing"),
    "extra weights": (tensor("model.more", lambda x: x), "model.more is no part"),
    "weights of another shape": (tensor(PROTOTYPES, lambda x: x[:5]), f"{PROTOTYPES} must be"),
    "weights of another dtype": (tensor(PROTOTYPES, lambda x: x.double()), f"{PROTOTYPES} must be .*float64"),
    "no optimizer": (without("optimizer."), "optimizer.0.exp_avg is missing"),
    "optimizer in part": (without("optimizer.1.step"), "optimizer.1.step is missing"),
    "optimizer of another shape": (tensor("optimizer.0.exp_avg", lambda x: x.flatten()), "optimizer.0.exp_avg must be"),
    "optimizer of another": (tensor("optimizer.0.momentum_buffer", lambda x: x), "momentum_buffer is no part"),
    "optimizer without a number": (tensor("optimizer.x", lambda x: x), "optimizer.x is no part"),
    "a name without a meaning": (tensor("odd", lambda x: x), "odd is no part"),
    "no random numbers": (without("rng"), "rng is missing"),
    "short random numbers": (tensor("rng", lambda x: x[:7]), "rng must be"),
    "no such random numbers": (tensor("rng", lambda x: torch.full_like(x, 255)), "rng is no state"),
    "random numbers of another dtype": (tensor("rng", lambda x: x.float()), "rng must be"),
    "no history": (field("history", None), "history"),
    "a history that is no JSON": (field("history", "[{"), "cannot be read"),
    "a history that is no list": (field("history", "{}"), "history must be"),
    "a history of something else": (field("history", "[3]"), "history must be"),
    "an epoch without its loss": (
        history(lambda epochs: [{name: epochs[0][name] for name in epochs[0] if name != "loss"}]),
        "history must be",
    ),
    "an epoch that is not finite": (history(lambda epochs: [{**epochs[0], "loss": float("nan")}]), "history must be"),
    "an epoch in words": (history(lambda epochs: [{**epochs[0], "seconds": "ten"}]), "history must be"),
    "too many epochs": (history(lambda epochs: epochs * 2), "history must have at most 1"),
    "nested too deep": (field("history", "[" * 10**5 + "]" * 10**5), "cannot be read"),
    "no settings": (field("config", None), "config"),
    "other settings": (field("config", '{"speed": 9}'), "speed"),
    "settings out of range": (field("config", '{"epochs": 0}'), "epochs"),
    "settings that are no object": (field("config", "[1, 2]"), "cannot be read"),
    "no fingerprint": (field("fingerprint", None), "fingerprint"),
    "another format": (field("format", "other"), "format"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_is_not_whole_is_one_line_and_stays(
    run: tuple[TrainConfig, Path], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    _, path = run
    change, message = DAMAGES[damage]
    rewritten(path, change)
    before = path.read_bytes()
    capsys.readouterr()
    assert cli.main(["train", "--resume", "--out", str(path.parent)]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "epoch/s" not in line)
    assert line.startswith(f"vitsom-fast: error: checkpoint '{path}' cannot be re")
    assert re.search(message, line)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)], ids=["pipe", "folder", "device"]
)
def test_what_is_no_file_is_not_waited_for(run: tuple[TrainConfig, Path], make: Callable[[Path], None]) -> None:
    config, path = run
    path.unlink()
    make(path)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors' cannot be read: it is no file"):
        fit(config, path.parent, resume=True, progress=False)


def test_a_checkpoint_needs_no_grid_beside_that_of_its_settings(run: tuple[TrainConfig, Path]) -> None:
    """As those that were written before maps saved their grid."""
    config, path = run
    rewritten(path, without("model.som._extra_state"))
    assert fit(config, path.parent, resume=True, progress=False)["failed"] == {}

"""A run that is killed, at whatever moment, loses nothing."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from soak import kill_and_resume
from tiny_run import lasting, small_pictures, tiny_config

from vitsom_fast import atomic, cli
from vitsom_fast.training import Dataset, files, fit
from vitsom_fast.training.checkpoint import load_checkpoint
from vitsom_fast.training.config import TrainConfig

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    small_pictures(monkeypatch)


class Crash(BaseException):
    """As a kill: nothing catches it."""


def checkpoint_of(folder: Path) -> Path:
    return folder / files.CHECKPOINT


def crash_after(calls: int, function: Callable[..., Any], *, before: bool = True) -> Callable[..., Any]:
    """``function``, but for the call of that number (from 0), which crashes before or after it does its work."""
    count = iter(range(10**6))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        number = next(count)
        if number == calls and before:
            raise Crash
        result = function(*args, **kwargs)
        if number == calls:
            raise Crash
        return result

    return wrapped


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, dict[str, Any], dict[str, torch.Tensor]]:
    """A config, and the report and the last tensors of its run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = tiny_config(folder)
    with pytest.MonkeyPatch.context() as patch:
        small_pictures(patch)
        report = fit(config, folder / "whole", progress=False)
    return config, report, load_checkpoint(checkpoint_of(folder / "whole")).tensors


@pytest.fixture(scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        small_pictures(patch)
        fit(tiny_config(folder, epochs=1), folder / "run", progress=False)
    return folder / "run"


@pytest.fixture
def finished(tmp_path: Path, _finished: Path) -> TrainConfig:
    """The config of a run of one epoch, which is a copy in the folder "run"."""
    shutil.copytree(_finished, tmp_path / "run")
    return tiny_config(tmp_path, epochs=1)


@pytest.mark.parametrize("stage", ["write", "fsync", "replace", "after replace"])
@pytest.mark.parametrize("call", [0, 2, 5])  # the first checkpoint, one in the middle, a picture
def test_a_crash_at_any_stage_of_a_write_loses_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: tuple[TrainConfig, dict[str, Any], dict[str, torch.Tensor]],
    stage: str,
    call: int,
) -> None:
    config, expected, expected_tensors = uninterrupted
    folder = tmp_path / "crashed"
    with monkeypatch.context() as patch:
        if stage == "write":
            patch.setattr(atomic, "open", _open_that_tears(call), raising=False)
        elif stage == "fsync":
            patch.setattr(os, "fsync", crash_after(2 * call, os.fsync))  # a file and its folder each time
        else:
            patch.setattr(os, "replace", crash_after(call, os.replace, before=stage == "replace"))
        with pytest.raises(Crash):
            fit(config, folder, progress=False)
    if checkpoint_of(folder).exists():
        load_checkpoint(checkpoint_of(folder))  # whole
    report = fit(config, folder, resume=checkpoint_of(folder).exists(), progress=False)
    assert lasting(report) == lasting(expected)
    tensors = load_checkpoint(checkpoint_of(folder)).tensors
    assert tensors.keys() == expected_tensors.keys()
    assert all(torch.equal(tensors[name], expected_tensors[name]) for name in tensors)
    assert not list(folder.glob(".*"))


def _open_that_tears(call: int) -> Callable[..., Any]:
    """open() for ``atomic``: of the file of that number only half is written, then comes the crash."""
    count = iter(range(10**6))

    def tearing_open(path: Path, mode: str) -> Any:
        file = open(path, mode)  # noqa: SIM115 (closed by the caller)
        if next(count) == call:
            write = file.write

            class Torn:
                def __enter__(self) -> Torn:
                    return self

                def __exit__(self, *_: object) -> None:
                    file.close()

                def write(self, data: bytes) -> None:
                    write(data[: len(data) // 2])
                    raise Crash

            return Torn()
        return file

    return tearing_open


def test_what_was_trained_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash_after(6, os.replace))  # checkpoint 3, after three others with latents
        with pytest.raises(Crash):
            fit(config, tmp_path / "run", progress=False)
    kept = load_checkpoint(checkpoint_of(tmp_path / "run")).history
    assert len(kept) == 2
    report = fit(config, tmp_path / "run", resume=True, progress=False)
    assert report["seconds_per_epoch"][:2] == [epoch["seconds"] for epoch in kept]


def test_resuming_a_finished_run_writes_the_results_anew(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    report = fit(config, tmp_path / "run", progress=False)
    for name in ("metrics.json", "hit_map.png"):
        (tmp_path / "run" / name).unlink()
    assert fit(config, tmp_path / "run", resume=True, progress=False) == report
    assert (tmp_path / "run" / "metrics.json").exists()
    assert (tmp_path / "run" / "hit_map.png").exists()


def test_a_run_is_never_overwritten(tmp_path: Path, finished: TrainConfig) -> None:
    before = checkpoint_of(tmp_path / "run").read_bytes()
    with pytest.raises(ValueError, match=r"run.*--resume.*another folder"):
        fit(finished, tmp_path / "run", progress=False)
    assert checkpoint_of(tmp_path / "run").read_bytes() == before


@pytest.mark.parametrize(
    ("setting", "value"), [("seed", 3), ("grid", (4, 4)), ("epochs", 9), ("lr", 0.5), ("backend", "reference")]
)
def test_other_settings_are_named(tmp_path: Path, finished: TrainConfig, setting: str, value: Any) -> None:
    before = checkpoint_of(tmp_path / "run").read_bytes()
    with pytest.raises(ValueError, match=rf"other settings: {setting}"):
        fit(replace(finished, **{setting: value}), tmp_path / "run", resume=True, progress=False)
    assert checkpoint_of(tmp_path / "run").read_bytes() == before


def test_nothing_to_resume_is_said_and_nothing_is_made(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing to resume in '.*run'"):
        fit(config, tmp_path / "run", resume=True, progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="out"):
        fit(config, resume=True, progress=False)


def test_the_images_may_have_moved(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, epochs=1)
    report = fit(config, tmp_path / "run", progress=False)
    (tmp_path / "elsewhere").mkdir()
    moved = Path(config.dataset).rename(tmp_path / "elsewhere" / "other.npz")
    found = fit(replace(config, dataset=str(moved)), tmp_path / "run", resume=True, progress=False)
    assert found["loss_per_epoch"] == report["loss_per_epoch"]


@pytest.mark.parametrize("moment", ["fingerprint", "build", "mkdir", "claim"])
def test_a_kill_before_the_first_checkpoint_leaves_nothing_that_resumes_as_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config(tmp_path, seed=5)
    module = importlib.import_module("vitsom_fast.training.fit")
    with monkeypatch.context() as patch:
        if moment == "fingerprint":
            patch.setattr(Dataset, "fingerprint", crash_after(0, Dataset.fingerprint))
        elif moment == "build":
            patch.setattr(module, "build_optimizer", crash_after(0, module.build_optimizer))
        elif moment == "mkdir":
            patch.setattr(Path, "mkdir", crash_after(0, Path.mkdir, before=False))
        else:
            patch.setattr(module, "claimed", crash_after(0, module.claimed))
        with pytest.raises(Crash):
            fit(config, tmp_path / "run", progress=False)
    assert (tmp_path / "run").exists() == (moment == "mkdir")
    assert cli.main(["train", "--resume", "--out", str(tmp_path / "run")]) == 2
    assert not checkpoint_of(tmp_path / "run").exists()


def test_other_images_under_the_same_name_are_noticed(tmp_path: Path, finished: TrainConfig) -> None:
    np.savez(finished.dataset, images=np.random.default_rng(1).random((50, 4, 6)))
    with pytest.raises(ValueError, match=r"data set .* has changed"):
        fit(finished, tmp_path / "run", resume=True, progress=False)


def _truncated(data: bytes) -> bytes:
    return data[: len(data) - 7]


@pytest.mark.parametrize(
    "damage",
    [_truncated, lambda _: b"", lambda _: b"garbage" * 100, lambda _: safetensors.torch.save({"x": torch.zeros(1)})],
    ids=["truncated", "empty", "garbage", "another format"],
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, finished: TrainConfig, damage: Callable[[bytes], bytes]) -> None:
    path = checkpoint_of(tmp_path / "run")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"run/checkpoint\.safetensors' cannot be read"):
        fit(finished, tmp_path / "run", resume=True, progress=False)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with files.claimed(tmp_path / "run"):
        (tmp_path / "run" / ".checkpoint.safetensors.tmp").write_bytes(b"being written")
        with pytest.raises(ValueError, match="in use"):
            fit(tiny_config(tmp_path), tmp_path / "run", progress=False)
        assert (tmp_path / "run" / ".checkpoint.safetensors.tmp").exists()


def test_a_file_in_the_place_of_the_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="out must be a folder"):
        fit(tiny_config(tmp_path), tmp_path / "run", progress=False)
    assert (tmp_path / "run").read_text() == "mine"


_run = kill_and_resume._run


def run_with_small_pictures(config: TrainConfig, out: Path) -> None:
    small_pictures(pytest.MonkeyPatch())
    _run(config, out)


def test_killed_processes_resume_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill_and_resume, "_run", run_with_small_pictures)
    config = tiny_config(tmp_path, epochs=8, grid=(10, 10))
    assert kill_and_resume.kill_and_resume(config, tmp_path, kills=1, seed=0, report=print) == []

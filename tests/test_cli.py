"""The command line: options, messages, exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import small_pictures, write_dataset

import vitsom_fast
from vitsom_fast import cli
from vitsom_fast.training import TrainConfig, files

TINY = [*("--grid", "3", "4"), "--epochs=2", "--batch-size=16", "--width=8", "--depth=1", "--decoder-width=4", "--threads=1"]


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    small_pictures(monkeypatch)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A ``train`` command of a fraction of a second, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return ["train", "--dataset", str(write_dataset(tmp_path)), *TINY]


def metrics_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / files.METRICS).read_text())
    return report


def test_train_compares_with_the_plain_som_and_says_where_the_run_is(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*tiny, "--seed", "3", "--backend", "torch", "--out", "here"]) == 0
    captured = capsys.readouterr()
    report = metrics_of(Path("here"))
    for name in ("purity", "nmi"):
        assert f"{name:<20}{report[name]:>9.4f}{report['plain_som'][name]:>11.4f}" in captured.out
    assert "here" in captured.out
    assert "2/2" in captured.err  # the progress bar
    assert "loss=" in captured.err
    assert report["config"]["seed"] == 3
    assert report["config"]["grid"] == [3, 4]
    assert report["backend"] == "torch"


def test_every_setting_is_an_option_that_reaches_the_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, TrainConfig] = {}

    def recording(config: TrainConfig, out: Path, *, resume: bool) -> None:
        seen["config"] = config
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "fit", recording)
    values = ["photo-patches", (5, 6), "hexagonal", False, 7, 8, 9, "torch", "cpu", 1, 0.5, 4.0, 0.4, 0.2, 0.1, 2.0, 0.3, 0.02]
    expected = TrainConfig(*values, patch=4, width=8, depth=3, heads=1, decoder_width=4, decoder_depth=2)
    command = ["train", "--out", str(tmp_path / "run")]
    for setting in fields(TrainConfig):
        value = getattr(expected, setting.name)
        if not isinstance(value, bool):
            command += [f"--{setting.name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
    assert cli.main(command) == 130
    assert seen["config"] == expected
    assert cli.main([*command, "--periodic", "--grid", "6", "6"]) == 130
    assert seen["config"].periodic


def test_each_run_gets_a_folder_of_its_own(tiny: list[str]) -> None:
    for _ in range(2):
        assert cli.main(tiny) == 0
    assert metrics_of(Path("runs/tiny"))["loss_per_epoch"] == metrics_of(Path("runs/tiny-2"))["loss_per_epoch"]


def test_resume_takes_the_newest_run_and_its_settings(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(tiny)
    cli.main([*tiny, "--seed", "8"])
    dataset = tiny[1:3]
    (Path("runs/tiny-2") / files.METRICS).unlink()
    assert cli.main(["train", *dataset, "--resume"]) == 0
    assert metrics_of(Path("runs/tiny-2"))["config"]["seed"] == 8
    assert "resuming in runs/tiny-2" in capsys.readouterr().out


def test_resume_before_the_first_checkpoint_begins(tiny: list[str]) -> None:
    assert cli.main([*tiny, "--resume", "--out", "here"]) == 0
    assert len(metrics_of(Path("here"))["loss_per_epoch"]) == 2


def failed(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failing command prints to stderr."""
    capsys.readouterr()
    assert cli.main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("vitsom-fast: error: ")
    return line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--grid", "0", "4"], "rows"),
        (["--epochs", "0"], "epochs"),
        (["--dataset", "mnist"], "dataset"),
        (["--dataset", "absent.npz"], "absent.npz"),
        (["--backend", "cuda"], "cuda"),
        (["--backend", "gpu"], "backend"),
        (["--device", "tpu"], "device"),
        (["--patch", "5"], "patch"),
        (["--topology", "round"], "topology"),
        (["--lr", "nan"], "lr"),
    ],
)
def test_errors_are_one_line_that_names_the_option(
    tiny: list[str], capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    assert named in failed([*tiny, *options], capsys)
    assert not Path("runs").exists()


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([*tiny, "--out", "here"])
    before = (Path("here") / files.CHECKPOINT).read_bytes()
    assert "--resume" in failed([*tiny, "--out", "here"], capsys)
    assert "seed" in failed([*tiny, "--out", "here", "--resume", "--seed", "1"], capsys)
    assert (Path("here") / files.CHECKPOINT).read_bytes() == before
    (Path("here") / files.CHECKPOINT).write_bytes(before[:100])
    assert "checkpoint.safetensors" in failed([*tiny, "--out", "here", "--resume"], capsys)


def test_unknown_options_exit_with_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--speed", "9"])
    assert stopped.value.code == 2


def test_new_run_folders_are_counted_by_number(tmp_path: Path) -> None:
    made = []
    for _ in range(11):
        folder = files.new_run_folder("digits", tmp_path)
        folder.mkdir()
        made.append(folder.name)
    assert made == ["digits", *(f"digits-{number}" for number in range(2, 12))]
    (tmp_path / "digits-old").mkdir()
    assert files.newest_run_folder("digits", tmp_path) == tmp_path / "digits-11"  # not digits-9
    assert files.newest_run_folder("faces", tmp_path) == tmp_path / "faces"


def test_info_says_what_can_run_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for expected in (vitsom_fast.__version__, torch.__version__, torch.backends.cpu.get_cpu_capability(), "auto on cpu: "):
        assert expected in out
    for name, reason in vitsom_fast.available_backends().items():
        (line,) = (line for line in out.splitlines() if line.startswith(f"  {name} "))
        assert (reason or "can run") in line


def test_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "vitsom_fast.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(vitsom_fast.__file__).parents[1], check=True)
    assert vitsom_fast.__version__ in done.stdout

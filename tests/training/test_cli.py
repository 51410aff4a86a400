"""The command line: options, messages, exit status."""

from __future__ import annotations

import errno
import io
import json
import os
import runpy
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

    def recording(config: TrainConfig, out: Path, **_options: Any) -> None:
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


def failed(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failing command prints to stderr."""
    capsys.readouterr()
    assert cli.main(command) == 2
    (line,) = (line for line in capsys.readouterr().err.strip().splitlines() if "epoch/s" not in line)
    assert line.startswith("vitsom-fast: error: ")
    return line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--grid", "0", "4"], "rows"),
        (["--epochs", "0"], "epochs"),
        (["--dataset", "imagenet"], "dataset"),
        (["--dataset", "absent.npz"], "absent.npz"),
        (["--backend", "cuda"], "cuda"),
        (["--backend", "gpu"], "backend"),
        (["--device", "tpu"], "device"),
        (["--patch", "5"], "patch"),
        (["--topology", "round"], "topology"),
        (["--lr", "nan"], "lr"),
        (["--lr", "1e38"], "lr"),
        (["--seed", str(10**20)], "seed"),
        (["--threads", "100000"], "threads"),
        (["--width", str(10**20)], "width"),
        (["--grid", "1000000", "1000000"], "grid"),
        (["--resume"], "nothing to resume in 'runs/tiny'"),
        (["--resume", "--out", "typo"], "nothing to resume in 'typo'"),
    ],
)
def test_errors_are_one_line_that_names_the_option(
    tiny: list[str], capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    assert named in failed([*tiny, *options], capsys)
    assert not Path("runs").exists()
    assert not Path("typo").exists()


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([*tiny, "--out", "here"])
    before = (Path("here") / files.CHECKPOINT).read_bytes()
    assert "--resume" in failed([*tiny, "--out", "here"], capsys)
    assert "seed" in failed([*tiny, "--out", "here", "--resume", "--seed", "1"], capsys)
    assert (Path("here") / files.CHECKPOINT).read_bytes() == before
    (Path("here") / files.CHECKPOINT).write_bytes(before[:100])
    assert "checkpoint.safetensors" in failed([*tiny, "--out", "here", "--resume"], capsys)


def test_a_training_that_diverges_in_its_last_step_is_no_success(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = [*tiny, "--lr", "1e30", "--epochs", "1", "--batch-size", "64", "--out", "here"]
    assert cli.main(command) == 1
    assert "quantization_error (it is nan: the training diverged, try a lower lr)" in capsys.readouterr().err
    assert "NaN" not in (Path("here") / files.METRICS).read_text()
    assert metrics_of(Path("here"))["quantization_error"] is None


def test_resume_finds_the_images_in_another_place(tiny: list[str]) -> None:
    assert cli.main([*tiny, "--out", "here"]) == 0
    Path("tiny.npz").rename("moved.npz")
    assert cli.main(["train", "--resume", "--out", "here"]) == 2
    assert cli.main(["train", "--resume", "--out", "here", "--dataset", "./moved.npz"]) == 0


@pytest.mark.parametrize("error", [RuntimeError("no memory\nat all"), MemoryError(), OverflowError("too large")], ids=repr)
def test_what_fails_below_is_one_line(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_args: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "fit", failing)
    assert type(error).__name__ in failed(tiny, capsys)


class Broken(io.StringIO):
    """stdout whose reader is gone: its second line fails."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.replaced = os.pipe()[1]

    def flush(self) -> None:
        if self.getvalue().count("\n") > 1:
            raise OSError(self.number, os.strerror(self.number))

    def fileno(self) -> int:
        return self.replaced


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_a_reader_that_has_read_enough_is_no_error(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    stdout = Broken(number)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stdout)
        assert cli.main([*tiny, "--out", "here"]) == 0
    assert metrics_of(Path("here"))["failed"] == {}
    assert "error" not in capsys.readouterr().err
    # What Python still has to write at its end goes nowhere.
    assert os.path.samestat(os.fstat(stdout.replaced), os.stat(os.devnull))


def test_a_full_disk_behind_stdout_is_an_error(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", Broken(errno.ENOSPC))
        assert cli.main([*tiny, "--out", "here"]) == 2


def test_an_error_that_cannot_be_told_keeps_its_status(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr is a file on a full disk."""
    stderr = Broken(errno.ENOSPC)
    stderr.write("\n")
    monkeypatch.setattr("sys.stderr", stderr)
    assert cli.main([*tiny, "--dataset", "imagenet"]) == 2


def test_names_that_the_terminal_cannot_show_are_escaped(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert cli.main([*tiny, "--out", "caf\u00e9"]) == 0
    assert b"training in caf\\xe9" in written.getvalue()


def test_closed_streams_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next file would get the number of stderr, and whatever C++ code warns of."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert cli.main(["info"]) == 0
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        assert stream.name == os.devnull
        stream.close()


def test_unknown_options_exit_with_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--speed", "9"])
    assert stopped.value.code == 2


def test_info_says_what_can_run_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for expected in (vitsom_fast.__version__, torch.__version__, torch.backends.cpu.get_cpu_capability(), "auto on cpu: "):
        assert expected in out
    for name, reason in vitsom_fast.available_backends().items():
        (line,) = (line for line in out.splitlines() if line.startswith(f"  {name} "))
        assert (reason or "can run") in line


def test_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["cli", "--version"])
    monkeypatch.delitem(sys.modules, "vitsom_fast.cli")  # runpy warns of what it is to run and is there already
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("vitsom_fast.cli", run_name="__main__")
    assert not ended.value.code
    assert vitsom_fast.__version__ in capsys.readouterr().out


def run_command(before: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, after a line of Python."""
    program = f"{before}; import sys, vitsom_fast_command; sys.exit(vitsom_fast_command.main())"
    command = [sys.executable, "-c", program, *arguments]
    root = Path(vitsom_fast.__file__).parents[1]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ, **environment}, check=False)


INTERRUPTED_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
class Interrupted:
    def find_spec(self, name, *_):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupted())
""".strip()


def test_ctrl_c_while_it_is_imported_is_one_line() -> None:
    done = run_command(f"exec({INTERRUPTED_IMPORT!r})", "train")
    assert done.returncode == 130
    assert done.stderr == "vitsom-fast: stopped\n"


def test_the_command_runs_whatever_windows_matplotlib_is_told_to_open() -> None:
    done = run_command("pass", "--version", MPLBACKEND="nonsense")
    assert (done.returncode, done.stderr) == (0, "")
    assert vitsom_fast.__version__ in done.stdout

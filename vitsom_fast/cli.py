"""The command line."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

import vitsom_fast
from vitsom_fast import backends
from vitsom_fast.commands import evaluate, predict, reproduce, tables
from vitsom_fast.commands.say import say
from vitsom_fast.messages import one_line
from vitsom_fast.training import TrainConfig, fit, recipes
from vitsom_fast.training.checkpoint import load_checkpoint
from vitsom_fast.training.files import CHECKPOINT, newest_run_folder
from vitsom_fast.training.recipes import recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0; 1 where a run has ended but a part of its report could not be made; 2 for an error, one line on
        stderr; 130 for Ctrl-C.
    """
    _open_closed_streams()
    options = vars(_parser().parse_args(arguments))
    run = options.pop("run")
    try:
        return int(run(**options))
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        return _failure(2, str(error))
    except (RuntimeError, MemoryError, ArithmeticError) as error:  # of PyTorch: no memory left, for one
        return _failure(2, one_line(error))
    except KeyboardInterrupt:
        say(f"vitsom-fast: stopped{_GOES_ON.get(run, '')}", sys.stderr)
        return 130


def train(out: Path | None = None, resume: bool = False, preset: str | None = None, **settings: Any) -> int:
    """Train with the default settings, or those of a preset, but for ``settings``; a resumed run keeps those it was started
    with."""
    base = recipe(preset) if preset else TrainConfig()
    if resume:
        out = out or newest_run_folder(settings.get("dataset", base.dataset))
        base = load_checkpoint(out / CHECKPOINT).config
    elif settings.get("task") == "classify" != base.task:
        settings.setdefault("model", "vit-som")  # of those that can, the default
    config = replace(base, **settings)
    folder = Path()

    def started(run_folder: Path) -> None:
        nonlocal folder
        folder = run_folder
        say(f"{'resuming' if resume else 'training'} in {folder}")

    report = fit(config, out, resume=resume, started=started)
    if not report:  # of several processes not the first
        return 0
    say(_summary(report, config, folder))
    if report["failed"]:
        parts = ", ".join(f"{part} ({reason})" for part, reason in report["failed"].items())
        return _failure(1, f"the report lacks {parts}; --resume tries again")
    return 0


# How what was stopped goes on.
_GOES_ON = {
    train: "; --resume goes on from the last finished epoch",
    reproduce.run: "; the same command goes on with what is not there yet",
}


def _failure(status: int, message: str) -> int:
    with suppress(OSError):
        say(f"vitsom-fast: error: {' '.join(message.split())}", sys.stderr)
    return status


def _open_closed_streams() -> None:
    """A stream that was closed before the start leaves its number to the next file, and that to whoever writes there."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 (for the whole process)


def info() -> int:
    """Print versions, instruction sets, GPUs and backends."""
    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    gpus = [f"{device}: {torch.cuda.get_device_name(device)}" for device in devices[1:]] or ["none that torch can use"]
    lines = [
        f"vitsom_fast  {vitsom_fast.__version__}",
        f"Python       {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"torch        {torch.__version__}, {torch.get_num_threads()} threads",
        f"triton       {_version('triton') or 'not installed'}",
        f"CPU          torch uses {torch.backends.cpu.get_cpu_capability()}; {_instruction_sets()}",
        *(f"GPU          {gpu}" for gpu in gpus),
        "backends",
    ]
    for name, reason in vitsom_fast.available_backends().items():
        lines.append(f"  {name:<11}{'can run' if reason is None else f'cannot run: {reason}'}")
    for device in devices:
        lines.append(f"  auto on {device}: {backends.resolve('auto', backends.Spec(device, torch.float32))}")
    say("\n".join(lines))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vitsom-fast", description="Self-Organizing Maps on Vision Transformers.")
    parser.add_argument("--version", action="version", version=f"vitsom-fast {vitsom_fast.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    training = commands.add_parser(
        "train",
        help="train a ViT-SOM and draw its map",
        description="Train a ViT-SOM and leave a checkpoint, metrics.json and pictures of the map in a run folder.",
        argument_default=argparse.SUPPRESS,  # what is not given comes from the config, or from the run to go on with
    )
    training.set_defaults(run=train)
    for setting in fields(TrainConfig):
        _add_option(training, setting.name, setting.default, setting.metadata["help"])
    names = ", ".join(recipes.NAMES)
    training.add_argument("--preset", choices=recipes.NAMES, metavar="NAME", help=f"settings to begin with: {names}")
    training.add_argument("--out", type=Path, help="run folder (default: a new one, runs/DATASET)")
    training.add_argument(
        "--resume", action="store_true", help="go on with the run in --out (default: the newest of the data set) after a stop"
    )

    tables.add_commands(commands, say)
    evaluate.add_to(commands)
    predict.add_to(commands)
    reproduce.add_to(commands)
    commands.add_parser("info", help="print versions, hardware and backends").set_defaults(run=info)
    return parser


def _add_option(parser: argparse.ArgumentParser, name: str, default: Any, help: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    flags = [flag, "--data"] if name == "dataset" else [flag]
    if isinstance(default, bool):
        parser.add_argument(flag, action="store_true", help=help)
    elif isinstance(default, tuple):
        text = " ".join(map(str, default))
        parser.add_argument(flag, type=int, nargs=2, metavar=("ROWS", "COLS"), help=f"{help} (default: {text})")
    else:
        parser.add_argument(*flags, type=type(default), metavar=name.upper(), help=f"{help} (default: {default})")


_NAMES = {"compact": "ViT-SOM", "vit-som": "ViT-SOM", "vit": "ViT", "desom": "DESOM", "som-vae": "SOM-VAE"}


def _summary(report: dict[str, Any], config: TrainConfig, out: Path) -> str:
    from vitsom_fast.training.report import METRIC_NAMES

    plain = report["plain_som"] or {}
    rows, cols = config.grid
    seconds = sum(report["seconds_per_epoch"])
    accuracy = report["accuracy"] or {}
    apart = report["held_out"] or {}
    lines = [
        f"\n{report['dataset']['name']}, {rows} x {cols} units, backend {report['backend']}, {seconds:.1f} s of training",
        f"{'':<20}{_NAMES[config.model]:>9}{'plain SOM':>11}",
    ]
    for name in METRIC_NAMES:
        values = [_number(report[name]), _number(plain.get(name))]
        lines.append(f"{name.replace('_', ' '):<20}{values[0]:>9}{values[1]:>11}")
    lines += [f"{'accuracy, ' + half:<20}{_number(value):>9}" for half, value in accuracy.items() if value is not None]
    lines += [f"{'held out, ' + name:<20}{_number(value):>9}" for name, value in apart.items()]
    return "\n".join([*lines, f"checkpoint, metrics and pictures: {out}"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _instruction_sets() -> str:
    names = backends.cpu.instruction_sets()
    return f"vitsom_fast uses {', '.join(names)}" if names else "vitsom_fast's own kernels are not there"


if __name__ == "__main__":
    sys.exit(main())

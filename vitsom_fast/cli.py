"""The command line: ``vitsom-fast train`` and ``vitsom-fast info``."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

import vitsom_fast
from vitsom_fast import backends
from vitsom_fast.training import TrainConfig, fit
from vitsom_fast.training.checkpoint import load_checkpoint
from vitsom_fast.training.files import CHECKPOINT, new_run_folder, newest_run_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 2 for an error of the user (one line on stderr), 130 for Ctrl-C."""
    options = vars(_parser().parse_args(arguments))
    try:
        return int(options.pop("run")(**options))
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print(f"vitsom-fast: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vitsom-fast: stopped; --resume goes on from the last finished epoch", file=sys.stderr)
        return 130


def train(out: Path | None = None, resume: bool = False, **settings: Any) -> int:
    """Train with the default settings but for ``settings``; a resumed run keeps those it was started with."""
    dataset = settings.get("dataset", TrainConfig.dataset)
    base = TrainConfig()
    if resume:
        out = out or newest_run_folder(dataset)
        if (out / CHECKPOINT).exists():
            base = load_checkpoint(out / CHECKPOINT).config
    config = replace(base, **settings)  # checked before a folder is made
    out = out or new_run_folder(dataset)
    print(f"{'resuming' if resume else 'training'} in {out}", flush=True)
    _print_summary(fit(config, out, resume=resume), config, out)
    return 0


def info() -> int:
    """Print versions, instruction sets, GPUs and backends."""
    print(f"vitsom_fast  {vitsom_fast.__version__}")
    print(f"Python       {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"torch        {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"triton       {_version('triton') or 'not installed'}")
    print(f"CPU          torch uses {torch.backends.cpu.get_cpu_capability()}; {_instruction_sets()}")
    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    for device in devices[1:]:
        print(f"GPU          {device}: {torch.cuda.get_device_name(device)}")
    if len(devices) == 1:
        print("GPU          none that torch can use")
    print("backends")
    for name, reason in vitsom_fast.available_backends().items():
        print(f"  {name:<11}{'can run' if reason is None else f'cannot run: {reason}'}")
    for device in devices:
        print(f"  auto on {device}: {backends.resolve('auto', device, torch.float32)}")
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
    training.add_argument("--out", type=Path, help="run folder (default: a new one, runs/DATASET)")
    training.add_argument(
        "--resume", action="store_true", help="go on with the run in --out (default: the newest of the data set) after a stop"
    )

    commands.add_parser("info", help="print versions, hardware and backends").set_defaults(run=info)
    return parser


def _add_option(parser: argparse.ArgumentParser, name: str, default: Any, help: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(default, bool):
        parser.add_argument(flag, action="store_true", help=help)
    elif isinstance(default, tuple):
        text = " ".join(map(str, default))
        parser.add_argument(flag, type=int, nargs=2, metavar=("ROWS", "COLS"), help=f"{help} (default: {text})")
    else:
        parser.add_argument(flag, type=type(default), metavar=name.upper(), help=f"{help} (default: {default})")


def _print_summary(report: dict[str, Any], config: TrainConfig, out: Path) -> None:
    plain = report["plain_som"] or {}
    rows, cols = config.grid
    seconds = sum(report["seconds_per_epoch"])
    print(f"\n{report['dataset']['name']}, {rows} x {cols} units, backend {report['backend']}, {seconds:.1f} s of training")
    print(f"{'':<20}{'ViT-SOM':>9}{'plain SOM':>11}")
    for name in ("purity", "nmi", "quantization_error", "topographic_error"):
        values = [_number(report[name]), _number(plain.get(name))]
        print(f"{name.replace('_', ' '):<20}{values[0]:>9}{values[1]:>11}")
    print(f"checkpoint, metrics and pictures: {out}")


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

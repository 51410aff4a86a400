"""``vitsom-fast reproduce clustering|classification``: the paper's comparisons as a table."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

from vitsom_fast.commands.say import say
from vitsom_fast.data import Splits, load_splits
from vitsom_fast.training.files import RUNS
from vitsom_fast.training.machine import usable_device

_VALIDATION_SHARE = 0.2


def add_to(commands: Any) -> None:
    """Add the command to a parser's ``add_subparsers``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "reproduce",
        help="the paper's comparisons, as a table",
        description="Train the models of the paper side by side; prints and keeps a table of means and standard deviations."
        " What was stopped goes on where it was when started again.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("task", choices=("clustering", "classification"))
    parser.add_argument("--data", default="digits-affine", help="data set with a test half (default: digits-affine)")
    parser.add_argument("--image-size", type=int, default=0, metavar="PIXELS", help="pixels a side (default: as they are)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each model (default: 3)")
    parser.add_argument("--budget", type=float, default=40.0, metavar="MINUTES", help="for everything (default: 40)")
    parser.add_argument("--epochs", type=int, default=0, help="of every model, in place of a budget")
    parser.add_argument("--sides", type=int, nargs="+", default=[8, 16, 24], help="units a side of maps (default: 8 16 24)")
    parser.add_argument("--images", type=int, nargs="+", help="to train on (default: all; 1000 5000 20000 to classify)")
    parser.add_argument("--only", nargs="+", default=[], metavar="MODEL", help="of clustering: names of models as in the table")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--device", default="cpu", help="where to train (default: cpu)")
    parser.add_argument("--validation", action="store_true", help="hold out a fifth of the training half instead")
    parser.add_argument("--out", type=Path, help="folder of the results (default: runs/reproduce-TASK)")


def run(
    task: str,
    data: str,
    image_size: int,
    seeds: int,
    budget: float,
    epochs: int,
    sides: list[int],
    images: list[int] | None,
    only: list[str],
    threads: int,
    device: str,
    validation: bool,
    out: Path | None,
) -> int:
    """Make and print a table.

    Raises:
        FileNotFoundError, ValueError: a data set that cannot be had or has no test half, a number out of its range, a folder
            that holds results of other settings.
    """
    from vitsom_fast.reproduction import classification, clustering

    for name, number in (("seeds", seeds), ("budget", budget), ("sides", min(sides)), ("images", min(images or [1]))):
        if not number > 0:
            raise ValueError(f"{name} must be above 0, got {number}")
    if epochs < 0 or threads < 0:
        raise ValueError(f"epochs and threads must be at least 0, got {epochs} and {threads}")
    if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise ValueError(f"reproduce must run in one process, got {processes}: start it without torchrun")
    if task == "clustering" and images and len(images) > 1:
        raise ValueError(f"images must be one number for clustering, got {images}")
    usable_device(device)
    splits = load_splits(data, image_size)
    if validation:
        splits = Splits(*splits.train.held_out(_VALIDATION_SHARE))
    folder = out or RUNS / f"reproduce-{task}"
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    shared: dict[str, Any] = {"seeds": seeds, "minutes": budget, "epochs": epochs, "device": device, "tell": say}
    try:
        if task == "clustering":
            if images:
                splits = splits._replace(train=splits.train.part(torch.arange(min(images[0], len(splits.train)), device="cpu")))
            text = clustering(splits, folder, sides=sides, contenders=only, **shared)
        else:
            chosen = images or [count for count in (1000, 5000, 20000) if count <= len(splits.train)] or [len(splits.train)]
            text = classification(splits, folder, images=chosen, **shared)
    finally:
        torch.set_num_threads(before)
    say(f"\n{text}\nresults: {folder}")
    return 0

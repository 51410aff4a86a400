"""``vitsom-fast predict RUN IMAGES``: the unit, its distance and its class of pictures, by a finished run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitsom_fast.commands import tables
from vitsom_fast.commands.say import say
from vitsom_fast.data.arrays import load_npz
from vitsom_fast.data.dataset import as_floats
from vitsom_fast.data.pictures import SUFFIXES, read_pictures
from vitsom_fast.models import MapModel, ViTClassifier, load_model

_CHUNK = 512


def add_to(commands: Any) -> None:
    """Add the command to a parser's ``add_subparsers``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "predict",
        help="the units of pictures on a run's map, or of the rows of a table on a map that fit made",
        description="With RUN and IMAGES, print a line for each picture, separated by tabs: its name, unit, distance to it, and"
        " class. With --map, write the unit of each row of a CSV, Parquet or NPY file to a CSV file.",
    )
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="a run's folder, then pictures, folders of them or an .npz file; with --map a table",
    )
    parser.add_argument("--map", type=Path, help="the folder that vitsom-fast fit wrote")
    parser.add_argument("--out", type=Path, help="with --map, a CSV file (default: NAME-units.csv beside the table)")
    parser.set_defaults(run=run)


def run(paths: Sequence[Path], map: Path | None = None, out: Path | None = None) -> int:
    """Print a line for each picture, or write the units of a table.

    Raises:
        FileNotFoundError, ValueError: no finished run or map, or pictures or a table that cannot be read.
    """
    if map is not None:
        if len(paths) > 1:
            raise ValueError(f"data must be one table with --map, got {[str(path) for path in paths]}")
        return tables.predict(paths[0], map, out, say)
    if len(paths) < 2:
        raise ValueError(f"images must be given after the run {str(paths[0])!r}, or --map for a table")
    if out is not None:
        raise ValueError(f"out is where the units of a table go, with --map, got {str(out)!r} without")
    return _pictures_of(paths[0], paths[1:])


def _pictures_of(folder: Path, images: Sequence[Path]) -> int:
    model = load_model(folder)
    channels, height, width = model.image_shape
    names, pixels = _pictures(images, channels, height, width)
    if isinstance(model, ViTClassifier):
        say("image\tclass")
        for first in range(0, len(names), _CHUNK):
            with torch.no_grad():
                found = model.classify(as_floats(pixels[first : first + _CHUNK])).argmax(1)
            say("\n".join(f"{name}\t{_name(model, index)}" for name, index in zip(names[first:], found.tolist(), strict=False)))
        return 0
    say("image\tunit\tdistance\tclass")
    for first in range(0, len(names), _CHUNK):
        parts = [part.tolist() for part in model.predict(pixels[first : first + _CHUNK])]
        rows = zip(names[first:], *parts, strict=False)
        say("\n".join(f"{name}\t{unit}\t{distance:.6g}\t{_name(model, index)}" for name, unit, distance, index in rows))
    return 0


def _pictures(paths: Sequence[Path], channels: int, height: int, width: int) -> tuple[list[str], Tensor]:
    if len(paths) == 1 and paths[0].suffix == ".npz":
        dataset = load_npz(paths[0]).train
        return [str(index) for index in range(len(dataset))], dataset.pixels
    files: list[Path] = []
    for path in paths:
        inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        files += inside
    if not files:
        raise FileNotFoundError(f"images must be pictures, got none in {[str(path) for path in paths]}")
    size = height if height == width else 0
    return [str(path) for path in files], read_pictures(files, size, channels)


def _name(model: MapModel | ViTClassifier, index: int) -> str:
    if index < 0:
        return "-"
    return model.classes[index] if index < len(model.classes) else str(index)

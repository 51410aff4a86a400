"""``vitsom-fast evaluate RUN``: how good a finished run's model is, on its own data or on others."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitsom_fast.commands.say import say
from vitsom_fast.data import Dataset, load_splits
from vitsom_fast.models import MapModel, ViTClassifier, ViTSOM, load_model
from vitsom_fast.training.evaluate import accuracy, evaluate, held_out
from vitsom_fast.training.files import METRICS


def add_to(commands: Any) -> None:
    """Add the command to a parser's ``add_subparsers``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate",
        help="how good a finished run is",
        description="Metrics of a finished run's model, on each half of its data set or of another of the same image shape.",
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--data", "--dataset", dest="data", help="another data set (default: that of the run)")
    parser.set_defaults(run=run)


def run(folder: Path, data: str | None = None) -> int:
    """Print, as JSON, the metrics of each half.

    Raises:
        FileNotFoundError, ValueError: no finished run, or a data set that cannot be had or is of another shape.
    """
    model = load_model(folder)
    config: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError, KeyError):  # one of another kind names no data
        config = dict(json.loads((folder / METRICS).read_text())["config"])
    if data is None and "dataset" not in config:
        raise ValueError(f"data must be given: {str(folder)!r} has no {METRICS} that names its own")
    splits = load_splits(config["dataset"] if data is None else data, config.get("image_size", 0))
    found = {half: _metrics(model, part) for half, part in splits._asdict().items() if part is not None}
    say(json.dumps(found, indent=2))
    return 0


def _metrics(model: MapModel | ViTClassifier, dataset: Dataset) -> dict[str, Any]:
    if dataset.image_shape != model.image_shape:
        raise ValueError(f"data must have images of shape {model.image_shape} as the run has, got {dataset.image_shape}")
    dataset = _by_the_classes_of(model, dataset)
    found: dict[str, Any] = {"images": len(dataset)}
    if isinstance(model, MapModel):
        evaluation = evaluate(model, dataset)
        for name in ("purity", "nmi", "quantization_error", "topographic_error"):
            found[name] = getattr(evaluation, name)
        if model.unit_classes is not None:
            of_units = held_out(model.unit_classes, evaluation.bmu, dataset.labels)
            found["accuracy_of_units"] = of_units and of_units["accuracy"]
    if isinstance(model, ViTClassifier) or (isinstance(model, ViTSOM) and model.head is not None):
        found["accuracy"] = accuracy(model, dataset)
    return found


def _by_the_classes_of(model: MapModel | ViTClassifier, dataset: Dataset) -> Dataset:
    """Labels numbered as the model numbers its classes; one that it does not know is none."""
    if dataset.labels is None or not model.classes or dataset.classes == model.classes:
        return dataset
    number = {name: index for index, name in enumerate(model.classes)}
    numbers = torch.tensor(
        [*(number.get(name, -1) for name in dataset.classes), -1], dtype=torch.int64, device="cpu"
    )  # the last is that of -1
    return replace(dataset, labels=numbers[dataset.labels], classes=model.classes)

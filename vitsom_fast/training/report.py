"""What a finished run leaves behind: metrics.json and the pictures of its map."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import vitsom_fast
from vitsom_fast.atomic import write_atomically
from vitsom_fast.data import Splits
from vitsom_fast.models import MapModel, ViTClassifier, ViTSOM, class_of_units, pretrained
from vitsom_fast.training.config import TrainConfig
from vitsom_fast.training.evaluate import Evaluation, accuracy, evaluate, evaluate_plain_som, held_out
from vitsom_fast.training.files import METRICS
from vitsom_fast.training.noted import noted
from vitsom_fast.training.page import PAGE, page
from vitsom_fast.training.pictures import PICTURES, draw

METRIC_NAMES = ("purity", "nmi", "quantization_error", "topographic_error")


def write_report(
    folder: Path,
    model: MapModel | ViTClassifier,
    splits: Splits,
    config: TrainConfig,
    backend: str,
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    """Evaluate a model and write the pictures that it has (``pictures.PICTURES``), ``model.safetensors``, ``index.html`` with
    pictures and numbers and, last, ``metrics.json``; no prototypes are drawn where no decoder was trained.

    A part that fails, for want of memory say, costs no more than itself: its number is null or its picture not there, and
    ``failed`` says why. The training before it may have taken days.

    Args:
        backend: the backend that ``config.backend`` stands for here.
        history: of ``fit``.

    Returns:
        What ``metrics.json`` holds.
    """
    failed: dict[str, str] = {}
    chunk = min(config.batch_size, 512)  # what fitted into memory in training fits now
    dataset = splits.train
    evaluation = None
    apart: dict[str, Any] = {"held_out": None, "accuracy": None}
    model.classes = dataset.classes
    if isinstance(model, MapModel):
        evaluation = _evaluated(model, splits, chunk, failed, apart)
    model.eval()
    draw(folder, model, dataset, evaluation, config, chunk, failed)
    if config.task == "classify":
        with noted(failed, "accuracy"):
            assert isinstance(model, (ViTSOM, ViTClassifier))
            apart["accuracy"] = {
                half: None if part is None else accuracy(model, part, chunk) for half, part in splits._asdict().items()
            }
    with noted(failed, pretrained.FILE):
        write_atomically(folder / pretrained.FILE, pretrained.model_bytes(model))
    plain_som = None
    with noted(failed, "plain_som"):
        plain_som = evaluate_plain_som(config, dataset)
    of_a_map = isinstance(model, MapModel)
    report = {
        **{name: _finite(getattr(evaluation, name, None), name, failed) for name in METRIC_NAMES},
        **apart,
        "plain_som": plain_som if of_a_map else None,
        "failed": failed,
        "backend": backend,
        **{f"{name}_per_epoch": [epoch[name] for epoch in history] for name in _parts_of_loss(history)},
        "seconds_per_epoch": [epoch["seconds"] for epoch in history],
        "threads": torch.get_num_threads(),
        "dataset": {"name": dataset.name, "images": list(dataset.pixels.shape), "classes": list(dataset.classes)},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "config": asdict(config),
        "versions": {
            "vitsom_fast": vitsom_fast.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    with noted(failed, PAGE):
        write_atomically(folder / PAGE, page(report, PICTURES, folder))
    write_atomically(folder / METRICS, json.dumps(report, indent=2, allow_nan=False).encode())
    return report


def _evaluated(model: MapModel, splits: Splits, chunk: int, failed: dict[str, str], apart: dict[str, Any]) -> Evaluation | None:
    """The evaluation of a map, None where it failed; what a test half says goes into ``apart``."""
    dataset, evaluation = splits.train, None
    with noted(failed, "evaluation"):
        evaluation = evaluate(model, dataset, chunk)
        if dataset.labels is not None:
            model.unit_classes = class_of_units(evaluation.bmu, dataset.labels, model.som.grid.num_prototypes)
    if splits.test is not None and model.unit_classes is not None:
        with noted(failed, "held_out"):
            apart["held_out"] = held_out(model.unit_classes, evaluate(model, splits.test, chunk).bmu, splits.test.labels)
    return evaluation


def _parts_of_loss(history: list[dict[str, Any]]) -> list[str]:
    return [name for name in (history[0] if history else {}) if name == "loss" or name.endswith("_loss")]


def _finite(value: float | None, name: str, failed: dict[str, str]) -> float | None:
    """The value, or None where it is no finite number, which JSON does not know."""
    if value is None or math.isfinite(value):
        return value
    failed[name] = f"it is {value}: the training diverged, try a lower lr"
    return None

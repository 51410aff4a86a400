"""What a finished run leaves behind: metrics.json and the pictures of its map."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import vitsom_fast
from vitsom_fast import metrics, plotting
from vitsom_fast.atomic import write_atomically
from vitsom_fast.models import ViTSOM
from vitsom_fast.training.config import TrainConfig
from vitsom_fast.training.data import Dataset
from vitsom_fast.training.evaluate import evaluate, evaluate_plain_som
from vitsom_fast.training.files import METRICS
from vitsom_fast.training.messages import one_line

METRIC_NAMES = ("purity", "nmi", "quantization_error", "topographic_error")
PICTURES = ("prototypes.png", "u_matrix.png", "hit_map.png")


def write_report(
    folder: Path, model: ViTSOM, dataset: Dataset, config: TrainConfig, backend: str, history: list[dict[str, Any]]
) -> dict[str, Any]:
    """Evaluate a model and write ``prototypes.png``, ``u_matrix.png``, ``hit_map.png`` and, last, ``metrics.json``.

    A part that fails, for want of memory say, costs no more than itself: its number is null or its picture not there, and
    ``failed`` says why. The training before it may have taken days.

    Args:
        backend: the backend that ``config.backend`` stands for here.
        history: of ``fit``.

    Returns:
        What ``metrics.json`` holds.
    """
    failed: dict[str, str] = {}
    grid, chunk = model.som.grid, min(config.batch_size, 512)  # what fitted into memory in training fits now
    evaluation = None
    with _noted(failed, "evaluation"):
        evaluation = evaluate(model, dataset, chunk)
    with _noted(failed, PICTURES[0]):
        _save_figure(folder / PICTURES[0], plotting.plot_prototypes(model.decode_prototypes(chunk).cpu(), grid))
    with _noted(failed, PICTURES[1]):
        _save_figure(folder / PICTURES[1], plotting.plot_u_matrix(metrics.u_matrix(model.som.prototypes, grid), grid))
    with _noted(failed, PICTURES[2]):
        if evaluation is None:
            raise RuntimeError("it shows the evaluation, which failed")
        figure = plotting.plot_hit_map(evaluation.bmu, grid, labels=dataset.labels, classes=dataset.classes)
        _save_figure(folder / PICTURES[2], figure)
    plain_som = None
    with _noted(failed, "plain_som"):
        plain_som = evaluate_plain_som(config, dataset)
    report = {
        **{name: _finite(getattr(evaluation, name, None), name, failed) for name in METRIC_NAMES},
        "plain_som": plain_som,
        "failed": failed,
        "backend": backend,
        "loss_per_epoch": [epoch["loss"] for epoch in history],
        "reconstruction_loss_per_epoch": [epoch["reconstruction_loss"] for epoch in history],
        "som_loss_per_epoch": [epoch["som_loss"] for epoch in history],
        "seconds_per_epoch": [epoch["seconds"] for epoch in history],
        "threads": torch.get_num_threads(),
        "dataset": {"name": dataset.name, "images": list(dataset.images.shape), "classes": list(dataset.classes)},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "config": asdict(config),
        "versions": {
            "vitsom_fast": vitsom_fast.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    write_atomically(folder / METRICS, json.dumps(report, indent=2, allow_nan=False).encode())
    return report


@contextmanager
def _noted(failed: dict[str, str], part: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, the rest of the report is worth having
        failed[part] = one_line(error)


def _finite(value: float | None, name: str, failed: dict[str, str]) -> float | None:
    """The value, or None where it is no finite number, which JSON does not know."""
    if value is None or math.isfinite(value):
        return value
    failed[name] = f"it is {value}: the training diverged, try a lower lr"
    return None


def _save_figure(path: Path, figure: Figure) -> None:
    picture = BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())

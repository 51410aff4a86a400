"""What a finished run leaves behind: metrics.json and the pictures of its map."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import vitsom_fast
from vitsom_fast import metrics, plotting
from vitsom_fast.models import ViTSOM
from vitsom_fast.training.config import TrainConfig
from vitsom_fast.training.data import Dataset
from vitsom_fast.training.evaluate import evaluate, evaluate_plain_som
from vitsom_fast.training.files import METRICS, write_atomically


def write_report(
    folder: Path, model: ViTSOM, dataset: Dataset, config: TrainConfig, backend: str, history: list[dict[str, Any]]
) -> dict[str, Any]:
    """Evaluate a model and write ``prototypes.png``, ``u_matrix.png``, ``hit_map.png`` and, last, ``metrics.json``.

    Args:
        backend: the backend that ``config.backend`` stands for here.
        history: of ``fit``.

    Returns:
        What ``metrics.json`` holds.
    """
    evaluation = evaluate(model, dataset)
    grid = model.som.grid
    _save_figure(folder / "prototypes.png", plotting.plot_prototypes(model.decode_prototypes().cpu(), grid))
    _save_figure(folder / "u_matrix.png", plotting.plot_u_matrix(metrics.u_matrix(model.som.prototypes, grid), grid))
    _save_figure(
        folder / "hit_map.png", plotting.plot_hit_map(evaluation.bmu, grid, labels=dataset.labels, classes=dataset.classes)
    )
    report = {
        "purity": evaluation.purity,
        "nmi": evaluation.nmi,
        "quantization_error": evaluation.quantization_error,
        "topographic_error": evaluation.topographic_error,
        "plain_som": evaluate_plain_som(config, dataset),
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
    write_atomically(folder / METRICS, json.dumps(report, indent=2).encode())
    return report


def _save_figure(path: Path, figure: Figure) -> None:
    picture = BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())

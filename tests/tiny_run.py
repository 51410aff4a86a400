"""A training run of a fraction of a second, for the tests of training, resuming and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from vitsom_fast import plotting, sample_plots
from vitsom_fast.training import TrainConfig

SETTINGS: dict[str, Any] = {
    "grid": (3, 4),
    "epochs": 4,
    "batch_size": 16,
    "lr": 0.1,
    "width": 8,
    "depth": 1,
    "decoder_width": 4,
    "threads": 1,
}


def write_dataset(folder: Path) -> Path:
    """50 images of 4 x 6 pixels: one of three patterns, which is the label, and noise."""
    random = np.random.default_rng(0)
    labels = np.arange(50) % 3
    images = 0.8 * random.random((3, 4, 6))[labels] + 0.2 * random.random((50, 4, 6))
    path = folder / "tiny.npz"
    np.savez(path, images=images, labels=np.array(["ant", "bee", "cat"])[labels])
    return path


def tiny_config(folder: Path, **settings: Any) -> TrainConfig:
    return TrainConfig(dataset=str(write_dataset(folder)), **{**SETTINGS, **settings})


def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty pictures instead of real ones, which would take most of a tiny run's time."""
    names = {plotting: ("plot_prototypes", "plot_u_matrix", "plot_hit_map", "plot_class_map", "plot_component_planes")}
    names[sample_plots] = ("plot_embedding", "plot_attention")
    for module, inside in names.items():
        for name in inside:
            monkeypatch.setattr(module, name, lambda *_args, **_kwargs: Figure(figsize=(0.1, 0.1)))


def lasting(report: dict[str, Any]) -> dict[str, Any]:
    """What two equal runs report equally: all but the seconds."""
    return {name: value for name, value in report.items() if name != "seconds_per_epoch"}

"""Whole settings by name: the published presets, the published rivals, and our own."""

from __future__ import annotations

from typing import Any

from vitsom_fast.models.presets import PRESETS, Preset
from vitsom_fast.training.config import TrainConfig

# Where the data set of a preset is that has another name, or must be given.
_DATASETS = {"flowers-17": "flowers-17.npz", "medmnist": "pathmnist.npz"}

_SHARED: dict[str, Any] = {"dataset": "digits-affine", "batch_size": 128, "epochs": 20, "t_min": 0.2, "refit": 20}
_VIT: dict[str, Any] = {
    "model": "vit-som",
    "patch": 4,
    "kernel": 8,
    "width": 64,
    "depth": 2,
    "heads": 4,
    "decoder_width": 16,
    "decoder_depth": 1,
}
_CONSISTENT: dict[str, Any] = {"latent_dim": 32, "consistency": 0.5, "gamma": 0.1, "prototypes": "ema"}
_AS_CONFIGURED: dict[str, Any] = {
    "batch_size": 128,
    "epochs": 60,
    "lr": 2e-3,  # 1e-3 for batches of 128
    "weight_decay": 0.0,
    "reconstruction_beta": 0.0,
    "prototype_lr_scale": 1.0,
    "prototype_schedule": "cosine",
    "gamma": 0.001,
    "t_min": 0.1,
    "latent_dim": 10,
    "grid": (8, 8),
}

_RECIPES: dict[str, dict[str, Any]] = {
    "consistency": {**_SHARED, **_VIT, **_CONSISTENT, "latent": "neck", "lr": 1e-2},
    "desom-consistency": {**_SHARED, **_CONSISTENT, "model": "desom", "lr": 2e-3},
    "desom": {**_AS_CONFIGURED, "model": "desom", "t_max": 8.0},
    "desom-2019": {
        **_AS_CONFIGURED,
        "model": "desom",
        "t_max": 10.0,
        "distance": "sqeuclidean",
        "neighborhood": "manhattan_gaussian",
        "reduction": "batchmean",
        "squared_error": True,
    },
    "som-vae": {**_AS_CONFIGURED, "model": "som-vae", "latent_dim": 64, "squared_error": True, "distance": "sqeuclidean"},
}

NAMES = (*PRESETS, *_RECIPES)


def recipe(name: str, **changes: Any) -> TrainConfig:
    """The settings of that name.

    Args:
        name: of a published preset ("mnist", "cifar-10", ...); "desom", as the paper's code configures it, or "desom-2019", as
            first published; "som-vae"; or ours: "consistency", a ViT-SOM with a neck and a term between two views, and
            "desom-consistency", its rival.
        changes: settings to be others.

    Raises:
        TypeError, ValueError: there is no such name, or a setting that is none or out of its range.
    """
    if name in PRESETS:
        return TrainConfig(**{**_published(name, PRESETS[name]), **changes})
    if name not in _RECIPES:
        raise ValueError(f"preset must be one of {NAMES}, got {name!r}")
    return TrainConfig(**{**_RECIPES[name], **changes})


def _published(name: str, preset: Preset) -> dict[str, Any]:
    spec = preset.spec
    sizes = ("grid", "patch", "width", "depth", "heads", "mlp_ratio", "decoder_width", "decoder_depth", "latent", "drop_path")
    return {
        "dataset": _DATASETS.get(name, name),
        "model": spec.kind,
        "task": "classify" if spec.num_classes else "cluster",
        **{size: getattr(spec, size) for size in sizes},
        "label_smoothing": spec.label_smoothing if spec.num_classes else 0.0,
        "image_size": spec.image_shape[1],
        "augmentation": "classification" if spec.num_classes else "none",
        "reconstruction_beta": 0.0,
        "epochs": preset.epochs,
        "batch_size": preset.batch_size,
        "gamma": preset.gamma,
        "t_max": float(preset.t_max),
        "t_min": preset.t_min,
        "lr": preset.lr_per_256,
        "warmup": preset.warmup_epochs / preset.epochs,
        "weight_decay": preset.weight_decay,
        "min_lr_factor": preset.min_lr_factor,
        "lr_changes": "epoch",
        "prototype_lr_scale": 1.0,
        "prototype_schedule": "cosine",
    }

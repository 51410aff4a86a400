"""The model and the optimizer that a config asks for."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import nn

from vitsom_fast.data import Dataset
from vitsom_fast.models import MapModel, ModelSpec, ViTClassifier, build
from vitsom_fast.optim import param_groups
from vitsom_fast.training.config import TrainConfig


def spec_of(config: TrainConfig, dataset: Dataset) -> ModelSpec:
    """The model that a config asks for, for such images.

    Raises:
        ValueError: the task is to classify, and the images have no labels.
    """
    classes = len(dataset.classes) if config.task == "classify" else 0
    if config.task == "classify" and not classes:
        raise ValueError(f"dataset {config.dataset!r} must have labels for the task 'classify', got none")
    shared = {setting.name for setting in fields(ModelSpec)} & {setting.name for setting in fields(TrainConfig)}
    return ModelSpec(
        kind=config.model,
        image_shape=dataset.image_shape,
        num_classes=classes,
        # A similarity of directions needs none, but a decoder that is to know a prototype by its direction does.
        normalize=config.consistency > 0,
        **{name: getattr(config, name) for name in shared},
    )


def build_model(config: TrainConfig, dataset: Dataset) -> MapModel | ViTClassifier:
    """An untrained model for such images; its weights come from PyTorch's random numbers."""
    model = build(spec_of(config, dataset), config.backend)
    if config.compile:
        for name in ("encoder", "decoder"):
            if isinstance(part := getattr(model.autoencoder, name, None), nn.Module):
                part.compile(dynamic=False)
    return model


def build_optimizer(model: MapModel | ViTClassifier, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW of ``param_groups``, but for what the loss never reaches; ``scale`` is a group's learning rate over that of the
    schedule, ``of_prototypes`` says whose it is."""
    som = nn.Module() if model.som is None else model.som
    groups = param_groups(
        model,
        som,  # type: ignore[arg-type]
        config.lr,
        weight_decay=config.weight_decay,
        prototype_lr_scale=config.prototype_lr_scale,
    )
    idle = {id(parameter) for parameter in model.idle_parameters()}
    for group in groups:
        group["params"] = [p for p in group["params"] if p.requires_grad and id(p) not in idle]
    return torch.optim.AdamW(
        [
            {**group, "scale": group["lr"] / config.lr, "of_prototypes": index == len(groups) - 1}
            for index, group in enumerate(groups)
        ],
        fused=True,  # one pass over 5 to 50 million prototypes in place of eight
    )

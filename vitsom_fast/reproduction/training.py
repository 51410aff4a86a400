"""Training a contender for as long as its budget allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from vitsom_fast.data import Dataset
from vitsom_fast.models import MapBank, MapModel, ViTClassifier, make_som
from vitsom_fast.progress import progress_bar
from vitsom_fast.reproduction.memory import peak_megabytes
from vitsom_fast.training import TrainConfig
from vitsom_fast.training.build import build_model, build_optimizer
from vitsom_fast.training.loop import train_epoch
from vitsom_fast.training.refit import refit

_TIMED_STEPS = 4


class Trained(NamedTuple):
    """A trained model, and what that took."""

    model: Any
    seconds: float
    megabytes: float | None


def epochs_within(config: TrainConfig, dataset: Dataset, grids: Sequence[tuple[int, int]], seconds: float) -> int:
    """How many epochs fit into a time here, by that of a few steps; 1 at least, and no more than the config has."""
    few = dataset.part(torch.arange(min(len(dataset), _TIMED_STEPS * config.batch_size), device="cpu"))
    with torch.random.fork_rng(devices=[]):
        model, optimizer, config = _prepared(replace(config, epochs=2), few, grids)
        there = few.to(torch.device(config.device))
        train_epoch(model, optimizer, there, config, 0)  # the first steps make what the others find made
        taken = train_epoch(model, optimizer, there, config, 1)["seconds"]
    return max(1, int(seconds / (taken / len(few) * len(dataset))))


def train(config: TrainConfig, dataset: Dataset, grids: Sequence[tuple[int, int]] = (), *, progress: bool = True) -> Trained:
    """Train on the images with maps of these sizes on one encoder, the largest first; none: as the config says."""
    device = torch.device(config.device)
    with torch.random.fork_rng(devices=[]), peak_megabytes(device) as peak:
        torch.manual_seed(config.seed)
        model, optimizer, config = _prepared(config, dataset, grids)
        there = dataset.to(device)
        began = time.perf_counter()
        with progress_bar(config.epochs, 0, shown=progress) as advance:
            for epoch in range(config.epochs):
                record = train_epoch(model, optimizer, there, config, epoch)
                advance({name: record[name] for name in ("loss", "temperature")})
        refit(model, there, config)
        return Trained(model.eval(), time.perf_counter() - began, peak())


def _prepared(
    config: TrainConfig, dataset: Dataset, grids: Sequence[tuple[int, int]]
) -> tuple[MapModel | ViTClassifier, torch.optim.Optimizer, TrainConfig]:
    if grids:
        config = replace(config, grid=grids[0])
    model = build_model(config, dataset)
    if len(grids) > 1 and isinstance(model, MapModel) and model.spec is not None:
        spec, dim = model.spec, model.som.dim
        others = [make_som(replace(spec, grid=grid), dim, config.backend) for grid in grids[1:]]
        model.som = MapBank([model.som, *others])  # type: ignore[assignment]
    model = model.to(config.device)
    return model, build_optimizer(model, config), config


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    began = time.perf_counter()
    found = call()
    return found, time.perf_counter() - began

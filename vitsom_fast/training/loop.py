"""One pass over the images, for any model that says what its loss is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitsom_fast.data import Dataset
from vitsom_fast.models import Model, Step
from vitsom_fast.models.presets import OF_CLASSIFICATION
from vitsom_fast.schedules import exponential_decay, linear_ramp
from vitsom_fast.training.augmentation import augmented
from vitsom_fast.training.config import TrainConfig
from vitsom_fast.training.rates import set_learning_rates

_MAX_GRADIENT_NORM = 1.0


def train_epoch(
    model: Model, optimizer: torch.optim.Optimizer, dataset: Dataset, config: TrainConfig, epoch: int
) -> dict[str, Any]:
    """One pass over the images, which are where the model is; returns the mean of its loss and of the parts of that, its last
    temperature and gamma, and its seconds."""
    began = time.perf_counter()
    model.train()
    device = dataset.pixels.device
    # Batches of equal size, but for one: a small last one would count as much as the others.
    batches = sample_order(len(dataset), config.seed, epoch).to(device).tensor_split(-(-len(dataset) // config.batch_size))
    total_steps = config.epochs * len(batches)
    temperature = exponential_decay(config.first_temperature, config.t_min, total_steps)
    gamma = linear_ramp(config.gamma, max(1, total_steps // 2))
    nothing = torch.zeros((), dtype=torch.float64, device=device)
    totals: dict[str, Tensor] = {}
    for step, batch in enumerate(batches, start=epoch * len(batches)):
        set_learning_rates(optimizer, config, step, len(batches))
        optimizer.zero_grad()
        for part in batch.tensor_split(min(config.accumulate, len(batch))):
            images, labels = dataset.batch(part)
            if config.augmentation == "classification":
                images = augmented(images, OF_CLASSIFICATION)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.amp == "bf16"):
                losses: dict[str, Tensor] = model.losses(images, labels, Step(temperature(step), gamma(step)))
            with torch.autograd.set_multithreading_enabled(False):  # on an H200 a step's second thread took 0.2 to 0.3 ms
                (losses["loss"] * (len(part) / len(batch)) if len(part) < len(batch) else losses["loss"]).backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, nothing) + loss.detach() * len(part)
        nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
        optimizer.step()
        model.after_step()
    means = (torch.stack(list(totals.values())) / len(dataset)).tolist()
    return {
        **dict(zip(totals, means, strict=True)),
        "temperature": temperature(step),
        "gamma": gamma(step),
        "seconds": time.perf_counter() - began,
    }


def sample_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order (count,) of the samples in an epoch, from the seed and the epoch alone, so that any epoch can be redone."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(count))

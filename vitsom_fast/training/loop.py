"""One pass over the images, for any model that says what its loss is."""

from __future__ import annotations

import time
from collections.abc import Callable
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
from vitsom_fast.training.processes import ALONE, Processes, apart
from vitsom_fast.training.rates import set_learning_rates

_MAX_GRADIENT_NORM = 1.0


def train_epoch(
    model: Model,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    config: TrainConfig,
    epoch: int,
    processes: Processes = ALONE,
    losses_of: Callable[..., dict[str, Tensor]] | None = None,
) -> dict[str, Any]:
    """One pass over the images, which are where the model is; returns the mean of its loss and of the parts of that, its last
    temperature and gamma, and its seconds.

    Args:
        processes: those that share every batch.
        losses_of: in place of ``model.losses``, where gradients are to be means over processes.
    """
    began = time.perf_counter()
    model.train()
    losses_of = losses_of or model.losses
    if processes.size > 1:  # of each epoch and process their own, so that a resumed run has the same
        torch.manual_seed(int(np.random.SeedSequence([config.seed, epoch, processes.rank]).generate_state(1)[0]))
    device = dataset.pixels.device
    # Batches of equal size, but for one: a small last one would count as much as the others.
    count = number_of_batches(len(dataset), config.batch_size)
    batches = sample_order(len(dataset), config.seed, epoch).to(device).tensor_split(count)
    total_steps = config.epochs * len(batches)
    temperature = exponential_decay(config.first_temperature, config.t_min, total_steps)
    gamma = linear_ramp(config.gamma, max(1, total_steps // 2))
    nothing = torch.zeros((), dtype=torch.float64, device=device)
    totals: dict[str, Tensor] = {}
    for step, batch in enumerate(batches, start=epoch * len(batches)):
        set_learning_rates(optimizer, config, step, len(batches))
        optimizer.zero_grad()
        # As many parts in every process, for as many calls of the others.
        parts = processes.part_of(batch).tensor_split(min(config.accumulate, max(1, len(batch) // processes.size)))
        for number, part in enumerate(parts, start=1):
            images, labels = dataset.batch(part)
            if config.augmentation == "classification":
                images = augmented(images, OF_CLASSIFICATION)
            with apart(losses_of, number < len(parts)):
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.amp == "bf16"):
                    losses = losses_of(images, labels, Step(temperature(step), gamma(step)))
                with torch.autograd.set_multithreading_enabled(False):  # on an H200 a step's second thread took 0.2 to 0.3 ms
                    share = len(part) * processes.size / len(batch)
                    (losses["loss"] if share == 1 else losses["loss"] * share).backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, nothing) + loss.detach() * len(part)
        nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
        optimizer.step()
        model.after_step()
    means = (processes.total(torch.stack(list(totals.values()))) / len(dataset)).tolist()
    return {
        **dict(zip(totals, means, strict=True)),
        "temperature": temperature(step),
        "gamma": gamma(step),
        "seconds": time.perf_counter() - began,
    }


def number_of_batches(count: int, batch_size: int) -> int:
    """Of an epoch of ``count`` samples; the smallest has ``count`` over it, rounded down."""
    return -(-count // batch_size)


def sample_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order (count,) of the samples in an epoch, from the seed and the epoch alone, so that any epoch can be redone."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(count))

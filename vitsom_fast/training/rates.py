"""Learning rates over a run: the network's, and the prototypes' own."""

from __future__ import annotations

import math

import torch

from vitsom_fast.training.config import TrainConfig

_CONSTANT_FOR = 0.9  # of the steps


def learning_rate_factor(step: int, total_steps: int, warmup: float, least: float = 1e-5) -> float:
    """The paper's schedule: the lower of a linear warm-up and a cosine, never below ``least``. Steps may be those of the
    optimizer or, as published, epochs."""
    rise = (step + 1) / max(1.0, warmup * total_steps)
    fall = 0.5 * (1 + math.cos(math.pi * step / total_steps))
    return max(least, min(rise, fall))


def constant_rate_factor(step: int, total_steps: int, warmup: float, least: float = 1e-5) -> float:
    """A linear warm-up, then 1, then a line down to nothing over the last tenth: prototypes still learn at full speed when the
    radius gets small, which is when units find their own place."""
    rise = (step + 1) / max(1.0, warmup * total_steps)
    fall = (total_steps - step) / max(1.0, (1 - _CONSTANT_FOR) * total_steps)
    return max(least, min(rise, 1.0, fall))


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, steps_per_epoch: int) -> None:
    """Those of a step; the groups of ``build_optimizer`` say which are prototypes, and their ``scale``."""
    if config.lr_changes == "epoch":
        now, total = step // steps_per_epoch, config.epochs
    else:
        now, total = step, config.epochs * steps_per_epoch
    peak = config.lr * config.batch_size / 256
    network = peak * learning_rate_factor(now, total, config.warmup, config.min_lr_factor)
    prototypes = network
    if config.prototype_schedule == "constant":
        prototypes = peak * constant_rate_factor(now, total, config.warmup, config.min_lr_factor)
    for group in optimizer.param_groups:
        group["lr"] = (prototypes if group["of_prototypes"] else network) * group["scale"]

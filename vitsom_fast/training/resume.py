"""Going on with a run: its checkpoint, checked against what is to be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitsom_fast.training.checkpoint import Checkpoint, load_checkpoint
from vitsom_fast.training.config import TrainConfig


def resume_from(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, fingerprint: str
) -> list[dict[str, Any]]:
    """Put a checkpoint's state into a model and an optimizer; returns its history.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of a run with other settings or on other images; the message names it.
    """
    checkpoint = load_checkpoint(path)
    _check_same_run(path, checkpoint, config, fingerprint)
    try:
        checkpoint.restore(model, optimizer)
    except ValueError as error:
        raise ValueError(f"checkpoint {str(path)!r} cannot be resumed: {error}") from error
    return checkpoint.history


def _check_same_run(path: Path, checkpoint: Checkpoint, config: TrainConfig, fingerprint: str) -> None:
    if different := config.differences(checkpoint.config):
        settings = ", ".join(
            f"{name} {getattr(config, name)!r} (there {getattr(checkpoint.config, name)!r})" for name in different
        )
        raise ValueError(f"checkpoint {str(path)!r} is of a run with other settings: {settings}")
    if checkpoint.fingerprint != fingerprint:
        raise ValueError(
            f"checkpoint {str(path)!r} is of a run on other images, those of {checkpoint.config.dataset!r} then: the data set"
            f" {config.dataset!r} has changed or is another one"
        )

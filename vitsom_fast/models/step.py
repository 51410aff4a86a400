"""What a training loop and a model say to each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Step(NamedTuple):
    """Where the schedules are at a step: the neighborhood radius T in units of the grid, and the weight of the SOM loss."""

    temperature: float
    gamma: float


class Model(nn.Module, ABC):
    """A model says what its loss is; the loop does the rest."""

    @abstractmethod
    def losses(self, images: Tensor, labels: Tensor | None, step: Step) -> dict[str, Tensor]:
        """ "loss" is what to minimise; what else there is are its parts, unweighted, each named ``..._loss``. All are 0-dim.

        Args:
            images: (B, C, H, W) floats in [0, 1].
            labels: (B,) int64, -1 for an image without one; None where none has one.
        """

    def after_step(self) -> None:
        """Called once the optimizer has made its step."""

"""What a training loop and a model say to each other."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Step(NamedTuple):
    """Where the schedules are at a step: the neighborhood radius T in units of the grid, and the weight of the SOM loss."""

    temperature: float
    gamma: float


class Model(Protocol):
    """A model says what its loss is; the loop does the rest."""

    def losses(self, images: Tensor, labels: Tensor | None, step: Step) -> dict[str, Tensor]:
        """ "loss" is what to minimise; what else there is are its parts, unweighted, each named ``..._loss``. All are 0-dim.

        Args:
            images: (B, C, H, W) floats in [0, 1].
            labels: (B,) int64, -1 for an image without one; None where none has one.
        """

    def after_step(self) -> None:
        """Called once the optimizer has made its step."""

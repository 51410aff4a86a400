"""The check of a result where it is: in fp64 on the device, all rows, before its time is taken."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness.correctness import GRADIENT_TOLERANCE, LOSS_TOLERANCE, LOSS_TOLERANCE_OF_WEIGHT, Truth, WrongResult
from benchmarks.harness.workloads import Inputs


class DeviceTruth(Truth):
    """The reference in fp64 on the device of the inputs; gradients in 16 bits may be off by their own rounding, too."""

    def __init__(self, inputs: Inputs) -> None:
        with inputs.z.device:
            super().__init__(inputs)
        dtype = inputs.z.dtype
        self._gradient_tolerance = GRADIENT_TOLERANCE + (0.0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2)

    def check_step(self, loss: Tensor, bmu: Tensor, grad_z: Tensor, grad_prototypes: Tensor) -> None:
        self.check_search(bmu)
        self._follow(bmu)
        error = (loss.double() - self._loss).abs()
        allowed = LOSS_TOLERANCE * self._loss.abs() + LOSS_TOLERANCE_OF_WEIGHT * self._mean_weight
        if not error <= allowed:
            raise WrongResult(f"loss {loss:.9g} must be {self._loss:.9g} within {allowed:.3g}, it is {error:.3g} off")
        for name, grad, right in (
            ("z", grad_z, self._grad_z),
            ("prototypes", grad_prototypes, self._grad_prototypes),
        ):
            relative = (grad.double() - right).norm() / right.norm()
            if not relative <= self._gradient_tolerance:
                raise WrongResult(f"gradient for {name} is {relative:.3g} off, allowed {self._gradient_tolerance:.1e}")


def check_repeats(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> None:
    """The same inputs give the same bits.

    Raises:
        WrongResult: they do not.
    """
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        if not torch.equal(a, b):
            raise WrongResult(f"result {index} is not the same in a second run, by up to {(a - b).abs().max():.3g}")


def poison(device: torch.device, bytes_wanted: int) -> None:
    """Leaves NaN in memory that is handed out next: an output that is not written shows."""
    torch.full((bytes_wanted // 4,), torch.nan, device=device)

"""How many of its units a trained map uses: a collapsed one has a perfect quantization error, and nobody looks further."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from vitsom_fast.backends.memory import is_plain

# Samples a unit to look at before a verdict, and the share of units that a map in order uses at least: trained well, 0.5 to 1.
_SAMPLES = 4
_FEW = 0.1

# Above this radius prototypes are alike on purpose.
_LARGEST_TEMPERATURE = 2.0


class UsageWatch:
    """Counts the units that searches find, until there is a verdict; then it costs nothing any more. Only on a CPU: elsewhere
    counting would wait for the device."""

    def __init__(self, num_prototypes: int) -> None:
        self.temperature = 0.0  # of the last training step
        self._num_prototypes = num_prototypes
        self._is_used: Tensor | None = None
        self._samples = 0
        self._is_done = False

    def look_at(self, bmu: Tensor) -> None:
        """Take note of the BMUs (B,) of a search; a UserWarning, once, where few units win all samples.

        Searches between steps at a large radius do not count.
        """
        if self._is_done or torch.compiler.is_compiling() or self.temperature > _LARGEST_TEMPERATURE:
            return
        if bmu.device.type != "cpu" or not is_plain(bmu):
            return
        if self._is_used is None:
            self._is_used = torch.zeros(self._num_prototypes, dtype=torch.bool, device="cpu")
        self._is_used[bmu] = True
        self._samples += bmu.shape[0]
        if self._samples < _SAMPLES * self._num_prototypes:
            return
        self._is_done, used = True, int(self._is_used.sum())
        self._is_used = None
        if used < _FEW * self._num_prototypes:
            warnings.warn(
                f"{used} of the {self._num_prototypes} units of the map win all of {self._samples} samples. Let the prototypes"
                " learn faster than the encoder and without weight decay (vitsom_fast.param_groups), start at a larger"
                " temperature, or take a smaller map.",
                stacklevel=4,
            )
